//! One round of faults: what is done to which node, one thing after the other.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::clients::Clients;
use super::cluster::{Cluster, NAMES};
use crate::sim::random::Random;
use crate::support::{End, Http, Line, Way};

/// How often an order of failover is repeated while it is refused, and how long after: for longer
/// than a primary may be silent.
const FAILOVER_TRIES: u64 = 60;
const FAILOVER_PAUSE: Duration = Duration::from_millis(25);

/// A disturbance that outlasts every time that a node waits for another, and how rare it is.
const LONG: Duration = Duration::from_secs(12);
const LONG_ONE_IN: u64 = 50;

/// What was done, and how often it came to a kill or a failover.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) kills: u64,
    pub(super) failovers: u64,
    pub(super) story: String,
}

impl Told {
    fn tell(&mut self, what: &str) {
        if !self.story.is_empty() {
            self.story += ", ";
        }
        self.story += what;
    }
}

/// Does some harm, kills at most three nodes and `kills_max`, and may order a failover.
pub(super) fn run(
    cluster: &mut Cluster,
    clients: &Clients,
    random: &mut Random,
    kills_max: u64,
) -> Told {
    let mut told = Told::default();
    let primary = cluster.primary().unwrap_or(0);
    let disturbed = random.one_in(2).then(|| {
        let one = disturb(cluster, primary, random, &mut told);
        let (some, most) = (1 + random.below(30), moment(random, 300));
        clients.acknowledges_within(some, most);
        one
    });
    // One that was disturbed and lives on has to find its place again.
    let spared = disturbed.filter(|_| random.one_in(2));
    // One that lags while the primary dies must not take over alone.
    let lags = disturbed.filter(|&one| one != primary && !random.one_in(3));
    let victims = lags.map_or_else(|| victims(primary, random), |_| vec![primary]);
    for victim in victims {
        if Some(victim) == spared || told.kills >= kills_max {
            continue;
        }
        if cluster.kill(victim) {
            told.kills += 1;
            told.tell(&format!("{} killed", NAMES[victim]));
        }
        if random.one_in(2) {
            clients.acknowledges_within(1 + random.below(10), moment(random, 60));
        }
    }
    let in_doubt = disturbed == Some(primary) || !cluster.awake().contains(&primary);
    let odds = if in_doubt { 4 } else { 1 };
    if random.below(5) < odds {
        let asked = lags.filter(|_| random.one_in(2));
        fail_over(cluster, clients, random, (asked, kills_max), &mut told);
        clients.acknowledges_within(1 + random.below(40), moment(random, 500));
    }
    if disturbed.is_some() && random.one_in(LONG_ONE_IN) {
        told.tell("for long");
        clients.acknowledges_within(u64::MAX >> 1, LONG);
    }
    told
}

fn moment(random: &mut Random, milliseconds: u64) -> Duration {
    Duration::from_millis(random.below(milliseconds))
}

/// Who is killed, in order.
fn victims(primary: usize, random: &mut Random) -> Vec<usize> {
    let others = match random.one_in(2) {
        true => [(primary + 1) % 3, (primary + 2) % 3],
        false => [(primary + 2) % 3, (primary + 1) % 3],
    };
    let [one, other] = others;
    match random.below(16) {
        0..9 => vec![primary],
        9 | 10 => vec![one],
        11 => vec![primary, one],
        12 => vec![one, primary],
        13 => vec![one, other],
        _ => {
            let mut all = vec![one, other];
            all.insert(random.index(3), primary);
            all
        }
    }
}

/// Stops a node, or does something to the lines around it; returns which one.
fn disturb(cluster: &mut Cluster, primary: usize, random: &mut Random, told: &mut Told) -> usize {
    let one = match random.one_in(3) {
        true => primary,
        false => (primary + 1 + random.index(2)) % NAMES.len(),
    };
    let way = match random.one_in(2) {
        true => Way::ToNode,
        false => Way::FromNode,
    };
    let bytes = 1 + random.index(40_000);
    let around = cluster.mesh.around(one);
    let what = match random.below(9) {
        0 => {
            drop(around);
            cluster.pause(one);
            "stopped".to_owned()
        }
        1..4 => {
            around.for_each(silence);
            "cut off silently".to_owned()
        }
        4 => {
            around.for_each(|line| line.hold(way));
            format!("cut off one way, {way:?}")
        }
        5 => {
            around.for_each(|line| line.hold_after(way, bytes));
            format!("half open after {bytes} bytes {way:?}")
        }
        6 => {
            let end = if random.one_in(2) {
                End::Close
            } else {
                End::Reset
            };
            around.for_each(|line| line.break_after(way, bytes, end));
            format!("{end:?} after {bytes} bytes {way:?}")
        }
        7 => {
            let morsel = 1 + bytes % 100;
            around.for_each(|line| line.trickle(way, morsel));
            format!("trickles by {morsel} bytes {way:?}")
        }
        _ => {
            let other = (one + 1 + random.index(2)) % 3;
            silence(cluster.mesh.line(one, other));
            silence(cluster.mesh.line(other, one));
            format!("and {} cut off from each other", NAMES[other])
        }
    };
    told.tell(&format!("{} {what}", NAMES[one]));
    one
}

fn silence(line: &Line) {
    line.hold(Way::ToNode);
    line.hold(Way::FromNode);
}

/// Orders a failover, of a node of choice or of any that is awake, and sometimes kills one of those
/// that are while it runs.
fn fail_over(
    cluster: &mut Cluster,
    clients: &Clients,
    random: &mut Random,
    (asked, kills_max): (Option<usize>, u64),
    told: &mut Told,
) {
    let awake = cluster.awake();
    if awake.is_empty() {
        return;
    }
    let any = awake[random.index(awake.len())];
    let asked = asked.filter(|asked| awake.contains(asked)).unwrap_or(any);
    let ordered = order(cluster.nodes[asked].http.clone());
    if told.kills < kills_max && random.one_in(4) {
        clients.acknowledges_within(1 + random.below(20), moment(random, 150));
        let victim = awake[random.index(awake.len())];
        if cluster.kill(victim) {
            told.kills += 1;
            told.tell(&format!("{} killed meanwhile", NAMES[victim]));
        }
    }
    let answer = ordered.join().expect("who orders does not panic");
    if let Some(new) = answer {
        told.failovers += 1;
        told.tell(&format!("{new} took over"));
    } else {
        told.tell(&format!(
            "{} was asked for a failover in vain",
            NAMES[asked]
        ));
    }
}

/// Asks a node for a failover until it is accepted, again while a primary counts as alive, which it
/// may be.
pub(super) fn order(http: Http) -> JoinHandle<Option<String>> {
    thread::spawn(move || {
        for _ in 0..FAILOVER_TRIES {
            let answer = http.send("POST", "/v1/failover", b"{}").ok()?;
            if answer.status == 200 {
                return answer.json()["new_primary_name"]
                    .as_str()
                    .map(str::to_owned);
            }
            if !answer.text().contains("heard from a primary") {
                return None;
            }
            thread::sleep(FAILOVER_PAUSE);
        }
        None
    })
}
