//! A statement that is prepared anew where its table may be another one than it was.
//!
//! The driver does so by itself, and asks nobody whether the columns are what they were. Preparing asks
//! every node and is not bounded by the driver, so one asks for all, for as long as a request may take.

use crate::cluster::{Cluster, Execution};
use crate::error;
use crate::shape::Shape;
use millstream_core::{Disposition, Error, Result};
use parking_lot::Mutex;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, Statement};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Mutex as Turn;
use tokio::time::timeout;
use uuid::Uuid;

/// A table that was made again with other types is noticed by then at the latest.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A node that is silent holds a batch up for no longer.
const LOOK_FOR: Duration = Duration::from_millis(500);

pub(crate) struct Prepared {
    cluster: Arc<Cluster>,
    text: String,
    /// What is done with it, for the reader of an error.
    what: String,
    execution: Execution,
    set: Box<dyn Fn(&mut PreparedStatement) + Send + Sync>,
    /// What it took and gave when it was prepared first.
    shape: OnceLock<Shape>,
    current: Mutex<Option<Arc<PreparedStatement>>>,
    looked: Mutex<Instant>,
    /// Of which table it was known to be right when somebody looked.
    seen: Mutex<Option<Uuid>>,
    asking: Turn<()>,
}

impl Prepared {
    /// `set` says how it is executed.
    pub async fn new(
        cluster: &Arc<Cluster>,
        text: String,
        what: String,
        execution: &Execution,
        set: impl Fn(&mut PreparedStatement) + Send + Sync + 'static,
    ) -> Result<Prepared> {
        let prepared = Prepared {
            cluster: cluster.clone(),
            text,
            what,
            execution: execution.clone(),
            set: Box::new(set),
            shape: OnceLock::new(),
            current: Mutex::default(),
            looked: Mutex::new(Instant::now()),
            seen: Mutex::default(),
            asking: Turn::default(),
        };
        prepared.get().await?;
        prepared.look().await?;
        Ok(prepared)
    }

    pub async fn get(&self) -> Result<Arc<PreparedStatement>> {
        if let Some(current) = &*self.current.lock() {
            return Ok(current.clone());
        }
        let _asking = self.asking.lock().await;
        if let Some(current) = &*self.current.lock() {
            return Ok(current.clone());
        }
        self.prepare().await
    }

    /// Whether it is what others would be given now.
    pub fn is_current(&self, prepared: &Arc<PreparedStatement>) -> bool {
        self.current.lock().as_ref().is_some_and(|current| Arc::ptr_eq(current, prepared))
    }

    pub fn shape(&self) -> Option<&Shape> {
        self.shape.get()
    }

    /// The table was made again, or is gone: what is prepared is of no use.
    pub fn forget(&self) {
        *self.current.lock() = None;
    }

    /// Looks at the table now and then. A cluster that cannot say how it is now changes nothing.
    pub async fn look_again(&self) -> Result<()> {
        {
            let mut looked = self.looked.lock();
            if looked.elapsed() < LOOK_EVERY {
                return Ok(());
            }
            *looked = Instant::now();
        }
        self.look().await
    }

    async fn look(&self) -> Result<()> {
        let Some(current) = self.current.lock().clone() else { return Ok(()) };
        let asked = timeout(LOOK_FOR.min(self.execution.timeout), self.table(&current)).await;
        let Ok(Ok(table)) = asked else { return Ok(()) };
        if table.is_none() || table != *self.seen.lock() {
            // Of another table what is prepared is of no use, whether or not it can be prepared now.
            self.forget();
            self.get().await?;
            *self.seen.lock() = table;
        }
        Ok(())
    }

    /// What the cluster calls the table inside: one that is made again is called otherwise, and a
    /// column's type changes in no other way. One node says it, where preparing asks all of them.
    async fn table(&self, prepared: &PreparedStatement) -> Result<Option<Uuid>> {
        let literal = |name: Option<&str>| format!("'{}'", name.unwrap_or("").replace('\'', "''"));
        let mut query = Statement::new(format!(
            "SELECT id FROM system_schema.tables WHERE keyspace_name = {} AND table_name = {}",
            literal(prepared.get_keyspace_name()),
            literal(prepared.get_table_name())
        ));
        query.set_is_idempotent(true);
        query.set_consistency(Consistency::One);
        let told = |error: String| Error::retry("look", error);
        let asked = self.cluster.session.query_unpaged(query, ()).await;
        let rows = asked.map_err(|e| told(e.to_string()))?;
        let rows = rows.into_rows_result().map_err(|e| told(e.to_string()))?;
        let row = rows.maybe_first_row::<(Uuid,)>().map_err(|e| told(e.to_string()))?;
        Ok(row.map(|(id,)| id))
    }

    /// Looks at the table because a row was refused: perhaps it is the table that is wrong.
    pub async fn look_now(&self) -> Result<()> {
        let _asking = self.asking.lock().await;
        let looked = self.prepare().await;
        if let Err(error) = &looked
            && matches!(error.kind(), "no_table" | "table_changed")
        {
            self.forget();
        }
        looked.map(drop)
    }

    async fn prepare(&self) -> Result<Arc<PreparedStatement>> {
        let Self { cluster, text, what, execution, .. } = self;
        let asked = timeout(execution.timeout, cluster.session.prepare(text.as_str())).await;
        let Ok(asked) = asked else {
            let told = format!("{what}: preparing the statement takes longer than the time-out");
            return Err(Error::retry("timeout", told));
        };
        let mut prepared = asked.map_err(|error| self.refused(error::of_prepare(&error, what)))?;
        self.shape.get_or_init(|| Shape::of(&prepared)).still_takes(&prepared, what)?;
        prepared.set_execution_profile_handle(Some(cluster.profile(execution).into_handle()));
        (self.set)(&mut prepared);
        let prepared = Arc::new(prepared);
        *self.current.lock() = Some(prepared.clone());
        Ok(prepared)
    }

    /// What was prepared once is refused for the table, never for a row.
    fn refused(&self, error: Error) -> Error {
        match error.disposition() {
            Disposition::Reject if self.shape.get().is_some() => {
                Error::retry("no_table", error.chain())
            }
            _ => error,
        }
    }
}
