//! Telling an old primary that a newer timeline was opened, so that it stops at once.
//!
//! Safety does not need this: enough members have promised, so it cannot acknowledge anything that
//! the policy covers. But without standbys nobody would tell it, and it would go on answering
//! reads, and commits that wait for its own disk only. Which member that is need not be known here:
//! two may have been promoted at once, and this node's log ends before the other one's says so.
//! All members are told.

use std::sync::Arc;
use std::time::Duration;

use mainstay_storage::Timeline;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::cluster::{ClusterConfig, Member};
use crate::config::Role;
use crate::error::Result;
use crate::protocol::name::NodeName;
use crate::protocol::receiver::{is_stale, newest_known};
use crate::runtime::core::Core;
use crate::runtime::promote::connect;
use crate::runtime::walreceiver::Order;
use crate::wire::command::{Command, TimelineOpened};
use crate::wire::result::ResultSet;
use crate::wire::{Column, Row};

/// First pause between two attempts to reach the old primary; it doubles.
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// Longest pause between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// How long the old primary is looked for; it learns the news by itself when it meets anybody.
const LOOK_FOR: Duration = Duration::from_secs(3600);

/// Tells every other member, each as long as [`tell`] does; `before` is the configuration of the
/// log in which the timeline was opened.
pub(crate) async fn tell_members(core: Arc<Core>, timeline: Timeline, before: ClusterConfig) {
    let mut telling = JoinSet::new();
    for member in before.standbys.into_iter().chain([before.primary]) {
        if member.name != core.name && !member.address.is_empty() {
            telling.spawn(tell(core.clone(), timeline, member));
        }
    }
    while telling.join_next().await.is_some() {}
}

/// Tells `member`, until it has heard, this node is no primary of that timeline any
/// more or stops, or [`LOOK_FOR`] has passed.
async fn tell(core: Arc<Core>, timeline: Timeline, member: Member) {
    let Member { name, address, .. } = member;
    let (end, mut pause) = (core.clock.now() + LOOK_FOR, RETRY_FIRST);
    let mut stopping = core.stopping.subscribe();
    while core.is_primary() && core.wal.timeline() == timeline && core.clock.now() < end {
        let told = tokio::select! {
            told = attempt(&core, timeline, &name, &address) => told,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        match told {
            Ok(()) => return,
            Err(error) => tracing::debug!(%name, %address, %error, "cannot tell of the timeline"),
        }
        tokio::select! {
            () = sleep(pause) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn attempt(core: &Core, timeline: Timeline, name: &NodeName, address: &str) -> Result<()> {
    // Another cluster's primary at that address would be fenced by it.
    let mut client = connect(core, name, Some(address)).await?;
    let opened = TimelineOpened {
        timeline,
        primary: core.name.as_str().to_owned(),
        address: core.address(),
    };
    client.rows(&Command::TimelineOpened(opened)).await?;
    Ok(())
}

/// Lets a standby look for the new primary there first. What it finds it checks as always.
fn follow(core: &Core, opened: &TimelineOpened) {
    let known = newest_known(&core.wal.history(), core.wal.control().promised());
    let follows = core.upstream().map(|(_, address)| address);
    let stale = opened.timeline != known && is_stale(opened.timeline, known);
    if stale || opened.address.is_empty() || follows.as_ref() == Some(&opened.address) {
        return;
    }
    let others = core.config.follow.iter();
    let others = others
        .filter(|address| **address != opened.address)
        .cloned();
    let addresses = [opened.address.clone()].into_iter().chain(others).collect();
    if let Some(orders) = core.orders() {
        // One that has too many orders to take this finds the primary by itself.
        let _ = orders.try_send(Order::Follow(addresses));
    }
}

/// Takes the news, and answers with the role that this node has then.
pub(crate) fn serve(core: &Core, opened: TimelineOpened) -> ResultSet {
    core.claimed(opened.timeline, true);
    if !core.is_primary() {
        core.set_successor(opened.primary.clone(), opened.address.clone());
    }
    if core.role() == Role::Standby {
        follow(core, &opened);
    }
    let role = core.role().as_str().to_owned();
    ResultSet::new(vec![Column::text("role")], "TIMELINE_OPENED").with_row(Row::new([Some(role)]))
}
