//! The sender under scripts, state by event, and under random events.

use proptest::prelude::*;

use super::*;
use crate::protocol::script::{self, Command, shorten, timeline};

const INTERVAL: Duration = Duration::from_secs(1);

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

fn config(native: bool, history: TimelineHistory) -> SenderConfig {
    SenderConfig {
        native,
        history,
        flushed: Lsn::new(0x1000),
        commit: Lsn::new(0x1000),
        oldest: Lsn::new(0x100),
        segment_size: SegmentSize::DEFAULT,
        timeout: Duration::from_secs(60),
        heartbeat_interval: INTERVAL,
    }
}

fn event(command: &Command) -> Event {
    let to = command.lsn("to");
    match command.name() {
        "start" => Event::StartRequested {
            from: command.lsn("from"),
            timeline: command.get("timeline"),
            id: command.timeline("id").map(|timeline| timeline.id),
        },
        "sendable" => Event::Sendable(to),
        "flushed" => Event::Flushed(to),
        "commit" => Event::CommitMoved(to),
        "removed" => Event::Removed(to),
        "sent" => Event::Sent(to),
        "status" => Event::StatusReceived {
            positions: Positions {
                write: command.lsn("write"),
                flush: command.lsn("flush"),
                apply: command.lsn("apply"),
            },
            timeline: command.timeline("timeline"),
            reply_requested: command.has("reply"),
        },
        "heard" => Event::Heard,
        "fence" => Event::FenceReceived {
            timeline: command.timeline("timeline").unwrap(),
            opened: command.has("opened"),
        },
        "copydone" => Event::CopyDoneReceived,
        "switched" => Event::TimelineSwitched {
            history: history(command.text("history").unwrap()),
            flushed: command.lsn("flushed"),
            commit: command.lsn("commit"),
        },
        "stop" => Event::Stop {
            end: command.lsn("end"),
        },
        "disconnected" => Event::Disconnected,
        "tick" => Event::Tick,
        other => panic!("no command {other}"),
    }
}

#[test]
fn connections_follow_their_script() {
    let mut machine = None;
    let mut now = Moment::ZERO;
    script::run!("sender.txt", |command: &Command| {
        now = now + command.duration("after");
        if ["native", "stock"].contains(&command.name()) {
            let mut config = config(
                command.name() == "native",
                history(command.text("history").unwrap_or("1:a@0/100")),
            );
            config.flushed = command.lsn("flushed");
            config.commit = command.lsn("commit");
            config.oldest = command.lsn("oldest");
            machine = Some(Sender::new(config, now));
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

fn start() -> Event {
    Event::StartRequested {
        from: Lsn::new(0x800),
        timeline: Some(1),
        id: None,
    }
}

fn status(at: u64, reply_requested: bool) -> Event {
    let at = Lsn::new(at);
    Event::StatusReceived {
        positions: Positions {
            write: at,
            flush: at,
            apply: Lsn::ZERO,
        },
        timeline: None,
        reply_requested,
    }
}

fn stop() -> Event {
    let end = Lsn::new(0x1000);
    Event::Stop { end }
}

fn switched() -> Event {
    Event::TimelineSwitched {
        history: history("1:a@0/100,2:b@0/C00"),
        flushed: Lsn::new(0x1000),
        commit: Lsn::new(0x1000),
    }
}

/// A sender in each state, reached the way a peer reaches it.
fn in_state(native: bool, state: State) -> Sender {
    let mut machine = Sender::new(config(native, history("1:a@0/100")), Moment::ZERO);
    let sent = || Event::Sent(Lsn::new(0x1000));
    let way = match state {
        State::Startup => vec![],
        State::Catchup => vec![start()],
        State::Streaming => vec![start(), sent()],
        State::Draining => vec![start(), sent(), switched()],
        State::Stopping => vec![start(), sent(), stop()],
        State::Closed => vec![stop()],
    };
    for event in way {
        machine.on(event, Moment::ZERO, &mut Vec::new());
    }
    assert_eq!(machine.state, state);
    machine
}

#[test]
fn every_state_answers_every_event_as_the_table_says() {
    use State::*;
    let mut table = String::from(
        "# What a sender does in each state with each event, as the test recorded it.\n",
    );
    for native in [false, true] {
        for state in [Startup, Catchup, Streaming, Draining, Stopping, Closed] {
            let kind = if native { "native" } else { "stock" };
            table += &format!("\n{kind} {state:?}\n");
            let more = Lsn::new(0x2000);
            let mut events = vec![
                ("start", start()),
                ("flushed", Event::Flushed(more)),
                ("commit", Event::CommitMoved(more)),
                ("removed", Event::Removed(more)),
                ("status", status(0xFF0, false)),
                ("status, all", status(0x1000, false)),
                ("status, reply", status(0, true)),
                ("status, beyond", status(0x9000, false)),
                ("heard", Event::Heard),
                (
                    "fence",
                    Event::FenceReceived {
                        timeline: timeline("3:c"),
                        opened: true,
                    },
                ),
                ("copydone", Event::CopyDoneReceived),
                ("switched", switched()),
                ("stop", stop()),
                ("disconnected", Event::Disconnected),
                ("tick", Event::Tick),
            ];
            if state == Catchup {
                events.push(("sent", Event::Sent(Lsn::new(0x1000))));
            }
            for (name, event) in events {
                let mut machine = in_state(native, state);
                let mut out = Vec::new();
                machine.on(event, Moment::ZERO, &mut out);
                let actions = out.iter().map(|action| shorten(&format!("{action:?}")));
                let actions = actions.collect::<Vec<_>>().join(", ");
                table += &format!(
                    "  {name:14} -> {:9} [{actions}]\n",
                    format!("{:?}", machine.state)
                );
            }
        }
    }
    script::compare(
        "sender-table.txt",
        include_str!("../scripts/sender-table.txt"),
        &table,
    );
}

fn random_event((kind, lsn, flag): (u8, u64, bool), in_flight: Option<Lsn>, sent: Lsn) -> Event {
    let at = Lsn::new(lsn * 8);
    let history_text = [
        "1:a@0/100",
        "1:a@0/100,2:b@0/180",
        "1:a@0/100,2:c@0/140,3:d@0/200",
    ];
    let history = history(history_text[usize::try_from(lsn % 3).unwrap()]);
    match kind {
        0 => Event::StartRequested {
            from: at,
            timeline: flag.then(|| u32::try_from(lsn % 5).unwrap()),
            id: (lsn % 7 == 0).then_some(history.current().id),
        },
        1 => Event::Flushed(at),
        2 => Event::CommitMoved(at),
        3 => Event::Removed(Lsn::new(lsn)),
        4 => Event::Sendable(at),
        5 | 6 => status(lsn * 8, flag),
        7 => Event::FenceReceived {
            timeline: history.current(),
            opened: flag,
        },
        8 => Event::CopyDoneReceived,
        9 => Event::TimelineSwitched {
            history,
            flushed: at,
            commit: at,
        },
        10 if lsn % 9 == 0 => Event::Stop { end: at },
        11 => Event::StatusReceived {
            positions: Positions::default(),
            timeline: Some(history.current()),
            reply_requested: flag,
        },
        12 => Event::Heard,
        _ => match in_flight {
            Some(limit) => Event::Sent(limit.min(sent + lsn * 8)),
            None => Event::Tick,
        },
    }
}

proptest! {
    #[test]
    fn random_events_never_panic_and_show_stock_clients_nothing_uncommitted(
        native in any::<bool>(),
        events in prop::collection::vec((0u8..18, 0u64..120, any::<bool>()), 1..80)
    ) {
        let mut config = config(native, history("1:a@0/100"));
        (config.flushed, config.commit) = (Lsn::new(0x200), Lsn::new(0x180));
        let mut machine = Sender::new(config, Moment::ZERO);
        let (mut now, mut out, mut shown) = (Moment::ZERO, Vec::new(), Lsn::ZERO);
        for raw in events {
            let stream = machine.stream.as_ref();
            let in_flight = stream.filter(|stream| stream.in_flight);
            let in_flight = in_flight.map(|stream| stream.ceiling);
            let sent = stream.map(|stream| stream.progress.sent()).unwrap_or_default();
            now = now + Duration::from_secs(2);
            machine.on(random_event(raw, in_flight, sent), now, &mut out);
            shown = shown.max(machine.commit.min(machine.flushed));
            for action in out.drain(..) {
                if let Action::SendWal(range) = &action {
                    prop_assert!(range.start < range.end);
                    prop_assert!(range.end - range.start <= SEND_CHUNK_MAX);
                    prop_assert!(native || range.end <= shown);
                }
                if let (false, Action::SendKeepalive { sent, .. }) = (native, &action) {
                    prop_assert!(*sent <= shown);
                }
                if let Action::SendAdvance { flushed, commit, .. } = action {
                    prop_assert!(native && commit <= flushed);
                }
            }
            prop_assert!(machine.stream.is_none() || machine.deadline().is_some());
        }
    }
}
