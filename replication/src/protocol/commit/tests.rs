//! The commit LSN under scripts and random events.

use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::protocol::policy::change_rule;
use crate::protocol::script::{self, Command};
use crate::protocol::vote::Vote;

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn names(command: &Command, key: &str) -> Vec<NodeName> {
    let listed = command.text(key).unwrap_or_default().split(',');
    listed.filter(|text| !text.is_empty()).map(name).collect()
}

/// Policies stand in scripts without blanks: `ANY_1_(a,b)`.
fn policy(command: &Command) -> BoundPolicy {
    let text = command.text("policy").unwrap_or_default().replace('_', " ");
    let author = name(command.text("by").unwrap_or("n1"));
    let voters = names(command, "voters");
    BoundPolicy::new(text.parse().unwrap(), &voters, &author, command.lsn("end"))
}

fn plain(policy: &str) -> BoundPolicy {
    BoundPolicy::new(policy.parse().unwrap(), &[], &name("n1"), Lsn::ZERO)
}

fn start(command: &Command) -> Committer {
    let config = CommitConfig {
        name: name("n1"),
        timeline: script::timeline("1:a"),
        flushed: command.lsn("flushed"),
        commit: command.lsn("commit"),
        hold_until: command.lsn("hold"),
        policies: vec![policy(command)],
        on_miss: command.get("miss").unwrap_or_default(),
    };
    Committer::new(config, Moment::ZERO)
}

fn event(command: &Command, newest: &BoundPolicy) -> Event {
    let who = || name(command.text("name").unwrap());
    let session = command.get("session").unwrap_or(1);
    match command.name() {
        "flushed" => Event::Flushed(command.lsn("to")),
        "connected" => Event::Connected {
            name: who(),
            session,
            vote: match (command.get("lost"), command.get("again")) {
                (Some(end), _) => Vote::Lost(end),
                (None, Some(at)) => Vote::Again(at),
                (None, None) => Vote::From(command.get("from").unwrap_or_default()),
            },
        },
        "vote" => Event::VoteLogged {
            name: who(),
            end: command.lsn("end"),
        },
        "streaming" => Event::Streaming {
            name: who(),
            session,
        },
        "gone" => Event::Disconnected {
            name: who(),
            session,
        },
        "report" => Event::Reported {
            name: who(),
            session,
            timeline: command
                .timeline("timeline")
                .unwrap_or(script::timeline("1:a")),
            positions: Positions {
                write: command.get("write").unwrap_or(command.lsn("flush")),
                flush: command.lsn("flush"),
                apply: command.lsn("apply"),
            },
        },
        "policy" => {
            let policy = policy(command);
            let rule = change_rule(newest, &policy, command.has("force"));
            Event::PolicyLogged { policy, rule }
        }
        "miss" => Event::OnMissChanged(command.get("rule").unwrap()),
        "suspend" => Event::Suspended(true),
        "resume" => Event::Suspended(false),
        "tick" => Event::Tick,
        other => panic!("no command {other}"),
    }
}

fn show(action: &Action) -> String {
    match action {
        Action::PolicySettled(bound) => format!("PolicySettled({})", bound.policy()),
        other => format!("{other:?}"),
    }
}

#[test]
fn commits_follow_their_script() {
    let mut machine = None;
    let mut now = Moment::ZERO;
    script::run!("commit.txt", |command: &Command| {
        if command.name() == "primary" {
            machine = Some(start(command));
            return vec![];
        }
        let machine = machine.as_mut().unwrap();
        now = now + command.duration("after");
        match command.name() {
            "released" => {
                let levels = Level::ALL.into_iter().skip(1);
                let line = levels.map(|level| format!("{level} {}", machine.released(level)));
                return vec![line.collect::<Vec<_>>().join(", ")];
            }
            "parts" => {
                let parts = machine.status().standbys.into_iter().map(|part| {
                    let counts = if part.counts { "" } else { " (does not count)" };
                    format!(
                        "{} {} {}{counts}",
                        part.name,
                        part.state.as_str(),
                        part.priority
                    )
                });
                return parts.collect();
            }
            _ => {}
        }
        let mut actions = Vec::new();
        let event = event(command, machine.newest());
        machine.on(event, now, &mut actions);
        actions.iter().map(show).collect()
    });
}

#[test]
fn a_receipt_never_states_more_than_the_policy_gave() {
    let config = |policy: &str| CommitConfig {
        name: name("n1"),
        timeline: script::timeline("1:a"),
        flushed: Lsn::new(800),
        commit: Lsn::new(80),
        hold_until: Lsn::ZERO,
        policies: vec![plain(policy)],
        on_miss: "degrade:1s".parse().unwrap(),
    };
    let end = Lsn::new(800);
    let alone = Committer::new(config("off"), Moment::ZERO);
    assert_eq!(
        alone.confirmation(Level::RemoteApply, end).level,
        Level::Local
    );
    assert_eq!(alone.commit(), end, "without a policy own flush commits");
    let mut guarded = Committer::new(config("ANY 1 (a)"), Moment::ZERO);
    let deadline = guarded.deadline().unwrap();
    assert_eq!(deadline, Moment::ZERO + Duration::from_secs(1));
    guarded.on(Event::Tick, deadline, &mut Vec::new());
    assert_eq!(guarded.released(Level::RemoteFlush), end);
    let degraded = guarded.confirmation(Level::RemoteFlush, end);
    assert_eq!((degraded.level, degraded.standbys), (Level::Local, vec![]));
    let (name, session) = (name("a"), 1);
    let flushed = |at: u64| Event::Reported {
        name: name.clone(),
        session,
        timeline: script::timeline("1:a"),
        positions: Positions {
            write: Lsn::new(at),
            flush: Lsn::new(at),
            apply: Lsn::ZERO,
        },
    };
    let connected = Event::Connected {
        name: name.clone(),
        session,
        vote: Vote::From(Lsn::ZERO),
    };
    let streaming = Event::Streaming {
        name: name.clone(),
        session,
    };
    for event in [connected, streaming, flushed(720)] {
        guarded.on(event, deadline, &mut Vec::new());
    }
    assert_eq!(guarded.status().condition, Condition::Met);
    let achieved = |guarded: &Committer| guarded.confirmation(Level::RemoteFlush, end).level;
    assert_eq!(
        achieved(&guarded),
        Level::Local,
        "it was let through while degraded"
    );
    guarded.on(flushed(800), deadline, &mut Vec::new());
    assert_eq!(achieved(&guarded), Level::RemoteFlush);
    assert_eq!(guarded.confirmation(Level::Async, end).level, Level::Async);
}

#[test]
fn a_receipt_names_whom_the_policy_counts_and_who_had_it_sorted() {
    let config = CommitConfig {
        name: name("n1"),
        timeline: script::timeline("1:a"),
        flushed: Lsn::new(800),
        commit: Lsn::new(80),
        hold_until: Lsn::ZERO,
        policies: vec![plain("ANY 2 (c, b, a)")],
        on_miss: OnMiss::Block,
    };
    let mut machine = Committer::new(config, Moment::ZERO);
    let (end, session) = (Lsn::new(800), 1);
    let mut on = |event| machine.on(event, Moment::ZERO, &mut Vec::new());
    for (who, flush, apply) in [
        ("c", 800, 800),
        ("a", 800, 80),
        ("b", 720, 0),
        ("x", 800, 0),
    ] {
        let (name, timeline) = (name(who), script::timeline("1:a"));
        on(Event::Connected {
            name: name.clone(),
            session,
            vote: Vote::From(Lsn::ZERO),
        });
        on(Event::Streaming {
            name: name.clone(),
            session,
        });
        let [write, flush, apply] = [flush, flush, apply].map(Lsn::new);
        let positions = Positions {
            write,
            flush,
            apply,
        };
        on(Event::Reported {
            name,
            session,
            timeline,
            positions,
        });
    }
    // Who left keeps what it flushed; who came back with empty hands does not.
    on(Event::Disconnected {
        name: name("a"),
        session,
    });
    let stated = |machine: &Committer, level| {
        let Confirmation { level, standbys } = machine.confirmation(level, end);
        let standbys = standbys.iter().map(NodeName::as_str).collect::<Vec<_>>();
        format!("{level} {}", standbys.join(","))
    };
    assert_eq!(stated(&machine, Level::RemoteFlush), "remote_flush a,c");
    assert_eq!(stated(&machine, Level::RemoteApply), "local c");
    assert_eq!(stated(&machine, Level::Local), "local ");
    let (name, vote) = (name("a"), Vote::Lost(Lsn::new(800)));
    let anew = Event::Connected {
        name,
        session: 2,
        vote,
    };
    machine.on(anew, Moment::ZERO, &mut Vec::new());
    assert_eq!(stated(&machine, Level::RemoteFlush), "remote_flush c");
}

#[test]
fn a_restart_knows_again_that_nothing_was_confirmed_while_a_star_counted_too_few() {
    let own = name("n1");
    let star = |voters: &[NodeName], end: u64| {
        let policy = "ANY 1 (*)".parse().unwrap();
        BoundPolicy::new(policy, voters, &own, Lsn::new(end))
    };
    let config = CommitConfig {
        name: own.clone(),
        timeline: script::timeline("1:a"),
        flushed: Lsn::new(800),
        commit: Lsn::new(40),
        hold_until: Lsn::ZERO,
        policies: vec![star(&[], 80), star(&[name("a")], 160)],
        on_miss: OnMiss::Block,
    };
    let mut machine = Committer::new(config, Moment::ZERO);
    let (name, session) = (name("a"), 1);
    let flush = Lsn::new(800);
    let reported = Event::Reported {
        name: name.clone(),
        session,
        timeline: script::timeline("1:a"),
        positions: Positions {
            write: flush,
            flush,
            apply: Lsn::ZERO,
        },
    };
    let connected = Event::Connected {
        name: name.clone(),
        session,
        vote: Vote::From(Lsn::ZERO),
    };
    for event in [connected, Event::Streaming { name, session }, reported] {
        machine.on(event, Moment::ZERO, &mut Vec::new());
    }
    assert_eq!(
        machine.commit(),
        flush,
        "the policy that counts nobody binds"
    );
}

#[test]
fn no_change_is_logged_behind_a_policy_that_counts_too_few() {
    let own = name("n1");
    let counts = |voters: &[NodeName]| {
        let policy = "ANY 2 (*)".parse().unwrap();
        let policy = BoundPolicy::new(policy, voters, &own, Lsn::new(8));
        let config = CommitConfig {
            name: own.clone(),
            timeline: script::timeline("1:a"),
            flushed: Lsn::new(800),
            commit: Lsn::new(8),
            hold_until: Lsn::ZERO,
            policies: vec![policy],
            on_miss: OnMiss::Block,
        };
        Committer::new(config, Moment::ZERO)
    };
    assert!(counts(&[name("a"), name("b")]).may_change_policy());
    let short = counts(&[name("a")]);
    assert!(!short.may_change_policy());
    assert_eq!(short.unsatisfiable().unwrap().counted(), [name("a")]);
}

fn any_event() -> impl Strategy<Value = (u8, u8, u64, u64, bool)> {
    (0u8..12, 0u8..4, 0u64..60, 0u64..4, any::<bool>())
}

fn random_event((kind, who, lsn, session, flag): (u8, u8, u64, u64, bool), top: &mut u64) -> Event {
    let policies = [
        "off",
        "ANY 1 (*)",
        "FIRST 2 (a, b, c)",
        "ANY 2 (n1, a, b)",
        "FIRST 1 (d)",
    ];
    let name = name(["a", "b", "c", "n1"][usize::from(who)]);
    let own = "n1".parse().unwrap();
    let at = |lsn: u64| Lsn::new(lsn * 8);
    match kind {
        0..=2 => {
            *top = (*top).max(lsn * 8);
            Event::Flushed(Lsn::new(*top))
        }
        3 => Event::Connected {
            name,
            session,
            vote: match flag {
                true => Vote::Lost(at(lsn)),
                false if lsn % 2 == 0 => Vote::From(at(lsn % 3)),
                false => Vote::Again(at(lsn)),
            },
        },
        4 => Event::Streaming { name, session },
        5..=7 => Event::Reported {
            name,
            session,
            timeline: Timeline {
                number: 1,
                id: Uuid::from_u128(if lsn == 0 { 0 } else { 0xA }),
            },
            positions: Positions {
                write: at(lsn),
                flush: at(lsn),
                apply: at(lsn / 2),
            },
        },
        8 => Event::Disconnected { name, session },
        9 => Event::PolicyLogged {
            policy: BoundPolicy::new(
                policies[usize::try_from(lsn % 5).unwrap()].parse().unwrap(),
                std::slice::from_ref(&name),
                if flag { &own } else { &name },
                Lsn::new(*top + 8),
            ),
            rule: [
                ChangeRule::Both,
                ChangeRule::OwnFlush,
                ChangeRule::NewOnly,
                ChangeRule::Forced,
            ][usize::from(who)],
        },
        10 if flag => Event::VoteLogged { name, end: at(lsn) },
        10 => Event::Suspended(lsn % 2 == 0),
        _ => Event::OnMissChanged(
            ["block", "degrade:1s", "fail:1s"][usize::from(who) % 3]
                .parse()
                .unwrap(),
        ),
    }
}

proptest! {
    #[test]
    fn random_events_never_let_a_position_regress_or_pass_own_flushed(
        events in prop::collection::vec(any_event(), 1..120)
    ) {
        let config = CommitConfig {
            name: name("n1"),
            timeline: script::timeline("1:a"),
            flushed: Lsn::new(80),
            commit: Lsn::new(40),
            hold_until: Lsn::ZERO,
            policies: vec![],
            on_miss: OnMiss::Block,
        };
        let mut machine = Committer::new(config, Moment::ZERO);
        let (mut now, mut top, mut out) = (Moment::ZERO, 80, Vec::new());
        for raw in events {
            let event = random_event(raw, &mut top);
            if matches!(event, Event::PolicyLogged { .. }) && !machine.may_change_policy() {
                continue;
            }
            now = now + Duration::from_millis(200);
            machine.on(event, now, &mut out);
            prop_assert!(machine.released(Level::RemoteFlush) <= Lsn::new(top));
            prop_assert!(out.len() < 200);
            out.clear();
            machine.status();
        }
    }

    /// The claim itself: whatever is confirmed is flushed on k of the counted, on this timeline.
    #[test]
    fn what_is_committed_is_flushed_on_enough_standbys(
        flushed in prop::collection::vec(0u64..50, 4),
        streaming in prop::collection::vec(any::<bool>(), 4),
        own in 0u64..50, k in 1usize..4, first in any::<bool>(),
    ) {
        let word = if first { "FIRST" } else { "ANY" };
        let policy = format!("{word} {k} (a, b, c, d)");
        let config = CommitConfig {
            name: name("n1"),
            timeline: script::timeline("1:a"),
            flushed: Lsn::new(own),
            commit: Lsn::ZERO,
            hold_until: Lsn::ZERO,
            policies: vec![plain(&policy)],
            on_miss: OnMiss::Block,
        };
        let mut machine = Committer::new(config, Moment::ZERO);
        for (at, (flush, streaming)) in flushed.iter().zip(&streaming).enumerate() {
            let name = name(["a", "b", "c", "d"][at]);
            let flush = Lsn::new(*flush);
            let positions = Positions { write: flush, flush, apply: Lsn::ZERO };
            let (session, vote) = (1, Vote::From(Lsn::ZERO));
            let timeline = script::timeline("1:a");
            let mut on = |event| machine.on(event, Moment::ZERO, &mut Vec::new());
            on(Event::Connected { name: name.clone(), session, vote });
            if *streaming {
                on(Event::Streaming { name: name.clone(), session });
            }
            on(Event::Reported { name, session, timeline, positions });
        }
        let commit = machine.commit();
        let holders = flushed.iter().filter(|at| Lsn::new(**at) >= commit).count();
        prop_assert!(commit.is_zero() || (holders >= k && commit <= Lsn::new(own)));
        let mut counted = flushed.iter().zip(&streaming).filter(|(_, on)| **on);
        if !first && counted.clone().count() >= k {
            let mut all = counted.by_ref().map(|(at, _)| *at).collect::<Vec<_>>();
            all.sort_unstable_by(|a, b| b.cmp(a));
            prop_assert_eq!(commit, Lsn::new(all[k - 1].min(own)), "as early as it may");
        }
    }
}
