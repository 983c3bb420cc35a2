//! Writers that keep their own account of what was acknowledged to them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::json;

use super::{Http, Rows, until};

/// The table that they write.
const TABLE: &str = "rows";

/// What was acknowledged: for each writer the number of its last row. A writer's rows are numbered
/// from 1 without a hole, and each comes with the new value of the writer's counter, in the same
/// transaction; every other row is a plain PUT, without the counter.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    acknowledged: Mutex<BTreeMap<usize, u64>>,
    /// Highest position of an acknowledgement.
    end: AtomicU64,
    count: AtomicU64,
}

/// The value that belongs to a key.
fn value_of(key: &str) -> Vec<u8> {
    let length = key.bytes().map(usize::from).sum::<usize>() % 199;
    format!("{key}={}", "v".repeat(length)).into_bytes()
}

fn row_key(writer: usize, number: u64) -> String {
    format!("row-{writer:02}-{number:08}")
}

fn counter_key(writer: usize) -> String {
    format!("counter-{writer:02}")
}

impl Ledger {
    /// Rows acknowledged so far, over all rounds.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Highest position that was acknowledged.
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    fn acknowledged(&self) -> BTreeMap<usize, u64> {
        self.acknowledged
            .lock()
            .expect("no writer panics with it")
            .clone()
    }

    /// Checks that `rows` hold everything that was acknowledged and nothing that nobody wrote, and
    /// that no transaction is there by half. Each writer goes on behind its last row that is there.
    #[track_caller]
    pub(crate) fn check(&self, http: &Http) -> Rows {
        let rows = http.rows(TABLE);
        let mut account = self.acknowledged.lock().expect("no writer panics with it");
        let mut expected = 0;
        for (&writer, acknowledged) in account.iter_mut() {
            let number = |key: &str| key.rsplit('-').next().and_then(|text| text.parse().ok());
            let prefix = format!("row-{writer:02}-");
            let last = rows
                .range(prefix.clone()..)
                .take_while(|(key, _)| key.starts_with(&prefix));
            let last: u64 = last.filter_map(|(key, _)| number(key)).max().unwrap_or(0);
            assert!(
                last >= *acknowledged,
                "LOST: writer {writer} was acknowledged {acknowledged} rows, {last} are there"
            );
            assert!(
                last <= *acknowledged + 1,
                "writer {writer} never sent row {last}"
            );
            for number in 1..=last {
                let key = row_key(writer, number);
                assert_eq!(rows.get(&key), Some(&value_of(&key)), "{key}");
            }
            // Rows of even number came with the counter.
            let counter = rows
                .get(&counter_key(writer))
                .map(|value| String::from_utf8_lossy(value));
            let counter = counter.map_or(0, |text| text.parse::<u64>().expect("a number"));
            assert_eq!(counter, last & !1, "half a transaction of writer {writer}");
            expected += last + u64::from(last >= 2);
            *acknowledged = last;
        }
        assert_eq!(rows.len() as u64, expected, "rows that nobody wrote");
        rows
    }
}

/// Threads that write until they are stopped or the node is gone.
#[derive(Debug)]
pub(crate) struct Writers {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    ledger: Arc<Ledger>,
}

impl Writers {
    /// Starts `count` writers that go on where the ledger ends.
    pub(crate) fn start(count: usize, http: &Http, ledger: &Arc<Ledger>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|writer| {
            let (http, ledger, stop) = (http.clone(), ledger.clone(), stop.clone());
            std::thread::spawn(move || write(writer, &http, &ledger, &stop))
        });
        Self {
            threads: threads.collect(),
            stop: stop.clone(),
            ledger: ledger.clone(),
        }
    }

    /// Waits until `more` further rows are acknowledged.
    #[track_caller]
    pub(crate) fn until_acknowledged(&self, more: u64) {
        let goal = self.ledger.count() + more;
        until("writers make progress", || self.ledger.count() >= goal);
    }

    /// Ends them after what they are about.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.join();
    }

    /// Waits for their end, which the node's death brings.
    pub(crate) fn join(self) {
        for thread in self.threads {
            thread.join().expect("a writer does not panic");
        }
    }
}

fn write(writer: usize, http: &Http, ledger: &Ledger, stop: &AtomicBool) {
    let begin = ledger.acknowledged().get(&writer).copied().unwrap_or(0);
    // Known from its first attempt on, so that even a row that nobody acknowledged is accounted.
    ledger
        .acknowledged
        .lock()
        .expect("no writer panics with it")
        .insert(writer, begin);
    for number in begin + 1.. {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let Some(end) = write_row(writer, number, http) else {
            return;
        };
        ledger
            .acknowledged
            .lock()
            .expect("no writer panics with it")
            .insert(writer, number);
        ledger.end.fetch_max(end, Ordering::AcqRel);
        ledger.count.fetch_add(1, Ordering::AcqRel);
    }
}

/// Writes a row; `None` when nobody knows what became of it.
fn write_row(writer: usize, number: u64, http: &Http) -> Option<u64> {
    let key = row_key(writer, number);
    let value = String::from_utf8(value_of(&key)).expect("it is text");
    let answer = if number.is_multiple_of(2) {
        let body = json!({ "ops": [
            { "op": "put", "table": TABLE, "key": key, "value": value },
            { "op": "put", "table": TABLE, "key": counter_key(writer), "value": number.to_string() },
        ]});
        http.send("POST", "/v1/transactions", body.to_string().as_bytes())
    } else {
        http.send(
            "PUT",
            &format!("/v1/tables/{TABLE}/keys/{key}"),
            value.as_bytes(),
        )
    };
    match answer {
        Ok(answer) if answer.status == 200 => Some(answer.lsn()),
        _ => None,
    }
}
