//! Joins with lookups: what they are asked, and what a hit, a miss and several hits give.

use crate::support::{Memory, json, planned, rejections, rows, run, schema};
use millstream_core::{Batch, Disposition, LookupKey};
use millstream_sql::{KEY_COLUMNS, KEY_RANGE, plan};
use std::collections::BTreeMap;
use std::sync::Arc;

const INPUT: &str = "id int!, site bigint, ip string, kind string, name string";
const ROWS: &str = r#"
    {"id":1,"site":10,"ip":"10.0.0.5","kind":"a","name":"x"}
    {"id":2,"site":20,"ip":"10.0.1.9","kind":"b","name":"y"}
    {"id":3,"site":null,"ip":"bad","kind":"a","name":"z"}
    {"id":4,"site":10,"ip":"192.0.2.1","kind":"b","name":"x"}
    {"id":5,"site":99,"ip":"10.0.0.5","kind":"c","name":"w"}"#;

fn sites() -> Arc<Memory> {
    Memory::new(
        "id bigint!, kind string, name string!, owner int",
        r#"{"id":10,"kind":"a","name":"ten","owner":1}
           {"id":20,"kind":"b","name":"twenty","owner":2}
           {"id":10,"kind":"b","name":"ten b","owner":9}"#,
    )
}

fn owners() -> Arc<Memory> {
    Memory::new("id int!, mail string", r#"{"id":1,"mail":"one@x"}{"id":2,"mail":"two@x"}"#)
}

fn geo() -> Arc<Memory> {
    Memory::new(
        "start ip!, end_ ip!, country string",
        r#"{"start":"10.0.0.0","end_":"10.0.0.255","country":"AA"}
           {"start":"10.0.1.0","end_":"10.0.1.9","country":"BB"}"#,
    )
}

fn out(sql: &str, lookups: &[(&str, Arc<Memory>)]) -> (Vec<String>, Vec<String>) {
    let ran = run(sql, Batch::same(rows(&schema(INPUT), ROWS)), lookups).unwrap();
    let origins: Vec<u32> = ran.batch.origin.iter().collect();
    assert!(origins.is_sorted());
    (json(&ran.batch.rows), rejections(&ran.rejected))
}

#[test]
fn a_left_join_gives_nulls_and_several_rows() {
    let sites = sites();
    let asked = sites.asked.clone();
    let sql = "SELECT n.id, s.name FROM input n LEFT JOIN sites s ON s.id = n.site";
    let (got, _) = out(sql, &[("sites", sites)]);
    assert_eq!(
        got,
        [
            r#"{"id":1,"name":"ten"}"#,
            r#"{"id":1,"name":"ten b"}"#,
            r#"{"id":2,"name":"twenty"}"#,
            r#"{"id":3,"name":null}"#,
            r#"{"id":4,"name":"ten"}"#,
            r#"{"id":4,"name":"ten b"}"#,
            r#"{"id":5,"name":null}"#,
        ]
    );
    // Once for the batch; distinct, without the null.
    assert_eq!(*asked.lock().unwrap(), [[r#"{"id":10}"#, r#"{"id":20}"#, r#"{"id":99}"#]]);
}

#[test]
fn a_record_that_finds_too_much_is_rejected_alone() {
    let two = r#"{"id":10,"kind":"a","name":"many","owner":1}
        {"id":20,"kind":"b","name":"one","owner":2}"#;
    let shape = "id bigint!, kind string, name string!, owner int";
    let one_row = r#"{"id":2,"name":"one"}"#;
    let misses = [r#"{"id":3,"name":null}"#, r#"{"id":5,"name":null}"#];
    for (join, others) in [("JOIN", vec![]), ("LEFT JOIN", misses.to_vec())] {
        let stored = Memory::new(shape, two).with_copies(65_537);
        let sql = format!("SELECT n.id, s.name FROM input n {join} sites s ON s.id = n.site");
        let (got, rejected) = out(&sql, &[("sites", stored)]);
        assert_eq!(got, [vec![one_row], others].concat(), "{join}");
        let reason = "too_many_rows: JOIN finds more than 65536 rows for one record";
        assert_eq!(rejected, [format!("0 {reason}"), format!("3 {reason}")], "{join}");
    }
}

#[test]
fn a_join_drops_what_misses() {
    let sql = "SELECT n.id, s.name FROM input n JOIN sites s ON n.site = s.id AND s.kind = n.kind";
    let (got, _) = out(sql, &[("sites", sites())]);
    assert_eq!(
        got,
        [r#"{"id":1,"name":"ten"}"#, r#"{"id":2,"name":"twenty"}"#, r#"{"id":4,"name":"ten b"}"#]
    );
    let query = planned(sql, &schema(INPUT), &[("sites", sites())]);
    assert_eq!(query.lookups()[0].key, LookupKey::Equal(vec!["id".into(), "kind".into()]));
    assert!(!query.schema().field(1).is_nullable(), "an inner join keeps what is not null");
}

#[test]
fn a_constant_is_a_part_of_the_key() {
    let sites = sites();
    let asked = sites.asked.clone();
    let sql = "SELECT n.id, s.name FROM input n LEFT JOIN sites s \
               ON s.id = n.site AND s.kind = 'b' WHERE n.id < 3";
    let (got, _) = out(sql, &[("sites", sites)]);
    assert_eq!(got, [r#"{"id":1,"name":"ten b"}"#, r#"{"id":2,"name":"twenty"}"#]);
    assert_eq!(
        *asked.lock().unwrap(),
        [[r#"{"id":10,"kind":"b"}"#, r#"{"id":20,"kind":"b"}"#]],
        "the rows that WHERE drops are not asked for"
    );
}

#[test]
fn a_declared_key_leaves_the_rest_to_be_checked() {
    let sites = sites().with_metadata(KEY_COLUMNS, "id");
    let sql = "SELECT n.id, s.name FROM input n LEFT JOIN sites s \
               ON s.kind = 'b' AND s.id = n.site";
    let query = planned(sql, &schema(INPUT), &[("sites", sites.clone())]);
    assert_eq!(query.lookups()[0].key, LookupKey::Equal(vec!["id".into()]));
    let (got, _) = out(sql, &[("sites", sites)]);
    assert_eq!(
        got,
        [
            r#"{"id":1,"name":"ten b"}"#,
            r#"{"id":2,"name":"twenty"}"#,
            r#"{"id":3,"name":null}"#,
            r#"{"id":4,"name":"ten b"}"#,
            r#"{"id":5,"name":null}"#,
        ]
    );
}

#[test]
fn the_rest_of_on_keeps_a_left_join_left() {
    let cases: &[(&str, &[&str])] = &[
        // On what was found.
        (
            "SELECT n.id, s.name FROM input n LEFT JOIN sites s ON s.id = n.site AND s.owner > 1",
            &["1 ten b", "2 twenty", "3 null", "4 ten b", "5 null"],
        ),
        (
            "SELECT n.id, s.name FROM input n JOIN sites s ON s.id = n.site AND s.owner > 1",
            &["1 ten b", "2 twenty", "4 ten b"],
        ),
        // On the row alone.
        (
            "SELECT n.id, s.name FROM input n LEFT JOIN sites s ON s.id = n.site AND n.kind = 'b'",
            &["1 null", "2 twenty", "3 null", "4 ten", "4 ten b", "5 null"],
        ),
        (
            "SELECT n.id, s.name FROM input n JOIN sites s ON s.id = n.site AND n.kind = 'b'",
            &["2 twenty", "4 ten", "4 ten b"],
        ),
        // On both.
        (
            "SELECT n.id, s.name FROM input n LEFT JOIN sites s ON s.id = n.site AND s.owner + n.id > 4",
            &["1 ten b", "2 null", "3 null", "4 ten", "4 ten b", "5 null"],
        ),
        // Afterwards, which is another thing.
        (
            "SELECT n.id, s.name FROM input n LEFT JOIN sites s ON s.id = n.site WHERE s.owner > 1",
            &["1 ten b", "2 twenty", "4 ten b"],
        ),
        (
            "SELECT n.id, s.name FROM input n LEFT JOIN sites s ON s.id = n.site WHERE s.id IS NULL",
            &["3 null", "5 null"],
        ),
    ];
    for (sql, expected) in cases {
        let (got, rejected) = out(sql, &[("sites", sites())]);
        assert!(rejected.is_empty());
        let got: Vec<String> = got
            .iter()
            .map(|row| {
                let row: serde_json::Value = serde_json::from_str(row).unwrap();
                format!("{} {}", row["id"], row["name"].as_str().unwrap_or("null"))
            })
            .collect();
        assert_eq!(got, *expected, "{sql}");
    }
}

#[test]
fn a_range_is_looked_up_by_a_derived_key() {
    for on in [
        "try_ip(n.ip) BETWEEN g.start AND g.end_",
        "try_ip(n.ip) >= g.start AND g.end_ >= try_ip(n.ip)",
    ] {
        let geo = geo();
        let asked = geo.asked.clone();
        let sql = format!("SELECT n.id, g.country FROM input n LEFT JOIN geo g ON {on}");
        let query = planned(&sql, &schema(INPUT), &[("geo", geo.clone())]);
        let key = LookupKey::Range { start: "start".into(), end: "end_".into() };
        assert_eq!(query.lookups()[0].key, key);
        assert_eq!(query.lookups()[0].key_types.len(), 1);
        let (got, _) = out(&sql, &[("geo", geo)]);
        assert_eq!(
            got,
            [
                r#"{"id":1,"country":"AA"}"#,
                r#"{"id":2,"country":"BB"}"#,
                r#"{"id":3,"country":null}"#,
                r#"{"id":4,"country":null}"#,
                r#"{"id":5,"country":"AA"}"#,
            ]
        );
        assert_eq!(asked.lock().unwrap()[0].len(), 3, "each address once");
    }
    // An end that is not part of the range is checked on what was found.
    let sql = "SELECT n.id, g.country FROM input n JOIN geo g \
               ON try_ip(n.ip) >= g.start AND try_ip(n.ip) < g.end_";
    let (got, _) = out(sql, &[("geo", geo())]);
    assert_eq!(got, [r#"{"id":1,"country":"AA"}"#, r#"{"id":5,"country":"AA"}"#]);
}

#[test]
fn a_key_that_fails_costs_its_row() {
    let sql = "SELECT n.id, g.country FROM input n LEFT JOIN geo g \
               ON ip(n.ip) BETWEEN g.start AND g.end_";
    let (got, rejected) = out(sql, &[("geo", geo())]);
    assert_eq!(got.len(), 4);
    assert_eq!(rejected, ["2 expression: `bad` is not an IP address in `ip(n.ip)`"]);
    // A row that the ON rules out beforehand is not evaluated further.
    let sql = "SELECT n.id, g.country FROM input n LEFT JOIN geo g \
               ON n.id <> 3 AND ip(n.ip) BETWEEN g.start AND g.end_";
    let (got, rejected) = out(sql, &[("geo", geo())]);
    assert_eq!((got.len(), rejected.len()), (5, 0));
    assert_eq!(got[2], r#"{"id":3,"country":null}"#);
}

#[test]
fn a_condition_that_fails_on_a_found_row_costs_the_source_row() {
    let sql = "SELECT n.id, s.name FROM input n LEFT JOIN sites s \
               ON s.id = n.site AND 10 / (s.owner - 1) > 0";
    let (got, rejected) = out(sql, &[("sites", sites())]);
    assert_eq!(
        got,
        [r#"{"id":2,"name":"twenty"}"#, r#"{"id":3,"name":null}"#, r#"{"id":5,"name":null}"#]
    );
    assert_eq!(rejected.len(), 2);
    assert!(rejected[0].starts_with("0 divide_by_zero: divide by zero error in"), "{rejected:?}");
    assert!(rejected[1].starts_with("3 divide_by_zero"));
}

#[test]
fn a_later_lookup_uses_an_earlier_ones_columns() {
    let sql = "SELECT n.id, o.mail, g.country FROM input n \
               LEFT JOIN sites s ON s.id = n.site AND s.kind = n.kind \
               JOIN owners o ON o.id = s.owner \
               LEFT JOIN geo g ON try_ip(n.ip) BETWEEN g.start AND g.end_ \
               WHERE s.name <> 'nobody' AND n.id < 100 AND o.mail LIKE '%@x'";
    let lookups = [("sites", sites()), ("owners", owners()), ("geo", geo())];
    let (got, _) = out(sql, &lookups);
    assert_eq!(
        got,
        [r#"{"id":1,"mail":"one@x","country":"AA"}"#, r#"{"id":2,"mail":"two@x","country":"BB"}"#]
    );
    let query = planned(sql, &schema(INPUT), &lookups);
    insta::assert_snapshot!(query.explain());
    assert_eq!(query.input_columns(), ["id", "site", "ip", "kind"]);
    let used: Vec<_> = query.lookups().iter().map(|l| l.columns.join(",")).collect();
    assert_eq!(used, ["name,owner", "mail", "country"]);
}

#[test]
fn the_same_lookup_twice() {
    let sql = "SELECT n.id, a.mail AS a, b.mail AS b FROM input n \
               LEFT JOIN owners a ON a.id = n.id LEFT JOIN owners b ON b.id = n.id + 1 \
               WHERE n.id <= 2";
    let (got, _) = out(sql, &[("owners", owners())]);
    assert_eq!(got, [r#"{"id":1,"a":"one@x","b":"two@x"}"#, r#"{"id":2,"a":"two@x","b":null}"#]);
}

#[test]
fn keys_are_asked_for_in_the_lookups_own_type() {
    // A bigint that no int holds, and a fraction, match no int.
    let input = schema("id bigint, d double");
    let json_rows = r#"{"id":1,"d":1.0}{"id":4294967297,"d":1.5}{"id":2,"d":2.0}"#;
    for key in ["n.id", "n.d"] {
        let owners = owners();
        let asked = owners.asked.clone();
        let sql = format!("SELECT o.mail FROM input n LEFT JOIN owners o ON o.id = {key}");
        let ran = run(&sql, Batch::same(rows(&input, json_rows)), &[("owners", owners)]).unwrap();
        assert_eq!(
            json(&ran.batch.rows),
            [r#"{"mail":"one@x"}"#, r#"{"mail":null}"#, r#"{"mail":"two@x"}"#]
        );
        assert_eq!(*asked.lock().unwrap(), [[r#"{"id":1}"#, r#"{"id":2}"#]]);
    }
}

#[test]
fn a_range_of_numbers_takes_fractions() {
    let bands = || {
        Memory::new(
            "low int!, high int!, name string!",
            r#"{"low":0,"high":1,"name":"a"}{"low":2,"high":9,"name":"b"}"#,
        )
    };
    let input = schema("d double");
    let json_rows = r#"{"d":0.5}{"d":1.5}{"d":2.0}{"d":-0.5}"#;
    let sql = "SELECT n.d, b.name FROM input n LEFT JOIN bands b ON n.d BETWEEN b.low AND b.high";
    let ran = run(sql, Batch::same(rows(&input, json_rows)), &[("bands", bands())]).unwrap();
    let got = json(&ran.batch.rows);
    assert_eq!(got[1], r#"{"d":1.5,"name":null}"#);
    assert_eq!(got[2], r#"{"d":2.0,"name":"b"}"#);
    assert_eq!(got[3], r#"{"d":-0.5,"name":null}"#);
}

#[test]
fn a_declared_range_is_preferred() {
    let versions = Memory::new(
        "name string!, low int!, high int!, label string",
        r#"{"name":"x","low":0,"high":3,"label":"old"}{"name":"x","low":4,"high":9,"label":"new"}
           {"name":"y","low":0,"high":9,"label":"only"}"#,
    )
    .with_metadata(KEY_RANGE, "low, high");
    let sql = "SELECT n.id, v.label FROM input n JOIN versions v \
               ON v.name = n.name AND n.id BETWEEN v.low AND v.high";
    let (got, _) = out(sql, &[("versions", versions)]);
    assert_eq!(
        got,
        [r#"{"id":1,"label":"old"}"#, r#"{"id":2,"label":"only"}"#, r#"{"id":4,"label":"new"}"#]
    );
}

#[test]
fn without_a_key_nothing_is_asked() {
    let owners = owners();
    let asked = owners.asked.clone();
    let sql = "SELECT n.id, o.mail FROM input n LEFT JOIN owners o ON o.id = n.site WHERE n.id = 3";
    let (got, _) = out(sql, &[("owners", owners)]);
    assert_eq!(got, [r#"{"id":3,"mail":null}"#]);
    assert!(asked.lock().unwrap().is_empty());
}

#[test]
fn a_failing_lookup_passes_its_error_on() {
    let sql = "SELECT n.id, o.mail FROM input n LEFT JOIN owners o ON o.id = n.id";
    let batch = Batch::same(rows(&schema(INPUT), ROWS));
    let error = run(sql, batch, &[("owners", owners().failing("away"))]).unwrap_err();
    assert_eq!((error.disposition(), error.kind()), (Disposition::Retry, "away"));
}

#[test]
fn a_store_that_changed_its_columns_is_refused_at_bind() {
    let query = planned(
        "SELECT n.id, o.mail FROM input n LEFT JOIN owners o ON o.id = n.id",
        &schema(INPUT),
        &[("owners", owners())],
    );
    let error = query.bind(vec![sites()]).unwrap_err();
    assert_eq!(error.to_string(), "the lookup `owners` has no column `mail` any more");
    assert!(query.bind(Vec::new()).is_err());
}

#[test]
fn derived_rows_of_a_lookup_feed_the_next_stages() {
    let sql = "SELECT n.id, s.name, t.part FROM input n JOIN sites s ON s.id = n.site \
               CROSS JOIN UNNEST(string_to_array(s.name, ' ')) AS t(part) WHERE part <> 'ten'";
    let batch = Batch::same(rows(&schema(INPUT), ROWS));
    let ran = run(sql, batch, &[("sites", sites())]).unwrap();
    assert_eq!(ran.batch.origin.iter().collect::<Vec<_>>(), [0, 1, 3]);
    assert_eq!(json(&ran.batch.rows)[0], r#"{"id":1,"name":"ten b","part":"b"}"#);
}

#[test]
fn a_mistake_in_on_is_told() {
    let lookups: BTreeMap<_, _> = [("sites", sites()), ("geo", geo())]
        .map(|(name, lookup)| (name.to_owned(), millstream_core::Lookup::schema(&*lookup)))
        .into();
    let errors: Vec<String> = [
        "SELECT 1 AS x FROM input n LEFT JOIN sites s ON s.id = n.name",
        "SELECT 1 AS x FROM input n LEFT JOIN sites s ON s.owner > n.id",
        "SELECT 1 AS x FROM input n LEFT JOIN sites s ON n.id = n.site",
        "SELECT 1 AS x FROM input n LEFT JOIN geo g ON n.ip BETWEEN g.start AND g.end_",
        "SELECT 1 AS x FROM input n LEFT JOIN sites s ON s.idd = n.site",
        "SELECT 1 AS x FROM input n LEFT JOIN site s ON s.id = n.site",
        "SELECT 1 AS x FROM input n LEFT JOIN sites n ON n.id = n.site",
        "SELECT id FROM input n LEFT JOIN sites s ON s.id = n.site",
        "SELECT * FROM input n LEFT JOIN sites s ON s.id = n.site",
    ]
    .into_iter()
    .map(|sql| {
        let errors = plan(sql, &schema(INPUT), &lookups).unwrap_err();
        let errors: Vec<String> = errors.iter().map(|error| format!("  {error}\n")).collect();
        format!("{sql}\n{}", errors.concat())
    })
    .collect();
    insta::assert_snapshot!(errors.concat());
}

#[test]
fn a_lookup_that_nobody_needs_is_not_asked() {
    let input = schema(INPUT);
    let whole = sites().with_metadata(KEY_COLUMNS, "id");
    let unused = "SELECT n.id FROM input n LEFT JOIN sites s ON s.id = n.site AND s.kind = 'b'";
    let query = planned(unused, &input, &[("sites", whole.clone())]);
    assert!(query.lookups().is_empty());
    assert_eq!(query.input_columns(), ["id"], "its key is not read either");
    let line = "sites by id = n.site: left out, as none of its columns is used";
    assert!(query.explain().contains(line), "{}", query.explain());
    let (got, _) = out(unused, &[("sites", whole.clone())]);
    assert_eq!(got.len(), 5);
    assert!(whole.asked.lock().unwrap().is_empty());

    // What may find several rows, drops rows, or is read anywhere, stays.
    let several = [sites(), sites().with_metadata(KEY_COLUMNS, "id,kind")];
    for lookup in several {
        let sql = "SELECT n.id FROM input n LEFT JOIN sites s ON s.id = n.site";
        assert_eq!(planned(sql, &input, &[("sites", lookup)]).lookups().len(), 1);
    }
    for sql in [
        "SELECT n.id FROM input n JOIN sites s ON s.id = n.site",
        "SELECT n.id FROM input n LEFT JOIN sites s ON s.id = n.site WHERE s.name IS NULL",
        "SELECT n.id FROM input n LEFT JOIN sites s ON s.id = n.site \
         JOIN sites t ON t.id = n.id AND t.name = s.name",
    ] {
        let query = planned(sql, &input, &[("sites", whole.clone())]);
        assert!(query.lookups().iter().any(|used| used.alias == "s"), "{sql}");
    }
    let both = "SELECT n.id FROM input n LEFT JOIN sites s ON s.id = n.site \
                LEFT JOIN sites t ON t.id = s.id";
    assert!(planned(both, &input, &[("sites", whole)]).lookups().is_empty());
}
