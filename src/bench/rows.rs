//! The rows of a run: written before they are read, and removed when all is over.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Settings;
use super::marks::Marks;
use super::nodes::Nodes;
use super::plan::Step;
use super::progress::Progress;
use super::requests::Requests;
use crate::Level;
use crate::cli::Failure;
use crate::client::ClientError;

/// Most rows in one transaction.
const BATCH_ROWS_MAX: usize = 1000;

/// Bytes of values after which a transaction has enough rows.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// The number of the operation that comes before all others.
const BEFORE_ALL: u64 = u64::MAX;

/// The rows of a run, and where they are.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) nodes: &'a Nodes,
    /// Those that were written, or may have been.
    pub(crate) marks: &'a Marks,
    pub(crate) stop: &'a AtomicBool,
}

impl Rows<'_> {
    /// Writes all rows where they are to be read, else one, so that what the cluster refuses in
    /// any case is said before a thousand clients meet it.
    pub(crate) fn prepare(&self, progress: &Progress) -> Result<(), Failure> {
        let plan = &self.settings.plan;
        match plan.workload.reads() {
            true => self.fill(progress),
            false => {
                let (Step::Put(row) | Step::Get(row)) = plan.step(BEFORE_ALL);
                let mut requests = self.requests(self.settings.level);
                self.marks.set(row);
                let mut session = self.nodes.session();
                let done = session.client().commit(requests.put(row, BEFORE_ALL));
                Ok(done.map(drop)?)
            }
        }
    }

    fn fill(&self, progress: &Progress) -> Result<(), Failure> {
        // Whatever level the node has for others: what is not committed cannot be read.
        let mut requests = self.requests(Some(Level::RemoteFlush));
        let mut session = self.nodes.session();
        let each = BATCH_BYTES_MAX / self.settings.size.max(1);
        let each = each.clamp(1, BATCH_ROWS_MAX) as u64;
        let keys = self.settings.plan.keys;
        let mut next = 0;
        while next < keys && !self.stop.load(Ordering::Relaxed) {
            let rows = next..keys.min(next + each);
            next = rows.end;
            rows.clone().for_each(|row| self.marks.set(row));
            session
                .client()
                .commit(requests.put_all(rows, BEFORE_ALL))?;
            progress.filled(next, keys);
        }
        Ok(())
    }

    /// Removes the rows that were written; those it could not remove stay marked.
    pub(crate) fn remove(&self) -> Result<(), ClientError> {
        // Standbys that are not there hold up nothing that nobody waits for.
        let requests = self.requests(Some(Level::Local));
        let mut session = self.nodes.session();
        let mut rows = self.marks.rows();
        loop {
            let batch = rows.by_ref().take(BATCH_ROWS_MAX).collect::<Vec<_>>();
            if batch.is_empty() {
                return Ok(());
            }
            session
                .client()
                .commit(requests.delete_all(batch.iter().copied()))?;
            batch.into_iter().for_each(|row| self.marks.clear(row));
        }
    }

    fn requests(&self, level: Option<Level>) -> Requests<'_> {
        let Settings {
            plan, table, size, ..
        } = self.settings;
        Requests::new(plan, table, *size, level)
    }
}
