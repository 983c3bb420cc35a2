//! From many appenders to one file: reserving, queueing, and the thread that writes.
//!
//! An appender computes its payload's checksum, reserves positions under a short lock and leaves;
//! it waits for nothing but room. The writer thread takes everything that queued up meanwhile as
//! one group, so a group is as large as the disk is slow: group commit without a timer. A second
//! thread makes spare segments ahead of need. What the two do is in `work.rs`, and what becomes of
//! the commit position in `commit.rs`.
//!
//! The first failed write or sync poisons the log: every waiter and every later append ends with
//! [`Error::Poisoned`], and nothing is ever flushed again by this process.

mod commit;
mod publish;
mod work;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::control::{ControlFile, Watermark};
use crate::entry::WalEntryType;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::signal::Signal;
use crate::sync::{AtomicBool, Condvar, Mutex, MutexGuard, RwLock};
use crate::wal::log_file::{Draft, Item, LogFile};
use crate::wal::record::record_len;
use crate::wal::scan::Owner;
use crate::wal::segment::{Cursor, Placed};
use crate::wal::spares::Spares;
use crate::wal::tail::Tail;
use crate::wal::tally::{self, Tally};

/// Most bytes of payload that may wait for the writer; appenders wait beyond it.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;

/// Most bytes written as one group.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// Log comes in bulk when a group has this many bytes: filling new segments with zeros would then
/// cost more than it saves.
const BULK_BYTES: usize = 64 << 10;

/// Everything the appenders, the writer, and the readers of one log share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) queue: Mutex<Queue>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes appenders that wait for room, spares, or an idle writer.
    room: Condvar,
    /// Wakes the thread that makes spares.
    want_spare: Condvar,
    pub(crate) file: Mutex<LogFile>,
    pub(crate) tail: RwLock<Tail>,
    /// Not locked while a change is synced: whoever notes what is flushed would wait for that.
    pub(crate) control: Mutex<ControlFile>,
    /// Held while the control file changes, and locked before it.
    pub(crate) changing: Mutex<()>,
    pub(crate) segments: RwLock<std::collections::BTreeMap<u64, u32>>,
    pub(crate) owner: RwLock<Arc<Owner>>,
    pub(crate) spares: Arc<Spares>,
    pub(crate) sealed: Signal,
    pub(crate) written: Signal,
    pub(crate) flushed: Signal,
    pub(crate) commit: Signal,
    pub(crate) replayable: Signal,
    /// Up to where the primary is known to have committed, never above what is queued here.
    told: Mutex<Lsn>,
    /// `Config` entries above the checkpoint: end of the record, and its payload. Locked after the
    /// queue, so that a checkpoint sees every entry that is flushed.
    pub(crate) configs: Mutex<Vec<(Lsn, Bytes)>>,
    /// How many transactions end in what was appended. Locked after the queue.
    pub(crate) tally: Mutex<Tally>,
    /// Writing or syncing failed; every later watermark says so.
    failed: AtomicBool,
    /// Nobody works in the background: whoever would wait does the work.
    driven: bool,
    /// Whether it is durably noted that others may be sent what is not flushed here.
    pub(crate) overlaps: AtomicBool,
    /// Whether others may hold log that this node lost: it may not go on in this timeline.
    pub(crate) behind: AtomicBool,
    /// Whether the commit position simply follows the flushed one: no synchronous standbys.
    pub(crate) commit_follows: AtomicBool,
}

/// What waits for the writer.
#[derive(Debug)]
pub(crate) struct Queue {
    items: Vec<Item>,
    bytes: usize,
    pub(crate) cursor: Cursor,
    /// Segments should exist up to here.
    pub(crate) wanted_until: Lsn,
    /// CRC of the record before `cursor.next`, while it is known without asking the writer.
    pub(crate) last_crc: Option<Option<u32>>,
    /// A group is being written, or waits for its sync.
    busy: bool,
    /// The group was written by its appender, and is left to the writer to sync.
    ahead: bool,
    /// The group that was taken last was a large one.
    bulk: bool,
    closed: bool,
    poisoned: Option<(Lsn, String)>,
    /// Attempts to make a spare so far.
    attempts: u64,
    /// Which of them failed last, and why.
    no_spare: Option<(u64, Error)>,
}

impl Queue {
    pub(crate) fn new(cursor: Cursor, last_crc: Option<u32>) -> Self {
        Self {
            items: Vec::new(),
            bytes: 0,
            cursor,
            wanted_until: cursor.next + cursor.size.bytes(),
            last_crc: Some(last_crc),
            busy: false,
            ahead: false,
            bulk: false,
            closed: false,
            poisoned: None,
            attempts: 0,
            no_spare: None,
        }
    }

    fn check_open(&self) -> Result<()> {
        match &self.poisoned {
            Some((since, why)) => Err(Error::Poisoned {
                since: *since,
                why: why.clone(),
            }),
            None if self.closed => Err(Error::Closed),
            None => Ok(()),
        }
    }
}

/// A record to append, checked and with its payload's checksum.
pub(crate) struct Unplaced {
    pub(crate) entry_type: WalEntryType,
    pub(crate) tx_id: u64,
    pub(crate) payload: Bytes,
    pub(crate) crc: crate::wal::record::PayloadCrc,
    /// Where it must land, if the appender insists.
    pub(crate) at: Option<Lsn>,
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "called once, by open")]
    pub(crate) fn new(
        queue: Queue,
        file: LogFile,
        tail: Tail,
        control: ControlFile,
        segments: std::collections::BTreeMap<u64, u32>,
        owner: Arc<Owner>,
        spares: Arc<Spares>,
        commit: Lsn,
        configs: Vec<(Lsn, Bytes)>,
        driven: bool,
    ) -> Self {
        let (end, overlaps) = (file.end.lsn, control.get().overlapped);
        Self {
            queue: Mutex::new(queue),
            work: Condvar::new(),
            room: Condvar::new(),
            want_spare: Condvar::new(),
            file: Mutex::new(file),
            tail: RwLock::new(tail),
            control: Mutex::new(control),
            changing: Mutex::new(()),
            segments: RwLock::new(segments),
            owner: RwLock::new(owner),
            spares,
            sealed: Signal::new(end),
            written: Signal::new(end),
            flushed: Signal::new(end),
            commit: Signal::new(commit),
            replayable: Signal::new(commit),
            told: Mutex::new(Lsn::ZERO),
            configs: Mutex::new(configs),
            tally: Mutex::new(Tally::new(end)),
            failed: AtomicBool::new(false),
            driven,
            overlaps: AtomicBool::new(overlaps),
            behind: AtomicBool::new(overlaps),
            commit_follows: AtomicBool::new(true),
        }
    }

    /// Reserves places for `records`, one after the other, and queues them. Waits for room.
    /// Returns the start of the first and the end of the last.
    pub(crate) fn append(&self, records: Vec<Unplaced>) -> Result<(Lsn, Lsn)> {
        let bytes = records
            .iter()
            .map(|record| record_len(record.payload.len()))
            .sum::<usize>();
        let mut queue = self.queue.lock();
        let asked = queue.attempts;
        loop {
            queue.check_open()?;
            let mut cursor = queue.cursor;
            for record in &records {
                cursor.place(record.payload.len());
            }
            if self.has_room(&mut queue, bytes, cursor.next, asked)? {
                break;
            }
            self.wait_for_room(&mut queue);
        }
        let mut first = None;
        // Positions are checked before anything is queued: all records or none.
        let mut cursor = queue.cursor;
        let mut items = Vec::with_capacity(records.len());
        let mut configs = Vec::new();
        let mut ended = 0;
        for record in records {
            let Placed { at, .. } = cursor.place(record.payload.len());
            if let Some(got) = record.at.filter(|&got| got != at) {
                return Err(Error::NotContiguous { expected: at, got });
            }
            first.get_or_insert(at);
            let Unplaced {
                entry_type,
                tx_id,
                payload,
                crc,
                ..
            } = record;
            ended += u64::from(tally::ends(entry_type, tx_id));
            if entry_type == WalEntryType::Config {
                configs.push((cursor.next, payload.clone()));
            }
            items.push(Item::Draft(Draft {
                at,
                entry_type,
                tx_id,
                payload,
                crc,
            }));
        }
        queue.cursor = cursor;
        queue.last_crc = None;
        queue.items.append(&mut items);
        queue.bytes += bytes;
        self.tally.lock().note(cursor.next, ended);
        if !configs.is_empty() {
            self.configs.lock().append(&mut configs);
        }
        self.begin_group(queue);
        Ok((first.unwrap_or(cursor.next), cursor.next))
    }

    /// Queues sealed bytes that were checked against the queue's end while it was locked.
    pub(crate) fn append_raw(&self, queue: &mut MutexGuard<'_, Queue>, bytes: Bytes, crc: u32) {
        let at = queue.cursor.next;
        queue.cursor.next = at + bytes.len() as u64;
        queue.last_crc = Some(Some(crc));
        queue.bytes += bytes.len();
        queue.items.push(Item::Raw { at, bytes, crc });
    }

    /// Locks the queue once there is room for `bytes` more, at its end.
    pub(crate) fn lock_for_raw(&self, bytes: usize) -> Result<MutexGuard<'_, Queue>> {
        let mut queue = self.queue.lock();
        let asked = queue.attempts;
        loop {
            queue.check_open()?;
            let end = queue.cursor.next + bytes as u64;
            let known = queue.last_crc.is_some();
            if known && self.has_room(&mut queue, bytes, end, asked)? {
                return Ok(queue);
            }
            if !known && queue.items.is_empty() && !queue.busy {
                queue.last_crc = Some(self.file.lock().end.prev_crc);
                continue;
            }
            self.wait_for_room(&mut queue);
        }
    }

    /// Whether `bytes` more may be queued up to `end` now. Fails if an attempt to make a spare did
    /// that began after the first `asked` ones: an earlier one says nothing about the space now.
    fn has_room(&self, queue: &mut Queue, bytes: usize, end: Lsn, asked: u64) -> Result<bool> {
        let segment = queue.cursor.size.bytes();
        queue.wanted_until = queue.wanted_until.max(end + segment);
        let covered = self.spares.covered_until();
        if queue.wanted_until > covered {
            self.want_spare.notify_one();
        }
        if end > covered {
            // This caller is refused; the next one finds the other thread trying again.
            let failed = queue.no_spare.take_if(|(attempt, _)| *attempt > asked);
            return failed.map_or(Ok(false), |(_, error)| Err(error));
        }
        Ok(queue.bytes == 0 || queue.bytes + bytes <= QUEUE_BYTES_MAX)
    }

    /// Runs `change` on the log file while nothing is queued, being written or appended, and moves
    /// the queue to wherever the log ends afterwards. `change` sets its second argument once it
    /// cannot be undone: if it fails then, the log is half changed, so it stops.
    pub(crate) fn exclusively<T>(
        &self,
        change: impl FnOnce(&mut LogFile, &mut bool) -> Result<T>,
    ) -> Result<T> {
        let mut queue = self.queue.lock();
        loop {
            queue.check_open()?;
            if queue.items.is_empty() && !queue.busy {
                break;
            }
            self.wait_for_room(&mut queue);
        }
        let mut file = self.file.lock();
        let mut halfway = false;
        let changed = change(&mut file, &mut halfway);
        if let Some(error) = changed.as_ref().err().filter(|_| halfway) {
            self.poison(&mut queue, error);
        }
        let end = file.end.lsn;
        if end != queue.cursor.next {
            queue.cursor.next = end;
            self.tail.write().restart(end);
            self.tally.lock().restart(end);
        }
        queue.last_crc = Some(file.end.prev_crc);
        queue.wanted_until = end + queue.cursor.size.bytes();
        self.spares.cover_from(end);
        self.room.notify_all();
        changed
    }

    fn watermark(&self, control: &ControlFile, commit: Lsn) -> Watermark {
        Watermark {
            flushed: self.flushed.get(),
            commit,
            timeline_number: control.get().timeline_number,
            failed: self.failed.load(Ordering::Acquire),
        }
    }

    /// Stops the log for good.
    fn poison(&self, queue: &mut Queue, error: &Error) {
        let flushed = self.flushed.get();
        queue.poisoned = Some((flushed, error.to_string()));
        queue.items.clear();
        tracing::error!(%error, %flushed, "the log stopped");
        self.end_waits();
    }

    /// A segment became a spare again.
    pub(crate) fn spare_returned(&self) {
        self.queue.lock().no_spare = None;
        self.room.notify_all();
    }

    /// No more appends; the writer finishes what is queued and ends.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.work.notify_all();
        self.room.notify_all();
        self.want_spare.notify_all();
    }

    /// Ends every wait on the positions.
    pub(crate) fn end_waits(&self) {
        self.sealed.close();
        self.written.close();
        self.flushed.close();
        self.commit.close();
        self.replayable.close();
    }

    pub(crate) fn poisoned(&self) -> Option<Error> {
        let queue = self.queue.lock();
        let (since, why) = queue.poisoned.as_ref()?;
        Some(Error::Poisoned {
            since: *since,
            why: why.clone(),
        })
    }
}
