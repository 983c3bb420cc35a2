//! From a standby's report to the waiters that it releases.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Waker};

use mainstay_replication::protocol::commit::{Action, CommitConfig, Committer, Event};
use mainstay_replication::protocol::level::OnMiss;
use mainstay_replication::protocol::name::NodeName;
use mainstay_replication::protocol::policy::BoundPolicy;
use mainstay_replication::protocol::progress::Positions;
use mainstay_replication::protocol::vote::Vote;
use mainstay_replication::time::Moment;
use mainstay_storage::{Lsn, Signal, SignalWait, Timeline};

use super::counted;

const ROUNDS: u64 = 1000;
const STANDBYS: usize = 5;

/// 1,000 times a flush here and the reports of five standbys, of which two must confirm.
pub(super) fn policy(_: &Path) {
    let names = (0..STANDBYS).map(|number| name(&format!("standby-{number}")));
    let names = names.collect::<Vec<_>>();
    let mut committer = committer(&names);
    let (mut actions, mut moved) = (Vec::new(), 0);
    counted(|| {
        for number in 1..=ROUNDS {
            let (now, at) = (Moment::from_micros(number), Lsn::new(number * 1024));
            committer.on(Event::Flushed(at), now, &mut actions);
            for name in &names {
                let positions = Positions {
                    write: at,
                    flush: at,
                    apply: at,
                };
                let (name, session, timeline) = (name.clone(), 1, timeline());
                let event = Event::Reported {
                    name,
                    session,
                    timeline,
                    positions,
                };
                committer.on(event, now, &mut actions);
            }
            let moves = actions.drain(..);
            moved += moves
                .filter(|it| matches!(it, Action::CommitMoved(_)))
                .count() as u64;
        }
    });
    assert_eq!(
        (moved, committer.commit()),
        (ROUNDS, Lsn::new(ROUNDS * 1024))
    );
}

fn committer(names: &[NodeName]) -> Committer {
    let own = name("primary");
    let policy = "ANY 2 (*)".parse().expect("a policy");
    let mut committer = Committer::new(
        CommitConfig {
            policies: vec![BoundPolicy::new(policy, names, &own, Lsn::ZERO)],
            name: own,
            timeline: timeline(),
            flushed: Lsn::ZERO,
            commit: Lsn::ZERO,
            hold_until: Lsn::ZERO,
            on_miss: OnMiss::Block,
        },
        Moment::ZERO,
    );
    for name in names {
        let (session, vote) = (1, Vote::From(Lsn::ZERO));
        let connected = Event::Connected {
            name: name.clone(),
            session,
            vote,
        };
        let streaming = Event::Streaming {
            name: name.clone(),
            session,
        };
        for event in [connected, streaming] {
            committer.on(event, Moment::ZERO, &mut Vec::new());
        }
    }
    committer
}

/// 100 times 64 waits at positions of their own, begun, released at once and ended.
pub(super) fn release(_: &Path) {
    let signal = Signal::new(Lsn::ZERO);
    let mut context = Context::from_waker(Waker::noop());
    let mut poll = |wait: &mut SignalWait| Pin::new(wait).poll(&mut context).is_ready();
    let mut ended = 0;
    counted(|| {
        for round in 0..100 {
            let from = Lsn::new(round * 64 * 128);
            let waits = (1..=64).map(|number| signal.wait(from + number * 128));
            let mut waits = waits.collect::<Vec<_>>();
            assert!(!waits.iter_mut().any(&mut poll));
            signal.raise(from + 64 * 128);
            for wait in &mut waits {
                ended += u64::from(poll(wait));
            }
        }
    });
    assert_eq!((ended, signal.waiters()), (6400, 0));
}

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn timeline() -> Timeline {
    Timeline {
        number: 1,
        id: Default::default(),
    }
}
