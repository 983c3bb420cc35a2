//! What committer and candidate promise at their edges. Each of these was broken by a change of
//! one expression that no other test of this room noticed.

use std::time::Duration;

use mainstay_storage::{Lsn, TallyMark, Timeline, TimelineHistory};
use uuid::Uuid;

use super::commit::{self, Action, CommitConfig, Committer, Condition, POLICIES_MAX};
use super::level::{Level, OnMiss};
use super::name::NodeName;
use super::policy::{BoundPolicy, ChangeRule, POLICY_BYTES_MAX, SyncPolicy};
use super::progress::Positions;
use super::promotion::{Announced, LogEnd, Notice, ProbeAnswer, Promise, Promises, Purpose};
use super::promotion::{Candidate, CandidateAction, CandidateConfig, CandidateEvent, Phase};
use super::promotion::{Refusal, Role};
use super::script::{FIRST_LIFE, first_lives, timeline};
use super::vote::{Lives, Vote};
use crate::time::Moment;

const PHASE: Duration = Duration::from_secs(5);

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn lsn(at: u64) -> Lsn {
    Lsn::new(at)
}

fn policy(text: &str, end: u64) -> BoundPolicy {
    BoundPolicy::new(text.parse().unwrap(), &[], &name("n"), lsn(end))
}

/// A primary that flushed 400.
fn primary(text: &str, on_miss: OnMiss) -> Committer {
    let config = CommitConfig {
        name: name("n"),
        timeline: timeline("1:a"),
        flushed: lsn(400),
        commit: Lsn::ZERO,
        hold_until: Lsn::ZERO,
        policies: vec![policy(text, 0)],
        on_miss,
    };
    Committer::new(config, Moment::ZERO)
}

fn tell(machine: &mut Committer, event: commit::Event, now: Moment) -> Vec<Action> {
    let mut out = Vec::new();
    machine.on(event, now, &mut out);
    out
}

/// The standby `a` reports that it wrote 300, flushed 200 and applied 100.
fn confirmed_by_a(machine: &mut Committer) {
    let (name, session) = (name("a"), 1);
    let positions = Positions {
        write: lsn(300),
        flush: lsn(200),
        apply: lsn(100),
    };
    let connected = commit::Event::Connected {
        name: name.clone(),
        session,
        vote: Vote::From(Lsn::ZERO),
    };
    let streaming = commit::Event::Streaming {
        name: name.clone(),
        session,
    };
    let reported = commit::Event::Reported {
        name,
        session,
        timeline: timeline("1:a"),
        positions,
    };
    for event in [connected, streaming, reported] {
        tell(machine, event, Moment::ZERO);
    }
}

#[test]
fn each_level_is_confirmed_as_far_as_its_own_stage_was_reported() {
    let mut machine = primary("ANY 1 (a, b)", OnMiss::Block);
    confirmed_by_a(&mut machine);
    let confirmed = Level::ALL.map(|level| machine.confirmed(level).get());
    assert_eq!(confirmed, [400, 400, 300, 200, 100]);
    assert_eq!(machine.flushed_by(lsn(200)), [name("a")]);
    assert_eq!(machine.flushed_by(lsn(201)), []);
}

#[test]
fn only_a_policy_that_counts_somebody_makes_a_primary_synchronous() {
    assert!(primary("ANY 1 (a)", OnMiss::Block).is_synchronous());
    assert!(!primary("off", OnMiss::Block).is_synchronous());
}

#[test]
fn a_policy_is_changed_only_while_commits_are_confirmed_and_few_changes_are_under_way() {
    let mut machine = primary("ANY 1 (a)", OnMiss::Block);
    for suspended in [true, false] {
        tell(
            &mut machine,
            commit::Event::Suspended(suspended),
            Moment::ZERO,
        );
        assert_eq!(machine.is_suspended(), suspended);
        assert_eq!(machine.may_change_policy(), !suspended);
    }
    for at in 2..=POLICIES_MAX {
        assert!(machine.may_change_policy(), "{at}");
        let policy = policy("ANY 1 (a, b)", 500 + at as u64);
        let rule = ChangeRule::Both;
        tell(
            &mut machine,
            commit::Event::PolicyLogged { policy, rule },
            Moment::ZERO,
        );
    }
    assert_eq!(machine.binding().count(), POLICIES_MAX);
    assert!(!machine.may_change_policy());
}

#[test]
fn a_change_that_counts_the_same_nodes_takes_over_once_it_is_flushed_here_and_not_before() {
    let mut machine = primary("ANY 1 (a)", OnMiss::Block);
    let (policy, rule) = (policy("ANY 1 (a)", 500), ChangeRule::OwnFlush);
    let logged = commit::Event::PolicyLogged { policy, rule };
    let settled = |out: &[Action]| out.iter().any(|it| matches!(it, Action::PolicySettled(_)));
    assert!(!settled(&tell(&mut machine, logged, Moment::ZERO)));
    let flushed = commit::Event::Flushed;
    assert!(!settled(&tell(
        &mut machine,
        flushed(lsn(499)),
        Moment::ZERO
    )));
    assert_eq!(machine.binding().count(), 2);
    assert!(!machine.is_in_force(lsn(500)));
    assert!(settled(&tell(
        &mut machine,
        flushed(lsn(500)),
        Moment::ZERO
    )));
    assert_eq!(machine.binding().count(), 1);
    assert!(machine.is_in_force(lsn(500)) && machine.is_in_force(lsn(400)));
    assert!(!machine.is_in_force(lsn(501)));
}

#[test]
fn another_rule_for_a_miss_ends_the_spell_that_the_old_one_began() {
    let after = Duration::from_secs(1);
    let mut machine = primary("ANY 1 (a)", OnMiss::Degrade { after });
    let block = || commit::Event::OnMissChanged(OnMiss::Block);
    let now = Moment::ZERO + after;
    let met = machine.clone();
    assert!(
        tell(&mut met.clone(), block(), now).is_empty(),
        "nothing began"
    );
    assert_eq!(met.status().missed_for(now), None);
    let degraded = tell(&mut machine, commit::Event::Tick, now);
    assert!(degraded.contains(&Action::Degraded), "{degraded:?}");
    let later = now + Duration::from_secs(7);
    let missed = machine.status().missed_for(later);
    assert_eq!(missed, Some(Duration::from_secs(7)));
    assert_eq!(tell(&mut machine, block(), later), [Action::Recovered]);
    assert_eq!(machine.condition(), Condition::Met);
}

#[test]
fn a_policy_counts_whoever_registers_only_where_it_says_so() {
    let bound = |text: &str| policy(text, 0).counts_voters();
    assert!(bound("ANY 1 (*)") && bound("FIRST 1 (*)"));
    assert!(!bound("ANY 1 (a)") && !bound("off"));
}

#[test]
fn a_policy_may_be_as_long_as_a_configuration_has_room_for_it_and_no_longer() {
    let text = |len: usize| format!("{:<len$}", "ANY 1 (a)").parse::<SyncPolicy>();
    assert_eq!(text(POLICY_BYTES_MAX), text(9));
    assert!(text(POLICY_BYTES_MAX + 1).is_err());
}

fn end(timeline: Timeline, at: u64) -> LogEnd {
    let flushed = lsn(at);
    LogEnd { timeline, flushed }
}

/// Nobody's data were lost.
fn lives() -> Lives {
    first_lives(["a", "b", "c", "d", "e"].map(name))
}

/// The candidate `b`, with log of timeline 1 up to 800.
fn candidate(policy: BoundPolicy, purpose: Purpose) -> CandidateConfig {
    CandidateConfig {
        name: name("b"),
        purpose,
        end: end(timeline("1:a"), 800),
        opened: TimelineHistory::new(timeline("1:a"), Lsn::ZERO),
        policies: vec![policy],
        lives: lives(),
        life: FIRST_LIFE,
        also_probe: vec![],
        highest_seen: 1,
        number: None,
        id: Uuid::from_u128(0xB),
        primary_heard: None,
        heartbeat_timeout: Duration::from_secs(10),
        lag_max: None,
        force: false,
        without_policy: false,
        may_degrade: false,
        phase_timeout: PHASE,
    }
}

fn ask(machine: &mut Candidate, event: CandidateEvent, now: Moment) -> Vec<CandidateAction> {
    let mut out = Vec::new();
    machine.on(event, now, &mut out);
    out
}

fn probed(machine: &mut Candidate, members: &[&str], highest: u32) -> Vec<CandidateAction> {
    let mut out = ask(machine, CandidateEvent::Begin, Moment::ZERO);
    for member in members {
        let answer = ProbeAnswer {
            role: Role::Standby,
            end: end(timeline("1:a"), 800),
            highest,
            primary_heard: None,
        };
        let answered = CandidateEvent::ProbeAnswered(name(member), answer);
        out = ask(machine, answered, Moment::ZERO);
    }
    out
}

fn own(at: LogEnd, policies: Vec<BoundPolicy>) -> CandidateEvent {
    let promise = Promise::Accepted(at);
    CandidateEvent::OwnAnswered {
        promise,
        policies,
        lives: lives(),
    }
}

/// Up to the point where `members` were asked for their promise.
fn promising(text: &str, members: &[&str]) -> Candidate {
    let config = candidate(policy(text, 0), Purpose::Promote);
    let mut machine = Candidate::new(config.clone());
    probed(&mut machine, members, 1);
    let asked = ask(&mut machine, own(config.end, config.policies), Moment::ZERO);
    assert_eq!(asked.len(), members.len(), "{asked:?}");
    machine
}

fn accepted(who: &str, of: Timeline, at: u64) -> CandidateEvent {
    let promise = Promise::Accepted(end(timeline("1:a"), at));
    CandidateEvent::PromiseAnswered {
        name: name(who),
        timeline: of,
        life: FIRST_LIFE,
        promise,
    }
}

#[test]
fn every_phase_waits_for_its_deadline_and_no_longer() {
    let (early, late) = (Moment::ZERO + PHASE / 2, Moment::ZERO + PHASE);
    let mut probing = Candidate::new(candidate(policy("ANY 1 (a, b)", 0), Purpose::Promote));
    assert_eq!(probing.deadline(), None);
    ask(&mut probing, CandidateEvent::Begin, Moment::ZERO);
    let promising = promising("ANY 1 (a, b)", &["a"]);
    let mut fetching = promising.clone();
    let of = fetching.status().timeline;
    ask(&mut fetching, accepted("a", of, 1600), Moment::ZERO);
    for (mut machine, phase) in [
        (probing, Phase::Probing),
        (promising, Phase::Promising),
        (fetching, Phase::Fetching),
    ] {
        assert_eq!(machine.status().phase, phase);
        assert_eq!(machine.deadline(), Some(late), "{phase:?}");
        assert_eq!(
            ask(&mut machine, CandidateEvent::Tick, early),
            [],
            "{phase:?}"
        );
        let refused = ask(&mut machine, CandidateEvent::Tick, late);
        let refused = matches!(refused[..], [CandidateAction::Refuse(_)]);
        assert!(refused && machine.deadline().is_none(), "{phase:?}");
    }
}

#[test]
fn a_member_that_cannot_be_asked_ends_an_attempt_that_needs_it_at_once() {
    let mut machine = promising("ANY 1 (a, b)", &["a"]);
    let failed = CandidateEvent::PromiseFailed(name("a"));
    let refused = ask(&mut machine, failed, Moment::ZERO);
    let lack = Refusal::Unreachable {
        needed: 2,
        have: 1,
        missing: vec![name("a")],
    };
    assert_eq!(refused, [CandidateAction::Refuse(lack)]);
}

#[test]
fn a_failure_of_who_was_not_asked_ends_no_attempt() {
    let mut machine = Candidate::new(candidate(policy("off", 0), Purpose::Promote));
    let asked = probed(&mut machine, &[], 1);
    assert!(
        matches!(asked[..], [CandidateAction::AskOwn(_)]),
        "{asked:?}"
    );
    let failed = CandidateEvent::PromiseFailed(name("z"));
    assert_eq!(ask(&mut machine, failed, Moment::ZERO), []);
    assert_eq!(machine.status().phase, Phase::Promising);
}

#[test]
fn a_promise_counts_only_for_its_timeline_and_from_who_was_asked() {
    let mut machine = promising("ANY 1 (a, b, c)", &["a", "c"]);
    let of = machine.status().timeline;
    for answer in [accepted("a", timeline("2:f"), 800), accepted("z", of, 800)] {
        assert_eq!(ask(&mut machine, answer, Moment::ZERO), []);
        assert_eq!(machine.status().promised, []);
    }
    // Two of three are enough for a policy that needs two promises beside its own, and not before.
    assert_eq!(ask(&mut machine, accepted("a", of, 800), Moment::ZERO), []);
    let opens = ask(&mut machine, accepted("c", of, 800), Moment::ZERO);
    assert_eq!(opens, [CandidateAction::OpenTimeline(of)]);
}

#[test]
fn a_primary_that_restarts_asks_nobody_only_under_a_policy_that_nobody_can_have_met() {
    let restarts = |text: &str| {
        let policy = BoundPolicy::new(text.parse().unwrap(), &[name("a")], &name("b"), Lsn::ZERO);
        let config = candidate(policy, Purpose::Restart);
        let mut machine = Candidate::new(config.clone());
        probed(&mut machine, &["a"], 1);
        let out = ask(&mut machine, own(config.end, config.policies), Moment::ZERO);
        out.iter()
            .any(|it| matches!(it, CandidateAction::OpenTimeline(_)))
    };
    assert!(restarts("ANY 2 (*)"));
    assert!(!restarts("ANY 1 (*)"));
}

#[test]
fn a_primary_that_follows_another_timeline_by_now_raises_nothing() {
    for purpose in [Purpose::Raise, Purpose::Restart, Purpose::Promote] {
        let config = candidate(policy("ANY 1 (a)", 0), purpose);
        let mut machine = Candidate::new(config.clone());
        probed(&mut machine, &["a"], 1);
        let moved = own(end(timeline("2:c"), 900), config.policies.clone());
        let out = ask(&mut machine, moved, Moment::ZERO);
        let fenced = matches!(out[..], [CandidateAction::Refuse(Refusal::Fenced { .. })]);
        assert_eq!(fenced, purpose != Purpose::Promote, "{purpose:?}: {out:?}");
    }
}

#[test]
fn no_timeline_is_opened_behind_the_last_number() {
    let mut machine = Candidate::new(candidate(policy("ANY 1 (a, b)", 0), Purpose::Promote));
    let out = probed(&mut machine, &["a"], u32::MAX);
    let none = Refusal::NumbersExhausted(u32::MAX);
    assert_eq!(out, [CandidateAction::Refuse(none)]);
}

#[test]
fn force_alone_loses_nothing_that_a_policy_confirmed() {
    let lose = [
        Notice::NoPolicy,
        Notice::PolicyGivenUp(vec![]),
        Notice::MayHaveDegraded,
    ];
    assert!(lose.iter().all(Notice::loses));
    assert!(!Notice::Forced.loses());
}

#[test]
fn what_was_opened_outweighs_a_promise_of_the_same_number() {
    let promises = Promises {
        others: Some(timeline("2:b")),
        own: Some(timeline("2:d")),
    };
    assert_eq!(promises.newest(timeline("2:c")), timeline("2:c"));
    assert_eq!(promises.newest(timeline("1:a")), timeline("2:b"));
}

/// Marks come from a peer, as often as it likes.
#[test]
fn marks_of_a_primary_have_a_bound_and_the_newest_stay_exact() {
    const MARKS: u64 = 1024;
    let mark = |n: u64| TallyMark {
        at: lsn(n * 1000),
        transactions: n,
    };
    let kept = |known: &Announced| format!("{known:?}").matches("TallyMark").count() as u64;
    let mut known = Announced::default();
    for n in 1..=MARKS {
        known.tallied(mark(n), lsn(1));
        known.tallied(mark(n), lsn(1));
        assert!(n % 64 > 0 || kept(&known) == n, "each is kept once");
    }
    let all = known.clone();
    known.tallied(mark(MARKS + 1), lsn(1));
    let thinned = known.clone();
    for n in MARKS + 2..=4 * MARKS {
        known.tallied(mark(n), lsn(1));
        assert!(n % 64 > 1 || kept(&known) <= MARKS, "{n}");
    }
    let states = [(all, MARKS), (thinned, MARKS + 1), (known, 4 * MARKS)];
    for (mut known, newest) in states {
        known.told(lsn(newest * 1000));
        for back in 0..MARKS / 4 {
            let own = lsn((newest - back) * 1000);
            assert_eq!(known.lacks(own), Some((back * 1000, back)), "{newest}");
        }
    }
}
