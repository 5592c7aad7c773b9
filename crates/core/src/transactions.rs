//! Rows and the offsets they were made of, visible together or not at all.

use crate::Result;
use async_trait::async_trait;

/// The transactions of a pipeline whose sinks and dead letters write in them.
///
/// ```text
///  writes ─► … ─► commit(offsets) ─► writes ─► … ─► abort() ─► writes, from the last commit on
/// ```
///
/// A transaction begins with the first write after the last one's end. For one caller, who sees that
/// everything written is durable and that nothing is written meanwhile.
#[async_trait]
pub trait Transactions: Send + Sync {
    /// Makes what was written visible, and commits the offsets of the partitions that it was made
    /// of. An error leaves the outcome unknown: [`Transactions::abort`] is to be called.
    ///
    /// Not cancel safe: a cancelled commit is as one that failed.
    async fn commit(&self, offsets: &[(u32, i64)]) -> Result<()>;

    /// Takes back what was written since the last commit; afterwards the group says where that is.
    /// An error with the disposition `Stop` says that nothing may be written any more; another one
    /// may be tried again.
    async fn abort(&self) -> Result<()>;
}
