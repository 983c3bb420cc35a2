//! Syncing what was just written while more is being written.
//!
//! The disk would otherwise rest while a large group is copied to the system, and the copying while
//! the disk works. What one of these syncs says counts as much as the last one's: a failure that
//! only the system's first answer tells must not be lost, so each is waited for before anybody
//! takes what was written for flushed. One sync at a time.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};

use crate::disk::DiskFile;

/// Syncs on a thread of its own, which begins with the first of them.
#[derive(Debug, Default)]
pub(crate) struct WriteBack {
    syncer: Option<Syncer>,
    /// A sync is asked for whose outcome was not heard.
    under_way: bool,
}

#[derive(Debug)]
struct Syncer {
    files: Option<SyncSender<Arc<dyn DiskFile>>>,
    synced: Receiver<io::Result<()>>,
    thread: Option<JoinHandle<()>>,
}

impl WriteBack {
    /// Begins to sync `file`, unless a sync is under way.
    ///
    /// # Errors
    /// Those of the sync before, or of starting a thread.
    pub(crate) fn begin(&mut self, file: &Arc<dyn DiskFile>) -> io::Result<()> {
        let syncer = match &mut self.syncer {
            Some(syncer) => syncer,
            none => none.insert(Syncer::start()?),
        };
        if self.under_way {
            match syncer.synced.try_recv() {
                Ok(synced) => {
                    // Heard, whatever it says: nobody may wait for it again.
                    self.under_way = false;
                    synced?;
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(gone()),
            }
        }
        let files = syncer.files.as_ref().expect("present until it is dropped");
        files.send(file.clone()).map_err(|_| gone())?;
        self.under_way = true;
        Ok(())
    }

    /// Waits for the sync that is under way, if one is.
    ///
    /// # Errors
    /// Those of the sync.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.under_way) {
            return Ok(());
        }
        let syncer = self.syncer.as_ref().expect("it was asked");
        syncer.synced.recv().map_err(|_| gone())?
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that syncs early is gone")
}

impl Syncer {
    fn start() -> io::Result<Self> {
        let (files, asked) = sync_channel::<Arc<dyn DiskFile>>(1);
        let (tell, synced) = sync_channel(1);
        let thread = thread::Builder::new().name("wal-write-back".to_owned());
        let thread = thread.spawn(move || {
            // Whoever asks hears the outcome before it asks again, so there is always room.
            let sync = |file: Arc<dyn DiskFile>| tell.send(file.sync_data());
            let _ = asked.iter().try_for_each(sync);
        })?;
        Ok(Self {
            files: Some(files),
            synced,
            thread: Some(thread),
        })
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.files = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it was reported by the panic itself.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Whose `failing`-th sync fails.
    #[derive(Debug)]
    struct Counted {
        syncs: AtomicUsize,
        failing: usize,
    }

    impl DiskFile for Counted {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            Ok(0)
        }

        fn write_at(&self, bytes: &[u8], _: u64) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn sync_data(&self) -> io::Result<()> {
            let before = self.syncs.fetch_add(1, Ordering::SeqCst);
            match before + 1 == self.failing {
                true => Err(io::Error::other("no disk")),
                false => Ok(()),
            }
        }

        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn len(&self) -> io::Result<u64> {
            Ok(0)
        }
    }

    fn failing(failing: usize) -> (Arc<Counted>, Arc<dyn DiskFile>) {
        let syncs = AtomicUsize::new(0);
        let file = Arc::new(Counted { syncs, failing });
        (file.clone(), file)
    }

    #[test]
    fn a_failure_is_told_to_whoever_asks_next_or_waits() {
        for failure in [1, 2] {
            let (counted, file) = failing(failure);
            let mut write_back = WriteBack::default();
            write_back.begin(&file).unwrap();
            if failure == 2 {
                write_back.finish().unwrap();
                write_back.begin(&file).unwrap();
            }
            assert!(write_back.finish().is_err());
            assert_eq!(counted.syncs.load(Ordering::SeqCst), failure);
            assert!(write_back.finish().is_ok(), "it was told");
        }
        let (counted, file) = failing(1);
        let mut write_back = WriteBack::default();
        write_back.begin(&file).unwrap();
        while counted.syncs.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        let told = loop {
            match write_back.begin(&file) {
                Ok(()) => thread::yield_now(),
                told => break told,
            }
        };
        assert!(told.is_err());
        assert!(write_back.finish().is_ok(), "there is nothing to wait for");
    }

    #[test]
    fn without_a_sync_there_is_nothing_to_wait_for() {
        let mut write_back = WriteBack::default();
        assert!(write_back.finish().is_ok());
        assert!(write_back.syncer.is_none());
    }
}
