//! Whatever order writes and deletes come in, however they are batched, replayed, compacted and
//! swept: the table holds what the rules say it does.

use crate::support::*;
use millstream_tables::Table;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq)]
struct Op {
    key: (&'static str, i64),
    timestamp: i64,
    /// `None` deletes.
    value: Option<Option<&'static str>>,
}

#[derive(Debug, Clone, Copy)]
enum Between {
    Nothing,
    Compact,
    Sweep,
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = (prop::sample::select(vec!["a", "a\0", "b"]), 0i64..3);
    let value = prop::option::weighted(
        0.7,
        prop::option::weighted(0.9, prop::sample::select(vec!["", "x", "y", "xx", "zzz"])),
    );
    let op = (key, -2i64..3, value);
    prop::collection::vec(
        op.prop_map(|(key, timestamp, value)| Op { key, timestamp, value }),
        1..40,
    )
}

fn between() -> impl Strategy<Value = Between> {
    prop_oneof![
        6 => Just(Between::Nothing),
        2 => Just(Between::Compact),
        2 => Just(Between::Sweep),
        1 => Just(Between::Reopen),
    ]
}

/// The highest timestamp wins, then a delete, then the larger row: one that has a value is larger
/// than one without, then its length comes first.
fn expected(ops: &[Op]) -> Vec<String> {
    let mut winners = BTreeMap::new();
    for op in ops {
        let rank = (
            op.timestamp,
            op.value.is_none(),
            op.value.flatten().map(|value| (value.len(), value)),
        );
        let winner = winners.entry(op.key).or_insert(rank);
        *winner = rank.max(*winner);
    }
    winners
        .into_iter()
        .filter(|(_, (_, deleted, _))| !deleted)
        .map(|((k, n), (_, _, value))| format!("{k}|{n}|{}", value.map_or("", |v| v.1)))
        .collect()
}

fn apply(table: &Table, ops: &[Op]) {
    // Neighbours of a kind go in one batch.
    for run in ops.chunk_by(|a, b| a.value.is_none() == b.value.is_none()) {
        let stamps: Vec<_> = run.iter().map(|op| op.timestamp).collect();
        let written = if run[0].value.is_none() {
            let keys: Vec<_> = run.iter().map(|op| op.key).collect();
            table.delete(&crate::support::keys(&keys), Some(&at(&stamps))).unwrap()
        } else {
            let rows: Vec<_> =
                run.iter().map(|op| (op.key.0, op.key.1, op.value.flatten())).collect();
            table.write(&crate::support::rows(&rows), Some(&at(&stamps)), None).unwrap()
        };
        assert_eq!((written.rows, written.rejected.len()), (run.len() as u64, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_table_holds_what_the_model_holds(
        (ops, shuffled) in ops().prop_flat_map(|ops| (Just(ops.clone()), Just(ops).prop_shuffle())),
        steps in prop::collection::vec((1usize..8, between()), 1..12),
        replay_from in 0usize..40,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut db = open(dir.path());
        let mut table = people(&db);
        // Then some of it comes again, as after a crash.
        let again = shuffled[replay_from.min(shuffled.len())..].to_vec();
        let all_ops = [shuffled, again].concat();
        let mut rest = all_ops.as_slice();
        let mut steps = steps.iter().cycle();
        while !rest.is_empty() {
            let (count, between) = steps.next().unwrap();
            let (now, later) = rest.split_at((*count).min(rest.len()));
            apply(&table, now);
            rest = later;
            match between {
                Between::Nothing => {}
                Between::Compact => table.compact().unwrap(),
                Between::Sweep => {
                    table.sweep().unwrap();
                }
                Between::Reopen => {
                    drop((table, db));
                    db = open(dir.path());
                    table = db.table("people").unwrap();
                }
            }
            let seen = &all_ops[..all_ops.len() - rest.len()];
            prop_assert_eq!(all(&table), expected(seen));
        }
        prop_assert_eq!(all(&table), expected(&ops));
        let keys: Vec<_> = ops.iter().map(|op| op.key).collect();
        let found = table.get_many(&crate::support::keys(&keys), None).unwrap();
        let expected = expected(&ops);
        for (at, (k, n)) in keys.iter().enumerate() {
            let of = text(&[found.rows.slice(found.of(at).start, found.of(at).len())]);
            let line = expected.iter().find(|line| line.starts_with(&format!("{k}|{n}|")));
            prop_assert_eq!(of.first(), line);
        }
    }
}

#[test]
fn rows_without_a_timestamp_are_later_than_all_before() {
    let dir = tempfile::tempdir().unwrap();
    let table = people(&open(dir.path()));
    // The clock stands still.
    for value in ["zz", "a", "b", "a"] {
        table.write(&row("k", 1, value), None, None).unwrap();
    }
    table.write(&rows(&[("m", 1, Some("z")), ("m", 1, Some("a"))]), None, None).unwrap();
    assert_eq!(all(&table), ["k|1|a", "m|1|a"]);
    table.delete(&keys(&[("k", 1)]), None).unwrap();
    assert_eq!(all(&table), ["m|1|a"]);
}

#[test]
fn a_compaction_drops_what_is_superseded() {
    let dir = tempfile::tempdir().unwrap();
    let table = people(&open(dir.path()));
    for timestamp in 0..100 {
        table.write(&row("k", 1, "v"), Some(&at(&[timestamp])), None).unwrap();
    }
    assert!(table.count_estimate().unwrap() >= 100);
    table.compact().unwrap();
    assert_eq!(table.count_estimate().unwrap(), 1);
    assert_eq!(all(&table), ["k|1|v"]);
}

#[test]
fn writers_and_a_sweeper_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let table = people(&open(dir.path()));
    std::thread::scope(|scope| {
        for writer in 0..4i64 {
            let table = &table;
            scope.spawn(move || {
                for round in 0..50 {
                    let batch: Vec<_> = (0..20).map(|n| ("k", n, Some("v"))).collect();
                    let stamps: Vec<_> = (0..20).map(|n| (round * 20 + n) * 4 + writer).collect();
                    table.write(&rows(&batch), Some(&at(&stamps)), None).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..20 {
                table.sweep().unwrap();
            }
        });
    });
    let swept = table.sweep().unwrap();
    assert_eq!(all(&table).len(), 20);
    assert_eq!(table.sweep().unwrap().looked_at, 20, "after {swept:?}");
}
