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
use crate::wal::log_file::{Item, LogFile};

/// Most bytes that an appender writes itself where the writer is idle.
const AT_ONCE_BYTES_MAX: usize = 64 << 10;

impl Queue {
    /// Whether there is something for the writer to do now.
    fn has_work(&self) -> bool {
        self.ahead || (!self.busy && !self.items.is_empty())
    }
}

impl Shared {
    /// The writer thread: writes groups until the log is closed and everything is written.
    pub(crate) fn write_groups(&self) {
        loop {
            let group = {
                let mut queue = self.queue.lock();
                if queue.closed && canary("leave-what-is-queued") {
                    return;
                }
                while !queue.has_work() {
                    let over = queue.closed && !queue.busy;
                    if over || queue.poisoned.is_some() {
                        return;
                    }
                    self.work.wait(&mut queue);
                }
                queue.ahead = false;
                queue.busy = true;
                take_group(&mut queue)
            };
            self.write_group(group);
        }
    }

    /// Leaves what is queued to the writer; writes it here first where the writer is idle and
    /// it is little, so that readers have it before that is awake.
    pub(super) fn begin_group(&self, mut queue: MutexGuard<'_, Queue>) {
        let Some(mut file) = self.idle_file(&queue) else {
            self.work.notify_one();
            return;
        };
        queue.busy = true;
        queue.ahead = true;
        let group = take_group(&mut queue);
        self.work.notify_one();
        drop(queue);
        file.write_ahead(group, &mut Publish { shared: self });
    }

    /// Writes and syncs what is queued on this thread, where the writer is idle and it is little;
    /// else leaves it to the writer.
    pub(crate) fn write_queued(&self) {
        let mut queue = self.queue.lock();
        if self.idle_file(&queue).is_none() {
            self.work.notify_one();
            return;
        }
        queue.busy = true;
        let group = take_group(&mut queue);
        drop(queue);
        self.write_group(group);
    }

    /// Lets the writer see what was queued.
    pub(crate) fn wake_writer(&self) {
        self.work.notify_one();
    }

    /// As [`wake_writer`](Self::wake_writer), where nobody should wait for more to come.
    pub(crate) fn wake_for_much(&self, queue: &Queue) {
        if queue.bytes > AT_ONCE_BYTES_MAX {
            self.work.notify_one();
        }
    }

    /// The file, where what is queued is little and belongs into the segment that is begun, and
    /// nobody writes.
    fn idle_file(&self, queue: &Queue) -> Option<MutexGuard<'_, LogFile>> {
        let idle = !self.driven && !queue.busy && !queue.items.is_empty();
        if !idle || queue.bytes > AT_ONCE_BYTES_MAX {
            return None;
        }
        let file = self.file.lock();
        file.holds(queue.bytes).then_some(file)
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
        // Whoever wrote it may not be the thread that waits for more.
        if queue.has_work() || queue.closed {
            self.work.notify_one();
        }
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
        let made = self.spares.make(bulk, || self.runs_out_of_segments());
        let mut queue = self.queue.lock();
        let succeeded = made.is_ok();
        queue.no_spare = made.err().map(|error| {
            tracing::warn!(%error, "cannot prepare the next log segment");
            (queue.attempts, error)
        });
        self.room.notify_all();
        (succeeded, queue)
    }

    /// Less than half a segment is left before an appender has to wait for the next, or one waits
    /// for it already; nobody needs it any more; or somebody is at the log, who may need it for
    /// himself and waits for it with the queue locked.
    pub(crate) fn runs_out_of_segments(&self) -> bool {
        self.queue.try_lock().is_none_or(|queue| {
            // What is wanted ends a whole segment behind what was asked for.
            let half = queue.cursor.size.bytes() / 2;
            let short = self.spares.covered_until() + half < queue.wanted_until;
            short || queue.closed || queue.poisoned.is_some()
        })
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
            // What is queued may have been left to be written later.
            self.work.notify_one();
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
