//! Holding commits back for a moment: they wait, and go on or are refused when it is over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use super::Engine;
use crate::error::{Error, Result};

/// Commits wait while it lives.
#[derive(Debug)]
pub(crate) struct Hold {
    release: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Lets the commit that is being decided end, and holds back those after it. Blocks meanwhile.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn hold_commits(self: &Arc<Self>) -> Result<Hold> {
        let (release, released) = mpsc::channel();
        let (tell, held) = mpsc::channel();
        let engine = self.clone();
        // A thread of its own keeps the lock, since whoever asked goes on over await points.
        let thread = thread::Builder::new().name("mainstay-hold".to_owned());
        let thread = thread.spawn(move || {
            let commits = engine.commits.lock();
            engine.stalled.store(true, Ordering::Release);
            // Whoever asked is waiting; the end of its channel releases as well.
            let _ = tell.send(());
            let _ = released.recv();
            engine.stalled.store(false, Ordering::Release);
            drop(commits);
        });
        let thread =
            thread.map_err(|error| Error::Config(format!("cannot start a thread: {error}")))?;
        held.recv().map_err(|_| Error::Stopped)?;
        Ok(Hold {
            release: Some(release),
            thread: Some(thread),
        })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release = None;
        if let Some(thread) = self.thread.take() {
            // It only gives the lock back.
            let _ = thread.join();
        }
    }
}
