//! A sink that takes everything and keeps nothing: for measurements.

use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{Batch, Receipt, Result, Sink};

#[derive(Debug, Default)]
pub struct DiscardSink;

#[async_trait]
impl Sink for DiscardSink {
    async fn write(&mut self, batch: &Batch) -> Result<Receipt> {
        Ok(Receipt {
            rejected: Vec::new(),
            rows: batch.len() as u64,
            bytes: 0,
            durable: async { Ok(()) }.boxed(),
        })
    }
}
