//! Promotion under scripts, and the rules of the acceptor one by one.

use std::time::Duration;

use uuid::Uuid;

use super::*;
use crate::protocol::name::NodeName;
use crate::protocol::policy::BoundPolicy;
use crate::protocol::script::{self, Command, FIRST_LIFE, first_lives, timeline};
use crate::protocol::vote::Lives;
use crate::time::Moment;

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// Reads `1:a/0/100`: the timeline of the last record, and the end.
fn end(text: &str) -> LogEnd {
    let (owner, flushed) = text.split_once('/').unwrap();
    LogEnd {
        timeline: timeline(owner),
        flushed: flushed.parse().unwrap(),
    }
}

/// Policies stand in scripts without blanks: `ANY_1_(a,b)`; two that bind are joined by `+`.
fn policies(command: &Command) -> Vec<BoundPolicy> {
    let texts = command.text("policy").unwrap_or("off").split('+');
    let author = name(command.text("by").unwrap_or("a"));
    let bound = |text: &str| {
        let policy = text.replace('_', " ").parse().unwrap();
        BoundPolicy::new(policy, &[], &author, Lsn::ZERO)
    };
    texts.map(bound).collect()
}

/// `lives=b:1,c:2`; where a script is silent, every node's data are in their first life.
fn lives(command: &Command) -> Lives {
    let mut lives = first_lives(["a", "b", "c", "d", "e"].map(name));
    for life in command.text("lives").unwrap_or_default().split(',') {
        if let Some((node, life)) = life.split_once(':') {
            lives.insert(name(node), Uuid::from_u128(life.parse().unwrap()));
        }
    }
    lives
}

fn candidate(command: &Command) -> Candidate {
    let end = end(command.text("end").unwrap());
    let mut opened = TimelineHistory::new(timeline("1:a"), Lsn::ZERO);
    if end.timeline.number > 1 {
        opened.open(end.timeline, Lsn::ZERO, "").unwrap();
    }
    Candidate::new(CandidateConfig {
        name: name("b"),
        purpose: match command.text("purpose") {
            Some("raise") => Purpose::Raise,
            Some("restart") => Purpose::Restart,
            _ => Purpose::Promote,
        },
        end,
        opened,
        policies: policies(command),
        lives: lives(command),
        life: FIRST_LIFE,
        also_probe: command.text("probe").map(name).into_iter().collect(),
        highest_seen: 1,
        number: command.get("number"),
        id: Uuid::from_u128(0xB),
        primary_heard: command.text("heard").map(|_| command.duration("heard")),
        heartbeat_timeout: Duration::from_secs(10),
        lag_max: command.get("lag_max").map(|bytes| LagLimit {
            bytes,
            primary: command.get("primary_end").map(|end| (name("a"), end)),
        }),
        force: command.has("force"),
        without_policy: command.has("without_policy"),
        may_degrade: command.has("may_degrade"),
        phase_timeout: Duration::from_secs(5),
    })
}

fn promise(command: &Command) -> Promise {
    match (command.text("end"), command.timeline("outbid")) {
        (Some(text), _) => Promise::Accepted(end(text)),
        (_, Some(newest)) => Promise::Refused(PromiseRefusal::Outbid(newest)),
        _ => Promise::Refused(PromiseRefusal::Busy),
    }
}

fn event(command: &Command, machine: &Candidate) -> CandidateEvent {
    let who = || name(command.text("name").unwrap());
    match command.name() {
        "begin" => CandidateEvent::Begin,
        "probed" => CandidateEvent::ProbeAnswered(
            who(),
            ProbeAnswer {
                role: match command.text("role") {
                    Some("primary") => Role::Primary,
                    _ => Role::Standby,
                },
                end: end(command.text("end").unwrap()),
                highest: command.get("highest").unwrap_or(1),
                primary_heard: command.text("heard").map(|_| command.duration("heard")),
            },
        ),
        "unprobed" => CandidateEvent::ProbeFailed(who()),
        "own" => CandidateEvent::OwnAnswered {
            promise: promise(command),
            policies: policies(command),
            lives: lives(command),
        },
        "promised" => {
            let asked = machine.status().timeline;
            CandidateEvent::PromiseAnswered {
                name: who(),
                timeline: asked,
                life: command.get("life").map_or(FIRST_LIFE, Uuid::from_u128),
                promise: promise(command),
            }
        }
        "unpromised" => CandidateEvent::PromiseFailed(who()),
        "overtaken" => CandidateEvent::Overtaken(command.timeline("by").unwrap()),
        "fetched" => CandidateEvent::Fetched {
            end: end(command.text("end").unwrap()),
            policies: policies(command),
            lives: lives(command),
        },
        "unfetched" => CandidateEvent::FetchFailed,
        "opened" => CandidateEvent::Opened {
            fork: command.lsn("fork"),
            end: command.lsn("end"),
        },
        "tick" => CandidateEvent::Tick,
        other => panic!("no command {other}"),
    }
}

fn show(action: &CandidateAction) -> String {
    match action {
        CandidateAction::AskOwn(request) => format!("AskOwn {:?}", request.timeline),
        CandidateAction::AskPromise(name, request) => {
            format!("AskPromise {name} {:?}", request.timeline)
        }
        CandidateAction::Refuse(why) => format!("Refuse: {why}"),
        CandidateAction::Done { notices, .. } => {
            let notices = notices.iter().map(|notice| format!("\n  notice: {notice}"));
            format!("{action:?}{}", notices.collect::<String>())
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn promotions_follow_their_script() {
    let mut machine = None;
    let mut now = Moment::ZERO;
    script::run!("promotion.txt", |command: &Command| {
        now = now + command.duration("after");
        if command.name() == "candidate" {
            machine = Some(candidate(command));
            return vec![];
        }
        let machine = machine.as_mut().unwrap();
        let mut actions = Vec::new();
        machine.on(event(command, machine), now, &mut actions);
        actions.iter().map(show).collect()
    });
}

fn request(who: &str, asked: &str, purpose: Purpose, opened: &[&str]) -> AcceptorEvent {
    let mut history = TimelineHistory::new(timeline("1:a"), Lsn::ZERO);
    for next in opened {
        history.open(timeline(next), Lsn::ZERO, "").unwrap();
    }
    AcceptorEvent::Asked(PromiseRequest {
        candidate: name(who),
        timeline: timeline(asked),
        purpose,
        opened: history,
    })
}

/// What the acceptor answers once its promise, if it makes one, is durable.
fn ask(acceptor: &mut Acceptor, event: AcceptorEvent) -> Promise {
    let mut out = Vec::new();
    acceptor.on(event, &mut out);
    if let Some(AcceptorAction::Persist(promises)) = out.last() {
        let promises = *promises;
        assert_eq!(out.len(), 1, "it answered before its promise was durable");
        acceptor.on(AcceptorEvent::Persisted(end("1:a/0/80")), &mut out);
        assert_eq!(acceptor.promises(), promises);
    }
    match out.pop() {
        Some(AcceptorAction::Reply { promise, .. }) => promise,
        other => panic!("no reply but {other:?}"),
    }
}

fn member() -> Acceptor {
    Acceptor::new(name("m"), Promises::default(), timeline("1:a"))
}

const PROMOTE: Purpose = Purpose::Promote;

fn accepted() -> Promise {
    Promise::Accepted(end("1:a/0/80"))
}

fn outbid(by: &str) -> Promise {
    Promise::Refused(PromiseRefusal::Outbid(timeline(by)))
}

#[test]
fn a_member_promises_each_number_to_one_candidate_at_most() {
    let mut member = member();
    assert_eq!(
        ask(&mut member, request("x", "3:c", PROMOTE, &[])),
        accepted()
    );
    assert_eq!(
        ask(&mut member, request("y", "3:d", PROMOTE, &[])),
        outbid("3:c")
    );
    assert_eq!(
        ask(&mut member, request("y", "2:d", PROMOTE, &[])),
        outbid("3:c")
    );
    assert_eq!(
        ask(&mut member, request("x", "3:c", PROMOTE, &[])),
        accepted(),
        "asked again"
    );
    assert_eq!(
        ask(&mut member, request("y", "4:d", PROMOTE, &[])),
        accepted()
    );
    assert_eq!(
        ask(&mut member, request("x", "1:a", PROMOTE, &[])),
        outbid("4:d")
    );
    assert_eq!(member.newest(), timeline("4:d"));
}

#[test]
fn a_timeline_opened_while_a_promise_was_made_wins() {
    let mut member = member();
    let mut out = Vec::new();
    member.on(request("x", "2:b", PROMOTE, &[]), &mut out);
    member.on(request("y", "3:c", PROMOTE, &[]), &mut out);
    member.on(AcceptorEvent::Opened(timeline("5:e")), &mut out);
    member.on(AcceptorEvent::Persisted(end("1:a/0/80")), &mut out);
    let promises = out.into_iter().filter_map(|action| match action {
        AcceptorAction::Reply { promise, .. } => Some(promise),
        _ => None,
    });
    let busy = Promise::Refused(PromiseRefusal::Busy);
    assert_eq!(promises.collect::<Vec<_>>(), [busy, outbid("5:e")]);
}

#[test]
fn a_restarted_primary_is_accepted_only_if_it_continues_what_was_accepted() {
    let restart = |asked, opened| request("a", asked, Purpose::Restart, opened);
    let mut member = member();
    assert_eq!(ask(&mut member, restart("2:b", &[])), accepted());
    assert_eq!(
        ask(&mut member, request("x", "3:c", PROMOTE, &[])),
        accepted()
    );
    let refused = Promise::Refused(PromiseRefusal::NotContinued(timeline("3:c")));
    assert_eq!(ask(&mut member, restart("4:d", &["2:b"])), refused);
    assert_eq!(
        ask(&mut member, restart("4:d", &["2:b", "3:c"])),
        accepted()
    );
}

#[test]
fn only_the_owner_gives_up_a_promise_and_keeps_those_to_others() {
    let mut member = member();
    ask(&mut member, request("x", "2:b", PROMOTE, &[]));
    ask(&mut member, request("m", "3:c", PROMOTE, &[]));
    assert_eq!(member.newest(), timeline("3:c"));
    let mut out = Vec::new();
    member.on(AcceptorEvent::GivenUp, &mut out);
    let left = Promises {
        others: Some(timeline("2:b")),
        own: None,
    };
    assert_eq!(out, [AcceptorAction::Save(left)]);
    assert_eq!(member.newest(), timeline("2:b"));
    member.on(AcceptorEvent::GivenUp, &mut out);
    assert_eq!(out.len(), 1, "nothing is left to give up");
}

#[test]
fn a_primary_that_was_replaced_is_bound_by_what_replaced_it() {
    let mut member = member();
    ask(&mut member, request("x", "2:b", PROMOTE, &[]));
    let mut out = Vec::new();
    member.on(AcceptorEvent::Replaced(timeline("3:c")), &mut out);
    let bound = Promises {
        others: Some(timeline("3:c")),
        own: None,
    };
    assert_eq!(out, [AcceptorAction::Save(bound)]);
    for known in ["3:c", "2:b", "1:a"] {
        member.on(AcceptorEvent::Replaced(timeline(known)), &mut out);
        assert_eq!(out.len(), 1, "{known}: that binds it already");
    }
    assert_eq!(
        ask(&mut member, request("y", "3:d", PROMOTE, &[])),
        outbid("3:c")
    );
}

#[test]
fn only_an_opened_newer_timeline_fences() {
    let mut own = TimelineHistory::new(timeline("1:a"), Lsn::ZERO);
    own.open(timeline("3:c"), Lsn::ZERO, "").unwrap();
    for (claimed, opened, answer) in [
        ("1:a", true, Fencing::Ignore),
        ("2:b", true, Fencing::Ignore),
        ("3:c", true, Fencing::Ignore),
        ("3:d", false, Fencing::AskAbove(3)),
        ("3:d", true, Fencing::AskAbove(3)),
        ("4:d", false, Fencing::AskAbove(4)),
        ("4:d", true, Fencing::Fence(timeline("4:d"))),
    ] {
        assert_eq!(
            fencing(&own, timeline(claimed), opened),
            answer,
            "{claimed} {opened}"
        );
    }
}
