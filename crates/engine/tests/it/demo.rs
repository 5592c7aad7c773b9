//! The demo's pipelines on its real data, once through.

use crate::harness::{Bench, files};
use std::path::Path;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn every_line_is_out_filtered_or_dead() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/demo");
    let names = ["enrich.yaml", "access.yaml", "cran.yaml"];
    bench.start(&files(&names.map(|name| examples.join(name)))).await;
    bench.idle().await;
    assert!(bench.engine.drain(Duration::from_secs(20)).await);

    let access = bench.report("access");
    assert_eq!((access.rows_in, access.rows_out, access.rows_dead), (10_000, 9_999, 1));
    let cran = bench.report("cran");
    let counted = (cran.rows_in, cran.rows_out, cran.rows_filtered, cran.rows_dead);
    assert_eq!(counted, (45_014, 45_008, 6, 0));
    let enrich = bench.report("enrich");
    assert_eq!(enrich.rows_in, 9_999 + 45_008);
    assert_eq!(enrich.rows_in, enrich.rows_out + enrich.rows_filtered + enrich.rows_dead);
    assert_eq!(enrich.rows_dead, 0);
    for lookup in &enrich.lookups {
        let ratio = lookup.found as f64 / lookup.asked as f64;
        assert!(ratio >= 0.9, "{}: {ratio}", lookup.name);
    }

    let enriched: usize = bench.records("enriched").iter().map(|r| r.len()).sum();
    assert_eq!(enriched as u64, enrich.rows_out);
    let letters = bench.letters("navigation.dead");
    assert_eq!(letters.len(), 1);
    assert!(letters[0].reason.contains("does not match"), "{}", letters[0].reason);
    let table = bench.home.tables.table("navigation_by_uid").unwrap();
    let rows: usize =
        table.scan(Default::default()).unwrap().map(|batch| batch.unwrap().num_rows()).sum();
    assert!(rows > 0 && rows as u64 <= enrich.rows_out);
}
