//! A client that overwrites a few large rows, so that tables are written and merged.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::support::Http;

const TABLE: &str = "bulk";

/// Rows, and the size of each.
const ROWS: usize = 24;
const BYTES: usize = 60_000;

/// What a row was last acknowledged to hold, and what it may hold since.
#[derive(Debug, Copy, Clone, Default)]
struct Row {
    acknowledged: u64,
    sent: u64,
}

#[derive(Debug, Default)]
struct State {
    rows: Vec<Row>,
    sent: u64,
    count: u64,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Bulk {
    state: Arc<Mutex<State>>,
}

fn value(number: u64) -> Vec<u8> {
    let letter = b'a' + (number % 26) as u8;
    let mut value = format!("{number}:").into_bytes();
    value.resize(BYTES, letter);
    value
}

impl Bulk {
    /// Writes until it is not acknowledged.
    pub(super) fn start(&self, http: &Http) -> JoinHandle<()> {
        let (this, http) = (self.clone(), http.clone());
        std::thread::spawn(move || while this.write(&http) {})
    }

    fn write(&self, http: &Http) -> bool {
        let mut state = self.lock();
        state.rows.resize(ROWS, Row::default());
        state.sent += 1;
        let number = state.sent;
        // Not in turn, so that tables overlap.
        let at = (number * 7 % ROWS as u64) as usize;
        state.rows[at].sent = number;
        drop(state);
        let path = format!("/v1/tables/{TABLE}/keys/{at:02}");
        let answer = http.send("PUT", &path, &value(number));
        let acknowledged = answer.is_ok_and(|answer| answer.status == 200);
        if acknowledged {
            let mut state = self.lock();
            state.rows[at].acknowledged = number;
            state.count += 1;
        }
        acknowledged
    }

    /// Rows that were acknowledged so far.
    pub(super) fn count(&self) -> u64 {
        self.lock().count
    }

    /// Checks that each row is as it was acknowledged, or as it was sent since.
    #[track_caller]
    pub(super) fn check(&self, http: &Http) {
        let there = http.rows(TABLE);
        for (at, row) in self.lock().rows.iter_mut().enumerate() {
            let found = there.get(&format!("{at:02}"));
            let holds = |number: u64| match number {
                0 => found.is_none(),
                _ => found == Some(&value(number)),
            };
            let Row { acknowledged, sent } = *row;
            assert!(
                holds(acknowledged) || holds(sent),
                "LOST: row {at} was acknowledged as {acknowledged}, sent as {sent} and is {:?}",
                found.map(|value| String::from_utf8_lossy(&value[..20]).into_owned())
            );
            row.acknowledged = if holds(sent) { sent } else { acknowledged };
            row.sent = row.acknowledged;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }
}
