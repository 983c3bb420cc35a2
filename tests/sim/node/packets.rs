//! What arrives at a node, and who here takes it.

use super::{Done, Node, World};
use crate::sim::net::Packet;

impl Node {
    /// Something arrives.
    pub(in crate::sim) fn take(&mut self, packet: Packet, world: &mut World<'_>) -> Done {
        match packet {
            Packet::On {
                conn,
                from,
                standby,
                body,
            } => match standby {
                true => self.serve(conn, from, body, world)?,
                false => self.hear(conn, body, world)?,
            },
            Packet::Broken { conn } => self.broken(conn, world)?,
            Packet::Ask {
                from,
                attempt,
                action,
            } => self.asked(from, attempt, action, world)?,
            Packet::Answer { attempt, event } => self.bring_candidate(attempt, event, world)?,
            Packet::Opened(timeline) => self.claimed(timeline, true, world)?,
            Packet::AskCopy { from, attempt } => self.give_copy(from, attempt, world)?,
            Packet::Copy { attempt, copy } => self.take_copy(attempt, &copy, world)?,
            Packet::TakeOver {
                from,
                timeline,
                end,
            } => self.take_over(from, timeline, end, world)?,
            Packet::TookOver { opened } => self.took_over(opened, world)?,
            Packet::Log {
                attempt,
                history,
                at,
                log,
            } => self.fetched(attempt, &history, at, &log, world)?,
        }
        self.pump(world)
    }
}
