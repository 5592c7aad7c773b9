//! What may fail around a store that a pipeline looks up in and writes to at the same time, on the
//! real stores and through the real binary, while numbered events go in through Kafka: nothing is
//! lost, nothing is committed above a row that is undone, the memory stays within its bound, one line
//! says what is waited for, and all of it goes on by itself.
//!
//! | | Cassandra | PostgreSQL | MongoDB |
//! |---|---|---|---|
//! | killed, paused for 5 s and for 60 s | `own_*` | `own_*` | `own_*` |
//! | one of three killed or paused, two paused | `a_node_*` | | |
//! | full | a node's answer, by `cql_proxy` | the server's code, by a trigger | files that may not grow |
//! | slow, reset, gone without a word | `shared_*` | `shared_*` | `shared_*`, `mongo.rs` |
//! | restarted with another schema | `shared_*` | `shared_*` | more fields, an index |
//! | table dropped and made again | `shared_*` | `shared_*` | `shared_*` |
//! | password rotated | `shared_*` | `shared_*` | it asks nobody; see `scripted.rs` |
//!
//! One poison row in a batch is in the tests of the stores' crates.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cassandra;
#[path = "../faults/mod.rs"]
#[expect(dead_code, reason = "Kafka's tests use more of it")]
mod faults;
mod mongo;
mod postgres;
#[path = "../it/program.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod program;
mod rig;
