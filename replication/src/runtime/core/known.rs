//! What this node knows of the primary that it may have to replace, and of itself as a successor.
//!
//! It outlasts the connection: what counts is how far the primary's log was when it was heard last.
//! It decides nothing.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mainstay_storage::{Lsn, TallyMark};

use super::Core;
use crate::cluster::{ClusterConfig, MEMBERS_MAX, Member};
use crate::error::{Error, Result};
use crate::protocol::level::OnMiss;
use crate::protocol::name::NodeName;
use crate::protocol::promotion::{PossibleLoss, PromiseRefusal};
use crate::protocol::vote::Lives;
use crate::runtime::promote::PromoteOptions;
use crate::time::Moment;

/// Why a node whose replay has failed does not become primary.
const NOT_APPLIED: &str = "the log cannot be applied to this node's store; its messages say why. \
                           Promote another node; restart this one, or take its data anew with \
                           mainstay resync --full";

impl Core {
    /// A session with the primary begins; what it had before stays known until it says something.
    pub(crate) fn primary_renewed(&self) {
        self.peers.announced.lock().renew();
    }

    /// The primary said how far its log is flushed.
    pub(crate) fn primary_told(&self, end: Lsn) {
        self.peers.announced.lock().told(end);
    }

    /// The primary said how many transactions ended in its log up to some place.
    pub(crate) fn primary_tallied(&self, mark: TallyMark) {
        let own = self.wal.flushed().get();
        self.peers.announced.lock().tallied(mark, own);
    }

    /// The primary, and the end of its log as it said last.
    pub(crate) fn primary_end(&self) -> Option<(NodeName, Lsn)> {
        let end = self.peers.announced.lock().end()?;
        Some((self.cluster().primary.name, end))
    }

    /// The node `name` said that it can be reached there. The log names who registered with a
    /// primary: one that was the primary itself, or came when there was none, it does not.
    pub(crate) fn met(&self, name: NodeName, address: String) {
        let mut met = self.peers.met.lock();
        if met.len() < MEMBERS_MAX || met.contains_key(&name) {
            met.insert(name, address);
        }
    }

    /// `before` was the primary by the log, which says `now` instead.
    pub(super) fn primary_was(&self, before: Member, now: &ClusterConfig) {
        if before.name != now.primary.name && !before.address.is_empty() {
            self.met(before.name, before.address);
        }
    }

    /// Notes where primaries of before could be reached, as far as the log still says it: after a
    /// restart nobody else may, and a candidate has to ask them.
    pub(super) fn meet_by_log(&self) -> Result<()> {
        for (bytes, _) in self.wal.binding_configs(Lsn::ZERO) {
            if let Some(config) = ClusterConfig::decode(&bytes)? {
                self.primary_was(config.primary, &self.state.lock().cluster);
            }
        }
        Ok(())
    }

    /// Where the node `name` can be reached: by the log, or as it was met.
    pub(crate) fn address_of(&self, name: &NodeName) -> Option<String> {
        let cluster = self.cluster();
        let named = cluster.address_of(name).map(str::to_owned);
        named.or_else(|| self.peers.met.lock().get(name).cloned())
    }

    /// All other members: name and address, if it is known. Those of the log, and whom a policy
    /// counts beside them.
    ///
    /// # Errors
    /// When the configuration in the log cannot be read.
    pub(crate) fn others(&self) -> Result<BTreeMap<NodeName, Option<String>>> {
        let cluster = self.cluster();
        let named = cluster.standbys.into_iter().chain([cluster.primary]);
        let bound = self.policies()?;
        let counted = bound.iter().flat_map(|policy| policy.counted());
        let names = named.map(|member| member.name).chain(counted.cloned());
        let others = names.filter(|name| *name != self.name);
        Ok(others
            .map(|name| (name.clone(), self.address_of(&name)))
            .collect())
    }

    /// Whether acknowledged commits may be lost in a promotion in which enough members agree.
    ///
    /// # Errors
    /// When the configuration in the log cannot be read.
    pub(crate) fn may_lose(&self, options: &PromoteOptions) -> Result<bool> {
        let bound = self.policies()?;
        let counted = bound.iter().any(|policy| policy.needed() > 0);
        let degrades = matches!(self.config.on_miss, OnMiss::Degrade { .. });
        Ok(!counted || options.without_policy || degrades)
    }

    /// What is lost if this node, whose log ends at `own`, becomes the primary.
    pub(crate) fn possible_loss(&self, own: Lsn, possible: bool) -> PossibleLoss {
        let lacks = self.peers.announced.lock().lacks(own);
        let (bytes, transactions) = match possible {
            true => lacks.unzip(),
            false => (Some(0), Some(0)),
        };
        PossibleLoss {
            bytes,
            transactions,
            primary_last_seen: self.primary_last_seen(),
            ruled_out: !possible,
        }
    }

    /// How long ago the primary was heard, connected or not.
    fn primary_last_seen(&self) -> Option<Duration> {
        let heard = self.primary_heard.load(Ordering::Relaxed);
        (heard > 0).then(|| self.clock.now() - Moment::from_micros(heard))
    }

    /// Whether a policy counts this node, and so few others that nobody could be promoted without
    /// its promise.
    pub(crate) fn is_needed_to_promote(&self) -> bool {
        let Ok(bound) = self.policies() else {
            return true;
        };
        let mut bound = bound.iter().filter(|policy| policy.needed() > 0);
        bound.any(|policy| {
            let counted = policy.counted();
            counted.contains(&self.name) && policy.promises_needed() >= counted.len()
        })
    }

    /// Why whoever chooses a new primary should pass this node over.
    pub(crate) fn passed_over(&self) -> Option<String> {
        let no_vote = || {
            self.lacks_vote()
                .then(|| PromiseRefusal::NoVote.to_string())
        };
        // It could not even write that a timeline begins.
        let stopped = self.wal.poisoned().map(|error| error.to_string());
        let unapplied = || self.check_applied().err().map(|error| error.to_string());
        let wrong = || self.check_rows().err().map(|error| error.to_string());
        stopped.or_else(unapplied).or_else(wrong).or_else(no_vote)
    }

    /// Whether the log still gets into this node's store, without which it cannot serve.
    ///
    /// # Errors
    /// [`Error::Refused`] with the way to go on.
    pub(crate) fn check_applied(&self) -> Result<()> {
        match self.applied.is_closed() {
            true => Err(Error::Refused(NOT_APPLIED.to_owned())),
            false => Ok(()),
        }
    }

    /// What the log says of the cluster, if that can be read and says anything yet.
    pub(crate) fn logged_cluster(&self) -> Option<ClusterConfig> {
        ClusterConfig::decode(&self.wal.config().0).ok().flatten()
    }

    /// The lives of data that have a vote, as the log says.
    pub(crate) fn lives(&self) -> Lives {
        let cluster = self.logged_cluster();
        cluster.map(|cluster| cluster.lives()).unwrap_or_default()
    }

    /// Whether this node's data are not the life that votes for it: they were copied, and have not
    /// caught up yet, so what its old self confirmed may be missing.
    pub(crate) fn lacks_vote(&self) -> bool {
        let own = self.wal.identity().incarnation;
        let policies = self.policies().unwrap_or_default();
        match self.logged_cluster() {
            Some(cluster) => cluster.lacks_vote(&self.name, own, &policies),
            // A copy that has not got there yet: who is counted is not known here.
            None => !self.is_primary(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mainstay_storage::{NewLog, OsDisk, SegmentSize, Signal, Wal, WalOptions};

    use super::*;
    use crate::config::WalStreamingConfig;
    use crate::event::Observer;

    #[tokio::test]
    async fn a_copy_whose_log_names_nobody_yet_votes_for_nobody_and_is_not_promoted() {
        let dir = tempfile::tempdir().unwrap();
        let options = WalOptions {
            segment_size: SegmentSize::MIN,
            ..WalOptions::new(|| 0)
        };
        let new = NewLog {
            own: false,
            ..NewLog::new_cluster(SegmentSize::MIN)
        };
        let wal = Wal::create(Arc::new(OsDisk), dir.path(), new, &options).unwrap();
        let config = WalStreamingConfig {
            name: "b".to_owned(),
            follow: vec!["127.0.0.1:1".to_owned()],
            sync: Some("ANY 1 (b, c)".parse().unwrap()),
            ..WalStreamingConfig::default()
        };
        let nothing = Signal::new(Lsn::ZERO);
        let core = Core::new(config, Vec::new(), wal, nothing, None, Observer::default());
        let core = Arc::new(core.unwrap());
        assert!(core.lacks_vote() && core.lives().is_empty());
        let no_vote = PromiseRefusal::NoVote.to_string();
        assert_eq!(core.passed_over(), Some(no_vote.clone()));
        let options = PromoteOptions::default();
        let refused = crate::runtime::promote::run(&core, &options, &mut None).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(&no_vote), "{refused}");
        // A store that takes no more comes first: it does not get its vote back by itself.
        core.applied.close();
        let not_applied = format!("refused: {NOT_APPLIED}");
        assert_eq!(core.passed_over(), Some(not_applied.clone()));
        let refused = crate::runtime::promote::run(&core, &options, &mut None).await;
        assert_eq!(refused.unwrap_err().to_string(), not_applied, "asked last");
    }
}
