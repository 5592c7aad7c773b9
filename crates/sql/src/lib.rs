//! SQL on batches: one SELECT a step, parsed and planned once, evaluated on every batch.
//!
//! ```text
//! text ─► bounds ─► select ─► scope, expr ─► query: stages ─► bind to lookups ─► Step::run(batch)
//!         (depth)   (parts)   (names, types)  filter · lookup · unnest · project
//! ```
//!
//! Expressions are DataFusion's. The stages are our own: a batch runs through filters, lookups,
//! UNNEST and the projection without a plan, a stream or a copy of a column that only passes
//! through. A row's verdict (kept, filtered, rejected) is the one it has when evaluated alone,
//! whatever batch it is in.
//!
//! Names of columns, lookups and fields match as they are written; `Id` and `id` are two columns.
//! Names of functions and types may be written in any case.

mod bounds;
mod draft;
mod error;
mod evaluate;
mod expr;
mod functions;
mod harden;
mod join;
mod keys;
mod lookup;
mod projection;
mod query;
mod rewrite;
mod run;
mod scalar;
mod scope;
mod select;
mod unnest;

pub use bounds::{CHAIN_MAX, DEPTH_MAX};
pub use error::SqlError;
pub use functions::names as function_names;
pub use join::{KEY_COLUMNS, KEY_RANGE, LookupUse};
pub use query::{Query, check_syntax, plan};
pub use run::{Ran, Step};
pub use scalar::{Failed, Scalar, plan_expr};

/// Planning recurses over the SQL's tree, and a stack that overflows cannot be caught: it gets a
/// stack that the bounded depth fits into many times. A panic in there is a mistake in a library
/// that some SQL brings out, and costs that SQL only.
fn on_big_stack<T: Send>(
    plan: impl FnOnce() -> Result<T, Vec<SqlError>> + Send,
) -> Result<T, Vec<SqlError>> {
    const STACK_BYTES: usize = 64 << 20;
    let sorry = |message: &str| {
        vec![SqlError { message: message.to_owned(), line: 1, column: 1, hint: None }]
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("sql-plan".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, plan);
        match thread.map(|thread| thread.join()) {
            Ok(Ok(planned)) => planned,
            Ok(Err(_)) => Err(sorry("this SQL cannot be planned: the planner panicked")),
            Err(error) => Err(sorry(&format!("no thread to plan on: {error}"))),
        }
    })
}
