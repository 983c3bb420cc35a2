//! Schedules that broke drafts of the plan, message by message.

use super::*;

impl Cluster {
    /// The nodes `a`, `b`, `c`, .. of which the first is the primary under `policy`.
    fn scripted(size: usize, policy: &str) -> Self {
        let mut cluster = (1..)
            .map(Self::new)
            .find(|cluster| cluster.nodes.len() == size)
            .unwrap();
        let author = cluster.nodes[0].name.clone();
        let policy = BoundPolicy::new(policy.parse().unwrap(), &[], &author, end_of(1));
        for node in &mut cluster.nodes {
            node.log = vec![Entry::Config(policy.clone())];
        }
        cluster.committed = vec![Entry::Config(policy)];
        cluster.lead(0, Lsn::ZERO);
        cluster
    }

    /// Delivers what `wanted` says, oldest first, and what that leads to.
    fn deliver_all(&mut self, wanted: impl Fn(&Message) -> bool) {
        while let Some(at) = self.messages.iter().position(&wanted) {
            let message = self.messages.remove(at).unwrap();
            self.hand_over(message);
        }
    }

    /// The primary `at` writes something, and has it on its disk.
    fn write(&mut self, at: usize) -> Entry {
        let entry = Entry::Write(self.fresh());
        self.nodes[at].log.push(entry.clone());
        self.flush(at);
        entry
    }

    fn timeline_of(&self, at: usize) -> u32 {
        self.nodes[at].history.current().number
    }
}

fn is_ack(message: &Message) -> bool {
    matches!(message, Message::Ack { .. })
}

/// The questions of the candidate `who` of one kind, and all answers to it.
fn about(who: usize, probes: bool) -> impl Fn(&Message) -> bool {
    move |message| match message {
        Message::ToMember { from, action, .. } => {
            *from == who && matches!(action, CandidateAction::AskProbe(_)) == probes
        }
        Message::ToCandidate { to, .. } => *to == who,
        Message::Ack { .. } => false,
    }
}

#[test]
fn a_member_that_promised_confirms_nothing_that_was_on_its_way() {
    for late in [true, false] {
        let mut cluster = Cluster::scripted(3, "ANY 1 (a, b, c)");
        let before = cluster.write(0);
        cluster.stream_from(2, 0, 9);
        if !late {
            cluster.deliver_all(is_ack);
        }
        // b asks c, whose confirmation of the old primary's write is still on its way.
        cluster.begin(1, Purpose::Promote);
        cluster.deliver_all(about(1, true));
        cluster.deliver_all(about(1, false));
        assert_eq!(cluster.timeline_of(1), 2);
        cluster.deliver_all(is_ack);
        assert!(cluster.committed.contains(&before), "a may acknowledge it");
        assert!(cluster.nodes[1].log.contains(&before), "so b must have it");
        // From here on c confirms nothing to a, which learns why.
        let after = cluster.write(0);
        cluster.stream_from(2, 0, 9);
        cluster.deliver_all(is_ack);
        assert!(!cluster.committed.contains(&after));
        assert!(
            cluster.nodes[0].candidate.is_some(),
            "it asks whether it may go on"
        );
        cluster.stream_from(2, 1, 9);
        cluster.deliver_all(is_ack);
        let opened = Entry::NewTimeline(cluster.nodes[1].history.current());
        assert!(cluster.committed.contains(&opened) && !cluster.committed.contains(&after));
    }
}

#[test]
fn two_candidates_that_drew_the_same_number_never_both_open_it() {
    for [first, second] in [[1, 2], [2, 1]] {
        let mut cluster = Cluster::scripted(4, "ANY 2 (a, b, c, d)");
        let before = cluster.write(0);
        cluster.stream_from(first, 0, 9);
        cluster.stream_from(second, 0, 9);
        cluster.deliver_all(is_ack);
        assert!(cluster.committed.contains(&before));
        // Both look around before either asks, so both draw the next number.
        for candidate in [first, second] {
            cluster.begin(candidate, Purpose::Promote);
            cluster.deliver_all(about(candidate, true));
            let drawn = cluster.nodes[candidate].candidate.as_ref().unwrap();
            assert_eq!(drawn.1.status().timeline.number, 2);
        }
        for candidate in [first, second] {
            cluster.deliver_all(about(candidate, false));
        }
        assert_eq!(
            cluster.timeline_of(first),
            2,
            "{}",
            cluster.story.join("\n")
        );
        assert_eq!(
            cluster.timeline_of(second),
            1,
            "{}",
            cluster.story.join("\n")
        );
        assert!(cluster.nodes[first].log.contains(&before));
        // The loser follows, and together they commit.
        cluster.stream_from(second, first, 9);
        cluster.stream_from(3, first, 9);
        cluster.deliver_all(is_ack);
        assert_eq!(cluster.timeline_of(second), 2);
        let opened = Entry::NewTimeline(cluster.nodes[first].history.current());
        assert!(cluster.committed.contains(&opened));
    }
}
