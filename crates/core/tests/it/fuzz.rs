//! Anything at all as headers of a record, and as the name of a type.

use millstream_core::{Header, Headers, types};
use millstream_testkit::fuzz;

#[test]
fn fuzz_headers() {
    let headers = [
        Header { key: b"trace", value: Some(b"0af7651916cd43dd8448eb211c80319c") },
        Header { key: b"none", value: None },
        Header { key: b"", value: Some(b"") },
    ];
    let corpus: Vec<Vec<u8>> = (0..=headers.len())
        .map(|count| {
            let mut bytes = Vec::new();
            Headers::encode(headers[..count].iter().copied(), &mut bytes);
            bytes
        })
        .collect();
    fuzz::run("fuzz_headers", &corpus, |bytes| {
        let read: Vec<Header<'_>> = Headers(bytes).iter().collect();
        assert!(read.len() <= bytes.len(), "every header takes bytes");
        let mut again = Vec::new();
        Headers::encode(read.iter().copied(), &mut again);
        assert_eq!(Headers(&again).iter().collect::<Vec<_>>(), read);
    });
}

#[test]
fn fuzz_types() {
    let corpus = [
        "boolean",
        "decimal(10, 2)",
        "string[][]",
        "map<double>",
        "struct<id int, tags string[], more: struct<a ip, b map<timestamp_us[]>>>",
    ];
    let words = ["int", "bigint", "time", "date", "bytes", "[]", "[", "]", "map<", "struct<a "];
    fuzz::run_text("fuzz_types", &corpus, &words, |text| {
        if let Ok(data_type) = types::parse(text) {
            let name = types::name(&data_type);
            assert_eq!(types::parse(&name).unwrap(), data_type, "{name}");
        }
    });
}
