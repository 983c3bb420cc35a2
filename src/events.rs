//! What happened to a node: a record that outlasts it, for whoever asks at three in the morning.
//!
//! Events lie in `DIR/events/`, one line of JSON each, in two files that take turns: when the newer
//! is full it takes the place of the older. They are recorded from wherever they happen, also with
//! locks held, so recording only puts them into a queue; a thread of its own writes. What cannot
//! be written is lost with a warning, and nothing else suffers by it.
//!
//! It decides nothing, and nobody decides by it.

mod files;
mod kind;
mod replication;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::moment;
use files::Files;
pub use kind::EventType;
pub(crate) use replication::recorder;

/// Events in one answer when no limit is given.
pub const EVENTS_DEFAULT: usize = 100;

/// Most events in one answer.
pub const EVENTS_MAX: usize = 10_000;

/// Most events that wait to be written; what comes then is lost.
const QUEUE_MAX: usize = 1024;

/// Longest message in bytes; the rest of a longer one is left out.
const MESSAGE_BYTES_MAX: usize = 4096;

/// How long a question waits until everything recorded before is written.
const WRITTEN_WAIT: Duration = Duration::from_secs(2);

/// Something that happened to a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Climbs with each event of this node, from 1.
    pub id: u64,
    /// Id of the node that recorded it.
    pub node_id: String,
    /// What kind of thing it is.
    pub event_type: EventType,
    /// The primary it is about, if one is known.
    pub primary_name: Option<String>,
    /// The standby it is about, if any.
    pub standby_name: Option<String>,
    /// How far that was behind, in bytes, where it matters.
    pub lag_bytes: Option<u64>,
    /// A sentence for people.
    pub message: String,
    /// Further facts, by name.
    pub metadata: Map<String, Value>,
    /// When it happened, by this node's clock; RFC 3339 in JSON.
    #[serde(with = "crate::moment::text")]
    pub created_at: SystemTime,
}

/// Which events to return. The default is the newest [`EVENTS_DEFAULT`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    /// Only what was recorded by the node with this id, or is about the primary or standby of this
    /// name.
    pub node: Option<String>,
    /// Only this kind.
    pub event_type: Option<EventType>,
    /// Only from this time on.
    pub since: Option<SystemTime>,
    /// Only before this time.
    pub until: Option<SystemTime>,
    /// Only what came after the event with this id: the oldest of them first come in, so that one
    /// who asks again and again misses none.
    pub after_id: Option<u64>,
    /// At most so many, up to [`EVENTS_MAX`]: the newest, unless `after_id` is given.
    pub limit: Option<usize>,
}

impl EventFilter {
    fn admits(&self, event: &Event) -> bool {
        let named = |node: &String| {
            let names = [&event.primary_name, &event.standby_name];
            *node == event.node_id || names.contains(&&Some(node.clone()))
        };
        self.node.as_ref().is_none_or(named)
            && self.event_type.is_none_or(|kind| kind == event.event_type)
            && self.since.is_none_or(|since| event.created_at >= since)
            && self.until.is_none_or(|until| event.created_at < until)
            && self.after_id.is_none_or(|after| event.id > after)
    }

    /// Those of `events` that it admits, in their order.
    fn choose(&self, events: impl Iterator<Item = Event>) -> Vec<Event> {
        let limit = self.limit.unwrap_or(EVENTS_DEFAULT);
        let admitted = events.filter(|event| self.admits(event));
        if self.after_id.is_some() {
            return admitted.take(limit).collect();
        }
        let mut newest = VecDeque::new();
        for event in admitted {
            newest.push_back(event);
            if newest.len() > limit {
                newest.pop_front();
            }
        }
        newest.into()
    }
}

/// An event before it has its place in the record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draft {
    event_type: EventType,
    primary_name: Option<String>,
    standby_name: Option<String>,
    lag_bytes: Option<u64>,
    message: String,
    metadata: Map<String, Value>,
    created_at: SystemTime,
}

impl Draft {
    pub(crate) fn new(event_type: EventType, message: impl Into<String>) -> Self {
        let mut message = message.into();
        let mut end = message.len().min(MESSAGE_BYTES_MAX);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        Self {
            event_type,
            primary_name: None,
            standby_name: None,
            lag_bytes: None,
            message,
            metadata: Map::new(),
            created_at: moment::now(),
        }
    }

    pub(crate) fn primary(mut self, name: impl Into<String>) -> Self {
        self.primary_name = Some(name.into());
        self
    }

    pub(crate) fn standby(mut self, name: impl Into<String>) -> Self {
        self.standby_name = Some(name.into());
        self
    }

    pub(crate) fn lag(mut self, bytes: u64) -> Self {
        self.lag_bytes = Some(bytes);
        self
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.metadata.insert(name.to_owned(), value.into());
        self
    }

    fn into_event(self, id: u64, node_id: String) -> Event {
        Event {
            id,
            node_id,
            event_type: self.event_type,
            primary_name: self.primary_name,
            standby_name: self.standby_name,
            lag_bytes: self.lag_bytes,
            message: self.message,
            metadata: self.metadata,
            created_at: self.created_at,
        }
    }
}

/// The record of one data directory. Clones are handles on the same one; the thread ends when the
/// last is dropped and everything is written.
#[derive(Debug, Clone)]
pub(crate) struct EventLog {
    shared: Arc<Shared>,
    _handle: Arc<Handle>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Rung when the queue is no longer empty, or is closed.
    filled: Condvar,
    /// Rung when everything is written.
    written: Condvar,
    files: Mutex<Files>,
    node_id: OnceLock<String>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Draft>,
    writing: bool,
    lost: u64,
    closed: bool,
}

/// Closes the queue when the last handle is gone.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.queue.lock().closed = true;
        self.0.filled.notify_all();
    }
}

impl EventLog {
    /// The record in data directory `dir`. Nothing is touched before the first event.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            written: Condvar::new(),
            files: Mutex::new(Files::new(&dir.join("events"))),
            node_id: OnceLock::new(),
        });
        let writing = shared.clone();
        let thread = std::thread::Builder::new().name("mainstay-events".to_owned());
        let started = thread.spawn(move || write(&writing));
        started.map_err(|error| Error::Config(format!("cannot start a thread: {error}")))?;
        let handle = Arc::new(Handle(shared.clone()));
        Ok(Self {
            shared,
            _handle: handle,
        })
    }

    /// Says whose record it is. Nothing is recorded before; a second call does nothing.
    pub(crate) fn identify(&self, node_id: String) {
        // It is the same in every life of a node.
        let _ = self.shared.node_id.set(node_id);
    }

    /// Records an event. It never waits for the disk.
    pub(crate) fn record(&self, draft: Draft) {
        if self.shared.node_id.get().is_none() {
            return;
        }
        let mut queue = self.shared.queue.lock();
        if queue.waiting.len() >= QUEUE_MAX {
            queue.lost += 1;
            return;
        }
        queue.waiting.push_back(draft);
        drop(queue);
        self.shared.filled.notify_one();
    }

    /// Waits until everything recorded so far is written or lost, though not for ever.
    pub(crate) fn settle(&self) {
        let deadline = Instant::now() + WRITTEN_WAIT;
        let mut queue = self.shared.queue.lock();
        while queue.writing || !queue.waiting.is_empty() {
            let waited = self.shared.written.wait_until(&mut queue, deadline);
            if waited.timed_out() {
                return;
            }
        }
    }

    /// As [`settle`](Self::settle), from a task.
    pub(crate) async fn settled(&self) {
        let events = self.clone();
        // It only waits.
        let _ = tokio::task::spawn_blocking(move || events.settle()).await;
    }

    /// The events that `filter` admits, oldest first.
    ///
    /// # Errors
    /// [`Error::Usage`] for a limit that is not from 1 to [`EVENTS_MAX`]; disk errors.
    pub(crate) fn events(&self, filter: &EventFilter) -> Result<Vec<Event>> {
        let limit = filter.limit.unwrap_or(EVENTS_DEFAULT);
        if !(1..=EVENTS_MAX).contains(&limit) {
            let text = format!("limit: {limit} is not from 1 to {EVENTS_MAX}");
            return Err(Error::Usage(text));
        }
        self.settle();
        let lines = self.shared.files.lock().read()?;
        Ok(filter.choose(lines.into_iter()))
    }
}

/// Writes what is recorded until no handle is left.
fn write(shared: &Shared) {
    loop {
        let mut queue = shared.queue.lock();
        while queue.waiting.is_empty() && !queue.closed {
            shared.filled.wait(&mut queue);
        }
        let batch = std::mem::take(&mut queue.waiting);
        let lost = std::mem::take(&mut queue.lost);
        if batch.is_empty() {
            return;
        }
        queue.writing = true;
        drop(queue);
        if lost > 0 {
            tracing::warn!(
                lost,
                "events came faster than they could be written, and were lost"
            );
        }
        let node_id = shared.node_id.get().cloned().unwrap_or_default();
        shared.files.lock().append(batch, &node_id);
        shared.queue.lock().writing = false;
        shared.written.notify_all();
    }
}

#[cfg(test)]
mod tests;
