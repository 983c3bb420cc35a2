//! How long after its acknowledgement a write is visible on each standby.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::cluster::Member;
use super::ledger::Ledger;
use super::rows::Item;
use crate::cli::Failure;

/// How long the lag is measured.
const STEADY: Duration = Duration::from_secs(4);

/// Between two writes that are timed.
const PROBE_EVERY: Duration = Duration::from_millis(10);

/// Between two looks at the lag in bytes.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long a write may take to be visible before something is wrong.
const VISIBLE_MAX: Duration = Duration::from_secs(10);

/// The samples: for each standby in milliseconds, and of every one in bytes.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) standbys: BTreeMap<String, Vec<f64>>,
    /// For each timed write, until the last standby showed it.
    pub(crate) slowest: Vec<f64>,
    pub(crate) bytes: Vec<f64>,
}

/// Writes, and times until every standby shows what was written.
pub(crate) fn measure(
    primary: &Member,
    standbys: &[Member],
    ledger: &Ledger,
) -> Result<Samples, Failure> {
    let deadline = Instant::now() + STEADY;
    thread::scope(|scope| {
        let bytes = scope.spawn(|| watch_bytes(primary, deadline));
        let mut samples = time_writes(primary, standbys, ledger, deadline)?;
        let bytes = bytes
            .join()
            .map_err(|_| Failure::failed("the measurement failed"))?;
        samples.bytes = bytes?;
        Ok(samples)
    })
}

fn time_writes(
    primary: &Member,
    standbys: &[Member],
    ledger: &Ledger,
    deadline: Instant,
) -> Result<Samples, Failure> {
    thread::scope(|scope| {
        let (done, results) = mpsc::channel();
        let mut probes = Vec::new();
        for standby in standbys {
            let (send, receive) = mpsc::channel();
            let done = done.clone();
            scope.spawn(move || {
                while let Ok(written) = receive.recv() {
                    if done
                        .send((standby.name.as_str(), visible(standby, &written)))
                        .is_err()
                    {
                        return;
                    }
                }
            });
            probes.push(send);
        }
        let mut samples = Samples::default();
        for number in 0_u32.. {
            if Instant::now() >= deadline {
                break;
            }
            let written = write(primary, number, ledger)?;
            for probe in &probes {
                // A thread that has gone has said why, below.
                let _ = probe.send(written.clone());
            }
            let mut slowest = 0.0_f64;
            for _ in standbys {
                let (name, millis) = results.recv().map_err(Failure::failed)?;
                let millis = millis?;
                slowest = slowest.max(millis);
                samples
                    .standbys
                    .entry(name.to_owned())
                    .or_default()
                    .push(millis);
            }
            samples.slowest.push(slowest);
            thread::sleep(PROBE_EVERY);
        }
        Ok(samples)
    })
}

fn write(primary: &Member, number: u32, ledger: &Ledger) -> Result<Written, Failure> {
    let key = format!("probe-{number:06}");
    let item = Item {
        table: "probes",
        key,
        value: "now".to_owned(),
    };
    let value = item.value.clone().into_bytes();
    let written = primary.client.put(item.table, item.key.as_bytes(), value)?;
    let at = Instant::now();
    ledger.acknowledge([&item], &written.lsn);
    Ok(Written {
        key: item.key,
        lsn: written.lsn,
        at,
    })
}

#[derive(Debug, Clone)]
struct Written {
    key: String,
    lsn: String,
    at: Instant,
}

/// Milliseconds from the acknowledgement until `standby` showed the write.
fn visible(standby: &Member, written: &Written) -> Result<f64, Failure> {
    let wait = Some((written.lsn.as_str(), VISIBLE_MAX));
    let value = standby.client.get("probes", written.key.as_bytes(), wait)?;
    let millis = written.at.elapsed().as_secs_f64() * 1000.0;
    match value {
        Some(_) => Ok(millis),
        None => Err(Failure::damaged(format!(
            "{} says it is at {}, but does not show {}, which was written before",
            standby.name, written.lsn, written.key
        ))),
    }
}

fn watch_bytes(primary: &Member, deadline: Instant) -> Result<Vec<f64>, Failure> {
    let mut bytes = Vec::new();
    while Instant::now() < deadline {
        let standbys = primary.standbys()?;
        bytes.extend(
            standbys
                .iter()
                .filter_map(|standby| standby["lag_bytes"].as_f64()),
        );
        thread::sleep(LOOK_EVERY);
    }
    Ok(bytes)
}

/// The value that the share `of` (from 0 to 1) of `samples` does not exceed; 0 without samples.
pub(crate) fn percentile(samples: &[f64], of: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let wanted = crate::units::to_f64(sorted.len() as u64) * of;
    let below = (1..)
        .map(f64::from)
        .take(sorted.len())
        .filter(|rank| *rank < wanted)
        .count();
    sorted.get(below).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_samples_themselves() {
        let samples = (1..=100).rev().map(f64::from).collect::<Vec<_>>();
        assert_eq!(
            [0.0, 0.5, 0.99, 1.0].map(|of| percentile(&samples, of)),
            [1.0, 50.0, 99.0, 100.0]
        );
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
