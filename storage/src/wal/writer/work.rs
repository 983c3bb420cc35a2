//! The work of the log's two threads: writing groups, and making spare segments.
//!
//! A log that is driven has no threads. Its caller does one piece of work at a time with
//! [`Shared::drive`], and so decides when log gets written; whoever has to wait for room does the
//! work instead. The pieces are the same either way.

use std::mem;
use std::sync::atomic::Ordering;

use super::publish::Publish;
use super::{BULK_BYTES, GROUP_BYTES_MAX, Queue, Shared};
use crate::canary;
use crate::error::{Error, Result};
use crate::sync::MutexGuard;
use crate::wal::log_file::Item;

impl Shared {
    /// The writer thread: writes groups until the log is closed and everything is written.
    pub(crate) fn write_groups(&self) {
        loop {
            let group = {
                let mut queue = self.queue.lock();
                if queue.closed && canary("leave-what-is-queued") {
                    return;
                }
                while queue.items.is_empty() {
                    if queue.closed || queue.poisoned.is_some() {
                        return;
                    }
                    self.work.wait(&mut queue);
                }
                queue.busy = true;
                take_group(&mut queue)
            };
            self.write_group(group);
        }
    }

    fn write_group(&self, group: Vec<Item>) {
        let panics = PoisonOnPanic(self);
        let written = self
            .file
            .lock()
            .write_group(group, &mut Publish { shared: self });
        drop(panics);
        self.end_group(written);
    }

    /// The writer is idle again, or the log has come to a bad end.
    fn end_group(&self, written: Result<()>) {
        let mut queue = self.queue.lock();
        queue.busy = false;
        if let Err(error) = written {
            self.poison(&mut queue, &error);
            let mut control = self.control.lock();
            self.failed.store(true, Ordering::Release);
            let mark = self.watermark(&control, self.commit.get());
            if let Err(error) = control.note_in_both(mark) {
                tracing::warn!(%error, "could not note the failure; restart the machine");
            }
        }
        self.room.notify_all();
    }

    /// The thread that makes spares, until the log is closed.
    pub(crate) fn make_spares(&self) {
        loop {
            let bulk = {
                let mut queue = self.queue.lock();
                while self.nothing_to_make(&queue) {
                    self.want_spare.wait(&mut queue);
                }
                if queue.closed || queue.poisoned.is_some() {
                    return;
                }
                queue.attempts += 1;
                queue.bulk
            };
            let (made, mut queue) = self.make_spare(bulk);
            // The next appender asks again, or whoever frees space.
            if !made && !queue.closed {
                self.want_spare.wait(&mut queue);
            }
        }
    }

    /// Makes a spare in the attempt that was counted last. Says whether there is one more, and
    /// keeps the queue locked, lest whoever asks again is missed.
    fn make_spare(&self, bulk: bool) -> (bool, MutexGuard<'_, Queue>) {
        let made = self.spares.make(bulk);
        let mut queue = self.queue.lock();
        let succeeded = made.is_ok();
        queue.no_spare = made.err().map(|error| {
            tracing::warn!(%error, "cannot prepare the next log segment");
            (queue.attempts, error)
        });
        self.room.notify_all();
        (succeeded, queue)
    }

    fn nothing_to_make(&self, queue: &Queue) -> bool {
        let open = !queue.closed && queue.poisoned.is_none();
        open && queue.wanted_until <= self.spares.covered_until()
    }

    /// Does one piece of work, if there is any: makes a spare that is wanted, syncs the group that
    /// was written last, or writes the next one.
    pub(crate) fn drive(&self) -> bool {
        let mut queue = self.queue.lock();
        if queue.poisoned.is_some() {
            return false;
        }
        let tried = queue.no_spare.is_some();
        if !queue.closed && !tried && !self.nothing_to_make(&queue) {
            queue.attempts += 1;
            let bulk = queue.bulk;
            drop(queue);
            drop(self.make_spare(bulk));
            return true;
        }
        if queue.busy {
            drop(queue);
            let synced = self.file.lock().sync(&mut Publish { shared: self });
            self.end_group(synced);
            return true;
        }
        if queue.items.is_empty() {
            return false;
        }
        queue.busy = true;
        let group = take_group(&mut queue);
        drop(queue);
        let mut file = self.file.lock();
        let written = file.write_items(group, &mut Publish { shared: self });
        drop(file);
        if written.is_err() {
            self.end_group(written);
        }
        true
    }

    /// Waits until somebody says that there may be room, or an idle writer.
    pub(super) fn wait_for_room(&self, queue: &mut MutexGuard<'_, Queue>) {
        if self.driven {
            if !MutexGuard::unlocked(queue, || self.drive()) {
                // There may be space again where an earlier attempt found none.
                queue.no_spare = None;
            }
        } else {
            self.room.wait(queue);
        }
    }

    /// Writes what is queued, where no thread does.
    pub(crate) fn finish(&self) {
        while self.driven && self.drive() {}
    }
}

/// Takes queued items up to the size of a group, at least one.
fn take_group(queue: &mut Queue) -> Vec<Item> {
    queue.bulk = queue.bytes >= BULK_BYTES;
    if queue.bytes <= GROUP_BYTES_MAX {
        queue.bytes = 0;
        return mem::take(&mut queue.items);
    }
    let mut bytes = 0;
    let mut count = 0;
    for item in &queue.items {
        bytes += item.len();
        count += 1;
        if bytes >= GROUP_BYTES_MAX {
            break;
        }
    }
    queue.bytes -= bytes;
    let later = queue.items.split_off(count);
    mem::replace(&mut queue.items, later)
}

/// Ends every wait if the writer dies of a broken invariant.
struct PoisonOnPanic<'a>(&'a Shared);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut queue = self.0.queue.lock();
            queue.busy = false;
            self.0.poison(
                &mut queue,
                &Error::Invalid("its writer panicked".to_owned()),
            );
            self.0.room.notify_all();
        }
    }
}
