//! The play: load, write, measure, kill, promote, follow, write on, compare.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::{Cluster, Member};
use super::lag::{self, percentile};
use super::ledger::Ledger;
use super::report::{Failover, Findings, LagShown, Narrator, NodeShown};
use super::rows::Source;
use super::writers::{LOADERS, Load, Target, WRITERS, keep_writing, mb_per_s};
use crate::cli::Failure;
use crate::client::ClientError;

/// How long the standbys may take to stream and to count.
const JOIN_MAX: Duration = Duration::from_secs(20);

/// How long a standby may refuse to be promoted: until it is sure that the primary is gone.
const PROMOTE_MAX: Duration = Duration::from_secs(15);

/// How long after the kill a write must be acknowledged again.
const RESUME_MAX: Duration = Duration::from_secs(20);

/// How long the writers go on after the failover.
const WRITE_ON: Duration = Duration::from_secs(3);

/// Between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Plays it and returns what was found.
pub(crate) fn play(
    cluster: &Cluster,
    source: Source,
    standbys: u8,
    narrator: &Narrator,
) -> Result<Findings, Failure> {
    let primary = cluster.start("a", None)?;
    let names = ('b'..='z').map(String::from).take(standbys.into());
    let standbys = names.map(|name| cluster.start(&name, Some(&primary)));
    let standbys = standbys.collect::<Result<Vec<_>, _>>()?;
    let states = join(&primary, &standbys)?;
    narrator.nodes(&shown(&primary, &standbys, &states))?;
    let ledger = Ledger::default();
    let throughput = load(&primary, source, &ledger, narrator)?;
    let target = Target::new(primary.clone());
    let (lag, failover, left) = thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (target, ledger) = (&target, &ledger);
            scope.spawn(move || keep_writing(writer, target, ledger));
        }
        let done = disturb(cluster, &primary, standbys, &target, &ledger, narrator);
        target.stop();
        if done.is_err() {
            // Writers may wait for nodes that will never answer.
            cluster.kill_all();
        }
        done
    })?;
    let tally = ledger.compare(&left)?;
    Ok(Findings {
        rows_acknowledged: tally.acknowledged,
        rows_found: tally.found,
        rows_lost: tally.acknowledged - tally.found,
        rows_unexpected: tally.unexpected,
        examples: tally.examples,
        lag_ms_p50: lag.0,
        lag_ms_p99: lag.1,
        throughput_mb_s: throughput,
        failover_ms: failover,
    })
}

/// Waits until every standby streams and counts, and returns what the primary says of them.
fn join(primary: &Member, standbys: &[Member]) -> Result<Vec<Value>, Failure> {
    let deadline = Instant::now() + JOIN_MAX;
    loop {
        let states = primary.standbys()?;
        let ready = standbys.iter().filter(|standby| {
            let state = states
                .iter()
                .find(|state| state["name"] == standby.name.as_str());
            state.is_some_and(|state| {
                let counts = ["sync", "quorum"]
                    .map(Value::from)
                    .contains(&state["sync_state"]);
                state["state"] == "streaming" && counts
            })
        });
        if ready.count() == standbys.len() {
            return Ok(states);
        }
        if Instant::now() > deadline {
            let seconds = JOIN_MAX.as_secs();
            let states = Value::from(states);
            return Err(Failure::failed(format!(
                "the standbys did not all stream within {seconds} s; the primary says {states}"
            )));
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn shown(primary: &Member, standbys: &[Member], states: &[Value]) -> Vec<NodeShown> {
    let node = |member: &Member, role: &'static str, state: String| NodeShown {
        name: member.name.clone(),
        role,
        address: member.replication.clone(),
        state,
    };
    let mut nodes = vec![node(primary, "primary", "timeline 1".to_owned())];
    nodes.extend(standbys.iter().map(|standby| {
        let state = states
            .iter()
            .find(|state| state["name"] == standby.name.as_str());
        let word = |field: &str| state.and_then(|state| state[field].as_str()).unwrap_or("?");
        node(
            standby,
            "standby",
            format!("{}, {}", word("state"), word("sync_state")),
        )
    }));
    nodes
}

/// Loads all rows and returns how fast, in MB/s of keys and values.
fn load(
    primary: &Member,
    source: Source,
    ledger: &Ledger,
    narrator: &Narrator,
) -> Result<f64, Failure> {
    let bar = narrator.load_bar(source.what(), source.expected());
    let what = source.what().to_owned();
    let load = Load::new(source);
    let began = Instant::now();
    thread::scope(|scope| {
        let loaders = (0..LOADERS).map(|_| scope.spawn(|| load.run(primary, ledger)));
        let loaders = loaders.collect::<Vec<_>>();
        while loaders.iter().any(|loader| !loader.is_finished()) {
            bar.set_position(load.rows.load(Ordering::Relaxed));
            thread::sleep(LOOK_EVERY);
        }
    });
    let took = began.elapsed();
    bar.finish_and_clear();
    if let Some(failure) = load.failure() {
        return Err(failure);
    }
    let bytes = load.bytes.into_inner();
    let throughput = mb_per_s(bytes, took);
    narrator.loaded(load.rows.into_inner(), &what, bytes, throughput)?;
    Ok(throughput)
}

type Disturbed = ((f64, f64), f64, Vec<Member>);

/// While the writers write: measures the lag, kills the primary and puts another in its place.
/// Returns the lag, the time without acknowledgements, and the nodes that are left.
fn disturb(
    cluster: &Cluster,
    primary: &Member,
    mut standbys: Vec<Member>,
    target: &Target,
    ledger: &Ledger,
    narrator: &Narrator,
) -> Result<Disturbed, Failure> {
    let samples = lag::measure(primary, &standbys, ledger)?;
    let both = |samples: &[f64]| (percentile(samples, 0.5), percentile(samples, 0.99));
    let lag = both(&samples.slowest);
    let each = samples
        .standbys
        .iter()
        .map(|(name, millis)| (name.clone(), both(millis)));
    narrator.lag(&LagShown {
        each: each.collect(),
        bytes: both(&samples.bytes),
    })?;

    let killed = Instant::now();
    cluster.kill(&primary.name)?;
    narrator.killed(&primary.name)?;
    let best = most_advanced(&standbys)?;
    let promoted = standbys.remove(best);
    let asked = Instant::now();
    let answer = promote(&promoted)?;
    let took = asked.elapsed();
    target.set(promoted.clone());
    for standby in &standbys {
        standby.client.follow(&promoted.url())?;
    }
    let resumed = wait_for_writes(target)?.duration_since(killed);
    narrator.failed_over(&Failover {
        promoted: promoted.name.clone(),
        timeline: answer["timeline"].as_u64().unwrap_or(0),
        lsn: answer["lsn"].as_str().unwrap_or("?").to_owned(),
        promote_ms: took.as_secs_f64() * 1000.0,
        resumed_ms: resumed.as_secs_f64() * 1000.0,
        following: standbys
            .iter()
            .map(|standby| standby.name.clone())
            .collect(),
    })?;
    thread::sleep(WRITE_ON);
    standbys.insert(0, promoted);
    Ok((lag, resumed.as_secs_f64() * 1000.0, standbys))
}

/// Which of `standbys` has flushed most, on the newest timeline.
fn most_advanced(standbys: &[Member]) -> Result<usize, Failure> {
    let progress = standbys
        .iter()
        .map(Member::progress)
        .collect::<Result<Vec<_>, _>>()?;
    let best = progress
        .iter()
        .enumerate()
        .rev()
        .max_by_key(|(_, progress)| **progress);
    best.map(|(at, _)| at)
        .ok_or_else(|| Failure::failed("there are no standbys"))
}

/// Promotes `standby`, once it no longer takes the primary for alive.
fn promote(standby: &Member) -> Result<Value, Failure> {
    let deadline = Instant::now() + PROMOTE_MAX;
    loop {
        match standby.client.order("promote", &json!({})) {
            Ok(answer) => return Ok(answer),
            Err(ClientError::Refused { status: 412, .. }) if Instant::now() < deadline => {
                thread::sleep(LOOK_EVERY);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until the new primary acknowledges writes, and returns since when.
fn wait_for_writes(target: &Target) -> Result<Instant, Failure> {
    let deadline = Instant::now() + RESUME_MAX;
    loop {
        if let Some(at) = target.resumed() {
            return Ok(at);
        }
        if Instant::now() > deadline {
            let seconds = RESUME_MAX.as_secs();
            return Err(Failure::failed(format!(
                "the new primary acknowledged nothing within {seconds} s"
            )));
        }
        thread::sleep(LOOK_EVERY);
    }
}
