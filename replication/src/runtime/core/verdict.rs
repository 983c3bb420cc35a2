//! What is known of this node's rows: how to read all of them, whether they were found to be wrong,
//! and who compares them just now.
//!
//! A standby whose rows were found to differ is marked on disk, and the mark is read once, at the
//! start. It decides nothing: who may promote such a node, or hand over to it, asks here.

use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mainstay_storage::{BrokenMark, Wal};
use parking_lot::Mutex;

use super::Core;
use crate::config::Role;
use crate::error::{Error, Result};
use crate::protocol::verify::STALL_MAX;
use crate::runtime::verify::Contents;
use crate::time::Moment;

/// How long a standby that is served may ask for nothing, until another one takes its place: a
/// connection may be dead without a sign.
const SERVED_IDLE_MAX: Duration = STALL_MAX.saturating_mul(2);

/// See the module.
pub(crate) struct Verdict {
    contents: OnceLock<Arc<dyn Contents>>,
    mark: Mutex<Option<BrokenMark>>,
    /// This node compares its rows with the primary's.
    verifying: Arc<AtomicBool>,
    /// A standby compares its rows with this node's.
    serving: Arc<Mutex<Serving>>,
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verdict({:?})", self.mark.lock())
    }
}

/// Keeps everybody else from the same until it is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<AtomicBool>);

impl Busy {
    fn new(flag: &Arc<AtomicBool>) -> Option<Self> {
        let free = !flag.swap(true, Ordering::AcqRel);
        free.then(|| Self(flag.clone()))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Who is served.
#[derive(Debug, Default)]
struct Serving {
    number: u64,
    /// When it last asked, while there is one.
    heard: Option<Moment>,
}

/// The right to be served; another one may take it after [`SERVED_IDLE_MAX`].
#[derive(Debug)]
pub(crate) struct Turn {
    number: u64,
    serving: Arc<Mutex<Serving>>,
}

impl Turn {
    /// It asks for something. False when another one has taken its place.
    pub(crate) fn heard(&self, now: Moment) -> bool {
        let mut serving = self.serving.lock();
        let ours = serving.number == self.number;
        if ours {
            serving.heard = Some(now);
        }
        ours
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut serving = self.serving.lock();
        if serving.number == self.number {
            serving.heard = None;
        }
    }
}

impl Verdict {
    /// As it stands on disk.
    ///
    /// # Errors
    /// Disk errors.
    pub(super) fn open(wal: &Wal) -> Result<Self> {
        Ok(Self {
            contents: OnceLock::new(),
            mark: Mutex::new(wal.broken()?),
            verifying: Arc::default(),
            serving: Arc::default(),
        })
    }

    /// How to read all rows, if there is a way.
    pub(crate) fn contents(&self) -> Option<Arc<dyn Contents>> {
        self.contents.get().cloned()
    }

    /// Says how, if there is a way; once.
    pub(crate) fn set_contents(&self, contents: Option<Arc<dyn Contents>>) {
        if let Some(contents) = contents {
            // A second one would be the same.
            let _ = self.contents.set(contents);
        }
    }

    /// Begins a comparison of this node's; `None` while one runs.
    pub(crate) fn verifying(&self) -> Option<Busy> {
        Busy::new(&self.verifying)
    }

    /// Begins to serve one; `None` while another is served that was heard lately.
    pub(crate) fn serve(&self, now: Moment) -> Option<Turn> {
        let mut serving = self.serving.lock();
        let idle = |at: Moment| now - at >= SERVED_IDLE_MAX;
        if serving.heard.is_some_and(|at| !idle(at)) {
            return None;
        }
        serving.number += 1;
        serving.heard = Some(now);
        Some(Turn {
            number: serving.number,
            serving: self.serving.clone(),
        })
    }
}

impl Core {
    /// What was found wrong with this node's rows, if anything.
    pub(crate) fn broken(&self) -> Option<BrokenMark> {
        self.verdict.mark.lock().clone()
    }

    /// Marks this node's rows as wrong, or as right again, durably. Waits for the disk.
    ///
    /// # Errors
    /// Disk errors. A mark that could not be written counts all the same until a restart; one that
    /// could not be taken away stays.
    pub(crate) fn judge(&self, mark: Option<BrokenMark>) -> Result<()> {
        let mut known = self.verdict.mark.lock();
        match mark {
            Some(mark) => {
                let written = self.wal.mark_broken(&mark);
                *known = Some(mark);
                written?;
            }
            None => {
                self.wal.lift_broken()?;
                *known = None;
            }
        }
        Ok(())
    }

    /// Why this node cannot go on as it should, if it cannot: its rows first, which go on being
    /// wrong whatever else happens.
    pub(crate) fn problem(&self) -> Option<String> {
        let fenced = || (self.role() == Role::Fenced).then(|| self.why_fenced());
        let stopped = self.wal.poisoned().map(|error| error.to_string());
        let wrong_rows = || self.wrong_rows();
        stopped
            .or_else(wrong_rows)
            .or_else(|| self.trouble())
            .or_else(fenced)
    }

    fn wrong_rows(&self) -> Option<String> {
        let why = self.broken()?.why;
        Some(match self.is_primary() {
            true => format!(
                "promoted although its rows were marked as wrong: {why}. Switch over to a standby \
                 that is right, if there is one, and run mainstay verify --repair here then"
            ),
            false => format!(
                "its rows are wrong: {why}. Run mainstay verify --repair here, or mainstay resync \
                 --full"
            ),
        })
    }

    /// What a promotion says of rows that are marked.
    pub(crate) fn broken_notice(&self) -> Option<String> {
        let why = self.broken()?.why;
        Some(format!(
            "the rows of this node were marked as wrong: {why}. They are the cluster's now"
        ))
    }

    /// Refuses what only a node whose rows are right may do.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason and the way to go on.
    pub(crate) fn check_rows(&self) -> Result<()> {
        match self.broken() {
            Some(mark) => Err(Error::Refused(format!(
                "the rows of this node are marked as wrong: {}. Mend them with mainstay verify \
                 --repair, or take all of them anew with mainstay resync --full; promote another \
                 node meanwhile",
                mark.why
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_busy_at_a_time() {
        let flag = Arc::default();
        let first = Busy::new(&flag);
        assert!(first.is_some() && Busy::new(&flag).is_none());
        drop(first);
        assert!(Busy::new(&flag).is_some());
    }

    #[test]
    fn a_standby_that_went_silent_makes_room_for_another() {
        let verdict = Verdict {
            contents: OnceLock::new(),
            mark: Mutex::new(None),
            verifying: Arc::default(),
            serving: Arc::default(),
        };
        let begin = Moment::ZERO;
        let first = verdict.serve(begin).unwrap();
        assert!(verdict.serve(begin + SERVED_IDLE_MAX / 2).is_none());
        assert!(first.heard(begin + SERVED_IDLE_MAX / 2));
        assert!(verdict.serve(begin + SERVED_IDLE_MAX).is_none());
        let later = begin + SERVED_IDLE_MAX * 2;
        let second = verdict.serve(later).unwrap();
        assert!(!first.heard(later));
        drop(first);
        assert!(verdict.serve(later).is_none());
        drop(second);
        assert!(verdict.serve(later).is_some());
    }
}
