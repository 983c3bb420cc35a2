//! The end of a run: every fault stops, and in bounded time all nodes are the same.

use mainstay_replication::protocol::promotion::Purpose;

use super::SECOND;
use super::cluster::{Cluster, Event};
use super::node::{Node, Trouble};

/// Virtual time that clients go on writing, and that all nodes have to become the same, in
/// microseconds.
const WRITES: u64 = 10 * SECOND;
const PATIENCE: u64 = 180 * SECOND;

/// Orders that operators try before they give a policy up.
const PATIENT_ORDERS: u64 = 10;

impl Cluster {
    /// Every fault ends; in bounded time all nodes are the same.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.calm_since = Some(self.now);
        self.net.lossy = false;
        self.heal();
        for (node, machine) in self.nodes.iter().zip(&mut self.machines) {
            node.disk.clear_faults();
            node.disk.clear_capacity();
            machine.frozen_until = machine.frozen_until.min(self.now + SECOND);
        }
        let writes_end = self.now + WRITES;
        let end = self.now + PATIENCE;
        self.plan(SECOND, Event::Operator);
        let acknowledged = self.clients.acknowledgements();
        while self.now < end {
            self.unfold(self.now + SECOND)?;
            let wrote = self.clients.acknowledgements() > acknowledged;
            if self.now >= writes_end && wrote {
                self.queue
                    .retain(|_, event| !matches!(event, Event::Client(_)));
                if self.is_settled() {
                    self.same_rows()?;
                    return self.clients.check();
                }
            }
        }
        let nodes = self.nodes.iter();
        let nodes = nodes.map(|node| format!("{} at {:?}", node.standing(), node.digest()));
        Err(format!(
            "no convergence:\n{}",
            nodes.collect::<Vec<_>>().join("\n")
        ))
    }

    fn is_settled(&self) -> bool {
        let digests = self.nodes.iter().map(Node::digest).collect::<Vec<_>>();
        let same = digests.windows(2).all(|pair| pair[0] == pair[1]);
        let whole = digests[0].is_some_and(|ends| ends.0 == ends.1 && ends.1 == ends.2);
        same && whole && self.nodes.iter().filter(|node| node.leads()).count() == 1
    }

    /// While nobody leads, the node with the most log is promoted; where that is refused, one that
    /// was the primary is started as that, as the refusal tells operators.
    pub(super) fn operate(&mut self) -> Result<(), String> {
        self.plan(3 * SECOND, Event::Operator);
        if self.nodes.iter().any(Node::leads) {
            for index in 0..self.nodes.len() {
                if self.nodes[index].leads() {
                    self.with(index, Node::tell_others)?;
                }
            }
            self.led += 1;
            if self.led > PATIENT_ORDERS {
                self.start_anew();
            }
            return Ok(());
        }
        self.orders += 1;
        let restarts = self.orders.is_multiple_of(3);
        // A member without the vote of its name may be the one without which nobody can be
        // promoted. Giving the policy up is then what is left.
        let gives_up = self.orders > PATIENT_ORDERS && self.lacks_votes()?;
        self.helped |= gives_up;
        let fit = |index: &usize| {
            let node = &self.nodes[*index];
            node.knows_cluster() && (!restarts || node.was_primary())
        };
        let best = (0..self.plan.voters).filter(fit);
        let best = best.max_by_key(|index| self.nodes[*index].rank());
        let rival = best.and_then(|best| self.nodes[best].rival.take());
        if let Some(rival) = rival.filter(|_| self.orders > PATIENT_ORDERS) {
            // Where all of the counted must confirm, two may open a timeline of one number, and
            // neither can confirm anything on it. The refusal says to keep one.
            let rival = super::index_of(&rival);
            self.helped = true;
            self.crash(rival);
            self.touch(rival, Node::lose_everything);
        }
        match best {
            Some(best) if restarts => {
                self.end(best, None);
                Ok(())
            }
            Some(best) => self.with(best, |node, world| {
                match gives_up {
                    true if node.is_primary() => node.step_down(world)?,
                    true => node.ask_alone(world)?,
                    false => node.ask(Purpose::Promote, true, world)?,
                }
                node.pump(world)
            }),
            None => Ok(()),
        }
    }

    /// A node that no policy counts may hold a timeline of which nobody else knows any more, once
    /// the data of whoever opened it are gone, and one whose device lied may serve log that the
    /// node behind it refuses. Its operator starts it with an empty directory; and so any standby
    /// that refuses the log which it needs, since a copy brings it past the damage. Without damage
    /// anywhere no log is refused for ever, and nobody helps.
    fn start_anew(&mut self) {
        let damage = self.nodes.iter().any(|node| node.rotten);
        for index in 0..self.nodes.len() {
            let (node, counted) = (&self.nodes[index], self.plan.votes(index));
            let lies = node.rotten && node.life.is_some();
            if node.refuses_log() && damage || !counted && (node.refuses_its_upstream() || lies) {
                self.helped = true;
                self.crash(index);
                self.touch(index, Node::lose_everything);
            }
        }
    }

    /// Whether the data of a node have not the vote of its name.
    fn lacks_votes(&mut self) -> Result<bool, String> {
        let mut lacks = false;
        for index in 0..self.plan.voters {
            lacks |= self.nodes[index].life.is_none();
            if self.nodes[index].life.is_some() {
                let vote = self.touch(index, |node, _| node.has_vote());
                lacks |= !vote.map_err(|trouble| format!("{trouble:?}"))?;
            }
        }
        Ok(lacks)
    }

    fn same_rows(&mut self) -> Result<(), String> {
        let rows = self
            .nodes
            .iter()
            .map(Node::rows)
            .collect::<Result<Vec<_>, _>>();
        let rows = rows.map_err(|trouble| match trouble {
            Trouble::Disk(why) | Trouble::Damaged(why) | Trouble::Broken(why) => why,
        })?;
        let digests = rows.iter().map(|rows| Some(super::clients::digest(rows)));
        let applied = self.nodes[0].digest().map(|ends| ends.3);
        let expected = applied.and_then(|at| self.oracle.rows_at(at));
        match digests.into_iter().all(|digest| digest == expected) {
            true => Ok(()),
            false => Err("the same log, and other rows than it makes".to_owned()),
        }
    }
}
