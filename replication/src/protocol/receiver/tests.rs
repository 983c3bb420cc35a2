//! The receiver under scripts and under random events.

use proptest::prelude::*;

use super::*;
use crate::protocol::script::{self, Command, timeline};

/// Reads `1:a@0/100,2:b@0/800`: each timeline and where it begins.
fn history(text: &str) -> TimelineHistory {
    let mut spans = text.split(',').map(|span| span.split_once('@').unwrap());
    let (first, begin) = spans.next().unwrap();
    let mut history = TimelineHistory::new(timeline(first), begin.parse().unwrap());
    for (next, begin) in spans {
        let begin = begin.parse().unwrap();
        history.open(timeline(next), begin, "test").unwrap();
    }
    history
}

fn config(history: TimelineHistory) -> ReceiverConfig {
    ReceiverConfig {
        system_id: 7,
        history,
        flushed: Lsn::new(0x800),
        applied: Lsn::new(0x800),
        commit: Lsn::new(0x800),
        accepted: None,
        heartbeat_timeout: Duration::from_secs(10),
        status_interval: Duration::from_secs(10),
    }
}

fn event(command: &Command) -> Event {
    let to = command.lsn("to");
    let random = command.get("random").unwrap_or_default();
    let timeline = || command.timeline("timeline").unwrap_or(timeline("1:a"));
    match command.name() {
        "connected" => Event::Connected,
        "identified" => Event::Identified {
            system_id: command.get("system").unwrap_or(7),
            timeline: timeline(),
            flushed: command.lsn("flushed"),
            oldest: command.lsn("oldest"),
        },
        "history" => Event::HistoryFetched(history(command.text("is").unwrap())),
        "cut" => Event::LogCut,
        "started" => Event::Started,
        "refused" => Event::StartRefused {
            removed: command.has("removed"),
        },
        "wal" => Event::Received {
            range: command.lsn("from")..to,
        },
        "advance" => Event::Advance {
            flushed: command.lsn("flushed"),
            commit: command.lsn("commit"),
            timeline: timeline(),
            reply_requested: command.has("reply"),
        },
        "written" => Event::Written(to),
        "flushed" => Event::Flushed(to),
        "applied" => Event::Applied(to),
        "copydone" => Event::CopyDoneReceived,
        "row" => Event::NextTimeline,
        "ended" => Event::StreamEnded,
        "fence" => Event::FenceReceived {
            timeline: timeline(),
            opened: command.has("opened"),
        },
        "accepted" => Event::Accepted(timeline()),
        "disconnected" => Event::Disconnected {
            random,
            appended: command.get("appended").unwrap_or(Lsn::MAX),
        },
        "stop" => Event::Stop,
        "tick" => Event::Tick,
        other => panic!("no command {other}"),
    }
}

/// Up to an open stream from 0/800, the upstream ending at 0/1000.
fn stream(machine: &mut Receiver, now: Moment) {
    let identified = Event::Identified {
        system_id: 7,
        timeline: machine.history.current(),
        flushed: Lsn::new(0x1000),
        oldest: Lsn::new(0x100),
    };
    for event in [Event::Tick, Event::Connected, identified, Event::Started] {
        machine.on(event, now, &mut Vec::new());
    }
    assert_eq!(machine.state, State::Streaming);
}

#[test]
fn standbys_follow_their_script() {
    let mut machine = None;
    let mut now = Moment::ZERO;
    script::run!("receiver.txt", |command: &Command| {
        now = now + command.duration("after");
        if ["standby", "streaming"].contains(&command.name()) {
            let mut config = config(history(command.text("history").unwrap_or("1:a@0/100")));
            config.flushed = command.get("flushed").unwrap_or(config.flushed);
            config.applied = command.get("applied").unwrap_or(config.applied);
            config.commit = command.get("commit").unwrap_or(config.commit);
            config.accepted = command.timeline("accepted");
            let new = machine.insert(Receiver::new(config, now));
            if command.name() == "streaming" {
                stream(new, now);
            }
            return vec![];
        }
        let machine = machine.as_mut().unwrap();
        if command.name() == "deadline" {
            let deadline = machine.deadline().map(|deadline| deadline - now);
            return vec![format!("{:?} {deadline:?}", machine.status().state)];
        }
        let before = machine.state;
        let mut actions = Vec::new();
        machine.on(event(command), now, &mut actions);
        let mut lines = actions
            .iter()
            .map(|action| format!("{action:?}"))
            .collect::<Vec<_>>();
        if machine.state != before {
            lines.push(format!("* {before:?} -> {:?}", machine.state));
        }
        lines
    });
}

#[test]
fn backoff_stays_within_its_bounds() {
    for attempt in 0..100 {
        for random in [0, 1, 99_999, u64::MAX / 2, u64::MAX] {
            let wait = backoff(attempt, random);
            assert!(wait <= BACKOFF_MAX && (attempt > 0 || wait <= BACKOFF_BASE));
        }
    }
    assert_eq!(backoff(40, 10_000_000), BACKOFF_MAX);
}

#[test]
fn a_stop_does_not_hide_why_the_receiver_had_given_up() {
    let mut machine = Receiver::new(config(history("1:a@0/100")), Moment::ZERO);
    let stranger = Event::Identified {
        system_id: 8,
        timeline: timeline("1:a"),
        flushed: Lsn::new(0x1000),
        oldest: Lsn::new(0x100),
    };
    for event in [Event::Tick, Event::Connected, stranger] {
        machine.on(event, Moment::ZERO, &mut Vec::new());
    }
    let mut out = Vec::new();
    machine.on(Event::Stop, Moment::ZERO, &mut out);
    let why = GiveUp::Foreign { ours: 7, theirs: 8 };
    assert_eq!((out, machine.status().gave_up), (vec![], Some(why)));
}

#[test]
fn without_a_heartbeat_timeout_an_upstream_may_be_silent_for_ever() {
    let mut config = config(history("1:a@0/100"));
    config.heartbeat_timeout = Duration::ZERO;
    let mut machine = Receiver::new(config, Moment::ZERO);
    stream(&mut machine, Moment::ZERO);
    let mut now = Moment::ZERO;
    for _ in 0..1000 {
        now = machine.deadline().expect("a status is due");
        let mut out = Vec::new();
        machine.on(Event::Tick, now, &mut out);
        let told = matches!(
            &out[..],
            [Action::SendStatus {
                reply_requested: false,
                ..
            }]
        );
        assert!(told, "{out:?}");
    }
    assert!(now - Moment::ZERO >= Duration::from_secs(9_000));
}

#[test]
#[should_panic = "beyond what may be applied"]
fn a_store_that_is_ahead_of_the_log_stops_the_node() {
    let mut config = config(history("1:a@0/100"));
    config.applied = config.flushed + 8;
    Receiver::new(config, Moment::ZERO);
}

#[test]
fn a_standby_that_needs_a_backup_says_what_log_is_gone() {
    let (wanted, oldest) = (Lsn::new(0x800), Lsn::new(0x1000));
    let gone = GiveUp::NeedsBackup { wanted, oldest }.to_string();
    assert!(
        gone.contains("no log from 0/800 to 0/1000 any more"),
        "{gone}"
    );
    let oldest = Lsn::ZERO;
    let gone = GiveUp::NeedsBackup { wanted, oldest }.to_string();
    assert!(gone.contains("no log from 0/800 on any more"), "{gone}");
}

/// `may` is up to where the store was allowed to apply.
fn random_event((kind, lsn, flag): (u8, u64, bool), machine: &Receiver, may: Lsn) -> Event {
    let at = Lsn::new(lsn * 8);
    let texts = [
        "1:a@0/100",
        "1:a@0/100,2:b@0/180",
        "1:a@0/100,2:c@0/140,3:d@0/200",
        "4:e@0/100",
    ];
    let history = history(texts[usize::try_from(lsn % 4).unwrap()]);
    let timeline = history.current();
    let start = if flag { machine.received } else { at };
    match kind {
        0 | 1 => Event::Connected,
        2 | 3 => Event::Identified {
            system_id: if lsn == 17 { 8 } else { 7 },
            timeline,
            flushed: at,
            oldest: Lsn::new(lsn),
        },
        4 | 5 => Event::HistoryFetched(history),
        6 | 7 => Event::Started,
        8 => Event::StartRefused {
            removed: flag && lsn == 5,
        },
        9 | 10 => Event::Received {
            range: start..start + lsn * 8,
        },
        11 => Event::Advance {
            flushed: at,
            commit: if flag { at } else { Lsn::new(lsn * 7) },
            timeline: machine.upstream.as_ref().map_or(timeline, |up| up.timeline),
            reply_requested: flag,
        },
        12 => Event::Written(at.min(machine.received)),
        13 => Event::Flushed(at.min(machine.received)),
        14 => Event::Applied(at.min(may).min(machine.own.flush)),
        15 => Event::CopyDoneReceived,
        16 => Event::NextTimeline,
        17 => Event::StreamEnded,
        18 if lsn < 20 => Event::FenceReceived {
            timeline,
            opened: flag,
        },
        19 if lsn < 10 => Event::Accepted(timeline),
        20 => Event::Disconnected {
            random: lsn,
            appended: at.max(machine.own.write),
        },
        21 if lsn == 7 => Event::Stop,
        22 | 23 if machine.cutting.is_some() => Event::LogCut,
        _ => Event::Tick,
    }
}

proptest! {
    #[test]
    fn random_events_never_panic_and_never_let_a_gap_in(
        events in prop::collection::vec((0u8..24, 0u64..120, any::<bool>()), 1..120)
    ) {
        let mut config = config(history("1:a@0/100"));
        config.flushed = Lsn::new(0x180);
        config.applied = Lsn::new(0x120);
        config.commit = Lsn::new(0x160);
        let mut machine = Receiver::new(config, Moment::ZERO);
        let (mut now, mut out, mut end) = (Moment::ZERO, Vec::new(), Lsn::new(0x180));
        let mut may = Lsn::new(0x120);
        for raw in events {
            now = now + Duration::from_secs(1);
            let commit = machine.commit;
            let event = random_event(raw, &machine, may);
            let cut = matches!(event, Event::LogCut);
            machine.on(event, now, &mut out);
            let asks = out.iter().any(|action| matches!(action, Action::Identify));
            prop_assert!(machine.commit >= commit || cut || asks);
            if cut {
                end = machine.received;
            }
            for action in out.drain(..) {
                match action {
                    Action::WriteWal(range) => {
                        prop_assert_eq!(range.start, end);
                        end = range.end;
                    }
                    Action::Start { from, timeline } => {
                        prop_assert_eq!(from, end);
                        prop_assert_eq!(timeline, machine.history.current());
                    }
                    Action::ApplyUpTo(to) => {
                        prop_assert!(to <= machine.commit && to <= end);
                        may = may.max(to);
                    }
                    Action::CutLog(to) => prop_assert!(to < end && to >= machine.own.apply),
                    Action::SendStatus { timeline, .. } => {
                        let newest = newest_known(&machine.history, machine.accepted);
                        prop_assert!(!is_stale(timeline, newest));
                    }
                    _ => {}
                }
            }
            let idle = matches!(machine.state, State::Closing | State::Stopped);
            prop_assert!(idle || machine.cutting.is_some() || machine.deadline().is_some());
        }
    }
}
