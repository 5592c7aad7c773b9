//! Against apache-avro: what it writes we read, and what we write it reads.

use crate::support::{Generator, assert_row, bare, decode, records_of, rows_of};
use apache_avro::{Schema, from_avro_datum, to_avro_datum};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, StructArray};
use arrow_schema::DataType;
use millstream_core::Encoder;
use millstream_formats::avro::{AvroEncoder, to_json};
use proptest::prelude::*;
use std::sync::Arc;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn values_go_there_and_back(seed: u64) {
        let mut generator = Generator::new(seed);
        let text = generator.record(3).to_string();
        let schema = Schema::parse_str(&text).unwrap();
        let values: Vec<_> = (0..20).map(|_| generator.value(&schema)).collect();
        let bytes: Vec<_> =
            values.iter().map(|value| to_avro_datum(&schema, value.clone()).unwrap()).collect();

        let decoded = decode(&mut bare(&text), &records_of(&bytes));
        prop_assert!(decoded.rejected.is_empty(), "{:?} {}", decoded.rejected, text);
        let rows = &decoded.batch.rows;
        for (row, value) in values.iter().enumerate() {
            assert_row(value, rows, row);
        }

        let mut encoder = AvroEncoder::new(&text, None, rows.schema()).unwrap();
        let encoded = encoder.encode(rows).unwrap();
        prop_assert!(encoded.rejected.is_empty(), "{:?} {}", encoded.rejected, text);
        for (value, row) in values.iter().zip(rows_of(&encoded)) {
            let back = from_avro_datum(&schema, &mut row.as_slice(), None).unwrap();
            prop_assert_eq!(value, &back);
        }

        // What a slice of the columns encodes to is the same rows.
        let slice = encoder.encode(&rows.slice(7, 9)).unwrap();
        prop_assert_eq!(rows_of(&slice), &rows_of(&encoded)[7..16]);

        for row in &bytes {
            let shown = to_json(row, &text).unwrap();
            prop_assert!(serde_json::from_str::<serde_json::Value>(&shown).is_ok(), "{}", shown);
        }
    }

    #[test]
    fn a_few_columns_are_those_of_all(seed: u64) {
        let mut generator = Generator::new(seed);
        let text = generator.record(2);
        let schema = Schema::parse(&text).unwrap();
        let bytes: Vec<_> = (0..10)
            .map(|_| {
                let value = generator.value(&schema);
                to_avro_datum(&schema, value).unwrap()
            })
            .collect();
        let all = decode(&mut bare(&text.to_string()), &records_of(&bytes)).batch.rows;
        let fields = all.schema().fields().clone();
        let picked: Vec<usize> = (0..fields.len()).filter(|_| generator.dice.below(2) == 0).collect();
        let mut options = crate::support::options(
            millstream_formats::avro::Framing::Bare,
            &text.to_string(),
        );
        options.columns = Some(picked.iter().map(|at| fields[*at].name().clone()).collect());
        let registry = crate::support::Registry::new([] as [(u32, &str); 0]);
        let mut decoder = millstream_formats::avro::AvroDecoder::new(options, registry).unwrap();
        let some = decode(&mut decoder, &records_of(&bytes)).batch.rows;
        prop_assert_eq!(some, all.project(&picked).unwrap());
    }

    #[test]
    fn a_few_nested_fields_are_those_of_all(seed: u64) {
        let mut generator = Generator::new(seed);
        let text = generator.record(4);
        let schema = Schema::parse(&text).unwrap();
        let bytes: Vec<_> = (0..10)
            .map(|_| {
                let value = generator.value(&schema);
                to_avro_datum(&schema, value).unwrap()
            })
            .collect();
        let all = decode(&mut bare(&text.to_string()), &records_of(&bytes)).batch.rows;
        let mut paths = Vec::new();
        for _ in 0..1 + generator.dice.below(4) {
            let (mut fields, mut path) = (all.schema().fields().clone(), String::new());
            while !fields.is_empty() && (path.is_empty() || generator.dice.below(4) > 0) {
                let field = fields[generator.dice.below(fields.len())].clone();
                path = if path.is_empty() { field.name().clone() } else { format!("{path}.{}", field.name()) };
                fields = match field.data_type() {
                    DataType::Struct(fields) => fields.clone(),
                    _ => Default::default(),
                };
            }
            paths.extend((!path.is_empty()).then_some(path));
        }
        let mut options = crate::support::options(
            millstream_formats::avro::Framing::Bare,
            &text.to_string(),
        );
        options.columns = Some(paths.clone());
        let registry = crate::support::Registry::new([] as [(u32, &str); 0]);
        let mut decoder = millstream_formats::avro::AvroDecoder::new(options, registry).unwrap();
        let said = millstream_formats::avro::arrow_schema_of(&text.to_string(), &paths).unwrap();
        let decoded = decode(&mut decoder, &records_of(&bytes));
        prop_assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
        let some = decoded.batch.rows;
        prop_assert_eq!(&said, some.schema_ref());
        for (field, column) in some.schema().fields().iter().zip(some.columns()) {
            let whole = all.column_by_name(field.name()).unwrap();
            prop_assert_eq!(column, &cut_to(whole, field.data_type()), "{:?} {}", paths, text);
        }
        for path in &paths {
            let mut names = path.split('.');
            let mut data_type = some.column_by_name(names.next().unwrap()).unwrap().data_type();
            for name in names {
                let DataType::Struct(fields) = data_type else { panic!("{path} of {text}") };
                data_type = fields.find(name).unwrap().1.data_type();
            }
        }
    }
}

/// The fields of a struct that the type has.
fn cut_to(array: &ArrayRef, to: &DataType) -> ArrayRef {
    match to {
        DataType::Struct(fields) if !fields.is_empty() => {
            let array = array.as_struct();
            let child = |field: &arrow_schema::FieldRef| {
                cut_to(array.column_by_name(field.name()).unwrap(), field.data_type())
            };
            let columns = fields.iter().map(child).collect();
            Arc::new(StructArray::new(fields.clone(), columns, array.nulls().cloned()))
        }
        _ => array.clone(),
    }
}

#[test]
fn the_fields_that_nobody_names_are_not_built() {
    let text = r#"{"type":"record","name":"R","fields":[
        {"name":"id","type":"long"},
        {"name":"site","type":["null",{"type":"record","name":"S","fields":[
            {"name":"name","type":"string"},
            {"name":"geo","type":{"type":"record","name":"G","fields":[
                {"name":"lat","type":"double"},{"name":"lon","type":"double"}]}}]}]},
        {"name":"tags","type":{"type":"map","values":"string"}}]}"#;
    for (paths, shown) in [
        (&["site.name"][..], "site struct<name string>"),
        (&["site.geo.lon", "id"], "id bigint, site struct<geo struct<lon double>>"),
        (&["site.geo", "site.geo.lat"], "site struct<geo struct<lat double, lon double>>"),
        (&["site", "site.name"], "site struct<name string, geo struct<lat double, lon double>>"),
        // What is no field of a record ends a path.
        (&["tags.utm"], "tags map<string>"),
        (
            &["site.other", "site.name"],
            "site struct<name string, geo struct<lat double, lon double>>",
        ),
    ] {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let schema = millstream_formats::avro::arrow_schema_of(text, &paths).unwrap();
        let columns: Vec<_> = schema
            .fields()
            .iter()
            .map(|f| format!("{} {}", f.name(), millstream_core::types::name(f.data_type())))
            .collect();
        assert_eq!(columns.join(", "), shown);
    }
}
