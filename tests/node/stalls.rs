//! A peer that is there and takes nothing in.

use std::time::Duration;

use mainstay::Node;
use tempfile::TempDir;

use super::{address, node, on_one_worker, reach, until};
use crate::support::{Valve, Way};

/// More than a line holds by itself.
const ROWS: u8 = 24;
const ROW: usize = 200 << 10;

#[test]
fn a_standby_whose_line_stalled_for_longer_than_the_timeout_gets_its_slot_back() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let quick = |dir: &TempDir, name: &str| {
            node(dir, name).heartbeat(Duration::from_millis(50), Duration::from_millis(500))
        };
        let a = quick(&dirs[0], "a").start().await.unwrap();
        let line = Valve::to(&address(&a));
        let b = quick(&dirs[1], "b").follow(line.url()).slot("b");
        let b = b.start().await.unwrap();
        let state = |node: &Node| {
            let seen = node.status().standbys;
            seen.first()
                .map_or(String::new(), |standby| standby.state.clone())
        };
        until("b streams", || state(&a) == "streaming").await;
        line.hold(Way::FromNode);
        for row in 0..ROWS {
            a.put("t", &[row], &[row; ROW]).await.unwrap();
        }
        until("a gives it up", || state(&a) == "disconnected").await;
        line.release(Way::FromNode);
        let receipt = a.put("t", b"last", b"v").await.unwrap();
        reach(&b, receipt.lsn).await;
        until("it is counted again", || state(&a) == "streaming").await;
        b.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}
