//! The primary is gone: a standby takes over, and nothing acknowledged is lost.
//!
//!     cargo run --example promote

use std::time::{Duration, Instant};

use mainstay::{Node, NodeBuilder};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Longest time that anything takes here.
const SOON: Duration = Duration::from_secs(20);

fn node(dir: &tempfile::TempDir, name: &str) -> NodeBuilder {
    Node::builder(dir.path()).name(name).listen("127.0.0.1:0")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let dirs = [
        tempfile::tempdir()?,
        tempfile::tempdir()?,
        tempfile::tempdir()?,
    ];
    let a = node(&dirs[0], "a")
        .sync("ANY 1 (*)".parse()?)
        .start()
        .await?;
    let upstream = format!("postgres://{}", a.listen_addr().expect("it listens"));
    let b = node(&dirs[1], "b").follow(&upstream).start().await?;
    let c = node(&dirs[2], "c").follow(&upstream).start().await?;
    println!("a is the primary; b and c follow");

    // Both standbys are to have a vote before anything happens to a.
    let mut written = 0;
    let counted = |a: &Node| {
        let standbys = a.status().standbys;
        standbys
            .iter()
            .filter(|it| it.sync_state == "quorum")
            .count()
    };
    while written < 100 || counted(&a) < 2 {
        let key = format!("{written:08}");
        a.put("orders", key.as_bytes(), b"tea").await?;
        written += 1;
    }
    println!("{written} orders are acknowledged, each flushed on a and one standby");

    // A standby is not promoted beside a living primary.
    let refused = b.promote(false).await.expect_err("a is alive");
    println!("while a lives: {refused}");

    a.stop().await?;
    let start = Instant::now();
    let promoted = b.promote(false).await?;
    let took = start.elapsed().as_millis();
    println!(
        "a is gone; b opened timeline {} in {took} ms",
        promoted.timeline
    );

    // c agreed to the promotion, so it follows b at once, and confirms its commits.
    let receipt = b.put("orders", b"next", b"coffee").await?;
    assert!(receipt.is_durable_elsewhere());
    c.wait_for(receipt.lsn, SOON).await?;
    for (name, node) in [("b", &b), ("c", &c)] {
        let orders = node.snapshot()?.scan("orders", ..)?.count();
        println!("{name} has {orders} orders");
        assert_eq!(orders, written + 1);
    }

    c.stop().await?;
    b.stop().await?;
    Ok(())
}
