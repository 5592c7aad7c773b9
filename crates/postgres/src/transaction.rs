//! The rows of one transaction: sent all together, and where the server refuses them, by halves until
//! those to blame stand alone.
//!
//! ```text
//!  BEGIN, lock, position, SAVEPOINT ─► rows ─┬─ taken ─► RELEASE, SAVEPOINT ─► the next part
//!                                            └─ refused ─► ROLLBACK TO ─► its halves, or a dead row
//! ```

use crate::encode::Encoded;
use crate::error;
use crate::plan::{Plan, Way};
use crate::session::{Failure, Session};
use millstream_core::Disposition;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type};

/// What a transaction finds at its beginning.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    Well,
    /// The statement that is first was not about one row.
    Moved,
    /// A column is not of the type that its bytes are made for.
    Changed,
}

/// `first` is executed in the transaction before everything else, unless it is empty.
pub(crate) async fn begin(session: &Session, plan: &Plan, first: &str) -> Result<Begun, Failure> {
    // What COPY locks is free again when its part is rolled back. The types that were looked at must
    // last longer, so the lock is older than the savepoint. Statements over a stage or arrays are
    // told by the server when a type is another one.
    let (lock, guard) = match &plan.way {
        Way::Direct { lock, guard, .. } => (lock.as_str(), guard.as_str()),
        _ => ("", ""),
    };
    let script = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET CONSTRAINTS ALL IMMEDIATE; {lock} \
         {guard} {first} SAVEPOINT millstream"
    );
    let counts = session.script(&script).await?;
    let before = 2 + usize::from(!lock.is_empty());
    let mut counts = counts.into_iter().skip(before);
    if !guard.is_empty() && counts.next() != Some(plan.columns.len() as u64) {
        return Ok(Begun::Changed);
    }
    if !first.is_empty() && counts.next() != Some(1) {
        return Ok(Begun::Moved);
    }
    Ok(Begun::Well)
}

/// Makes the connection's staging table, where the plan has one.
pub(crate) async fn prepare_stage(session: &Session, plan: &Plan) -> Result<(), Failure> {
    let Way::Staged { stage, create, .. } = &plan.way else { return Ok(()) };
    if session.staged.lock().contains(stage) {
        return Ok(());
    }
    session.script(create).await?;
    session.staged.lock().push(stage.clone());
    Ok(())
}

/// Stores the rows within a transaction that has begun; gives those that the server refuses.
pub(crate) async fn store(
    session: &Session,
    plan: &Plan,
    encoded: &Encoded,
    what: &str,
) -> Result<Vec<(u32, String)>, Failure> {
    let mut rejected = Vec::new();
    let mut due: Vec<Vec<u32>> = vec![(0..encoded.rows.len() as u32).collect()];
    while let Some(part) = due.pop() {
        if part.is_empty() {
            continue;
        }
        let Err(failure) = attempt(session, plan, encoded, &part).await else {
            if !due.is_empty() {
                session.script(&next(plan)).await?;
            }
            continue;
        };
        let Failure::Driver(error) = &failure else { return Err(failure) };
        let refused = error::of(error, what);
        if refused.disposition() != Disposition::Reject || failure.is_stale() {
            return Err(failure);
        }
        session.script("ROLLBACK TO SAVEPOINT millstream").await?;
        let why = refused.chain();
        let mut refuse = |at: &u32| rejected.push((encoded.rows[*at as usize], why.clone()));
        if let Some(column) = error::refuses_null(error).and_then(|name| plan.place_of(name)) {
            // The server names the column: all the rows to blame are known at once.
            let has_null = |at: &u32| encoded.is_null(*at as usize, column);
            let (nulls, rest): (Vec<u32>, Vec<u32>) = part.iter().copied().partition(has_null);
            if !nulls.is_empty() {
                nulls.iter().for_each(&mut refuse);
                due.push(rest);
                continue;
            }
        }
        if let [alone] = &part[..] {
            refuse(alone);
            continue;
        }
        let (first, second) = part.split_at(part.len() / 2);
        due.push(second.to_vec());
        due.push(first.to_vec());
    }
    Ok(rejected)
}

/// Keeps what was stored, and empties the stage.
fn next(plan: &Plan) -> String {
    let emptied = match &plan.way {
        Way::Staged { stage, .. } => format!("DELETE FROM pg_temp.{stage};"),
        _ => String::new(),
    };
    format!("RELEASE SAVEPOINT millstream; {emptied} SAVEPOINT millstream")
}

async fn attempt(
    session: &Session,
    plan: &Plan,
    encoded: &Encoded,
    part: &[u32],
) -> Result<(), Failure> {
    match &plan.way {
        Way::Direct { copy, .. } => {
            let copy = session.prepare(copy).await?;
            session.copy(&copy, encoded.copy(part)).await
        }
        Way::Staged { copy, statement, .. } => {
            let copy = session.prepare(copy).await?;
            session.copy(&copy, encoded.copy(part)).await?;
            let statement = session.prepare(statement).await?;
            session.within(session.client.execute_raw::<_, Raw, _>(&statement, [])).await?;
            Ok(())
        }
        Way::Arrays { statement } => {
            let statement = session.prepare(statement).await?;
            let arrays = encoded.arrays(plan, part).into_iter().flatten().map(Raw);
            let arrays: Vec<_> = arrays.collect();
            session.within(session.client.execute_raw(&statement, arrays)).await?;
            Ok(())
        }
    }
}

/// A value that is in the server's own form already.
#[derive(Debug)]
pub(crate) struct Raw(pub Vec<u8>);

type Told = Box<dyn std::error::Error + Sync + Send>;

impl ToSql for Raw {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Told> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, of: &Type, out: &mut BytesMut) -> Result<IsNull, Told> {
        self.to_sql(of, out)
    }
}
