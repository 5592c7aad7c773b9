//! Against apache-avro: what it writes we read, and what we write it reads.

use crate::support::{Generator, assert_row, bare, decode, records_of, rows_of};
use apache_avro::{Schema, from_avro_datum, to_avro_datum};
use millstream_core::Encoder;
use millstream_formats::avro::{AvroEncoder, to_json};
use proptest::prelude::*;

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
}
