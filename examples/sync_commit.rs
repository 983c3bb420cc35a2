//! Commits that wait for a standby, and what each level is worth.
//!
//!     cargo run --example sync_commit

use std::time::{Duration, Instant};

use mainstay::{Level, Node};
use tokio::time::timeout;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);

    // Any one of the registered standbys must have flushed a commit before it is acknowledged.
    let primary = Node::builder(first.path())
        .name("a")
        .listen("127.0.0.1:0")
        .sync("ANY 1 (*)".parse()?)
        .start()
        .await?;
    let upstream = format!("postgres://{}", primary.listen_addr().expect("it listens"));
    let follow = || {
        Node::builder(second.path())
            .name("b")
            .listen("127.0.0.1:0")
            .follow(&upstream)
    };
    let standby = follow().start().await?;

    let receipt = primary.put("orders", b"1", b"tea").await?;
    assert!(receipt.is_durable_elsewhere());
    println!("order 1 is flushed on both nodes");

    // Each commit may ask for more or less than the policy.
    for level in [
        Level::Async,
        Level::Local,
        Level::RemoteFlush,
        Level::RemoteApply,
    ] {
        let mut tx = primary.begin()?;
        tx.put("orders", b"2", format!("{level:?}").as_bytes())?;
        let start = Instant::now();
        tx.commit_at(level).await?;
        println!(
            "{level:?} took {:.1} ms",
            start.elapsed().as_secs_f64() * 1e3
        );
    }
    let read = standby.get("orders", b"2")?;
    assert_eq!(read.as_deref(), Some(&b"RemoteApply"[..]));
    println!("after RemoteApply the standby shows it without waiting");

    // Without the standby nothing can be acknowledged, so commits wait. Giving up the wait leaves
    // the outcome unknown: neither failed nor committed.
    standby.stop().await?;
    let waiting = primary.put("orders", b"3", b"coffee");
    assert!(timeout(Duration::from_millis(100), waiting).await.is_err());
    assert_eq!(primary.get("orders", b"3")?, None);
    println!("order 3 waits for the standby; readers do not see it yet");

    // The standby comes back, and what waited is confirmed.
    let standby = follow().start().await?;
    let receipt = primary.put("orders", b"4", b"milk").await?;
    assert!(receipt.is_durable_elsewhere());
    assert_eq!(
        primary.get("orders", b"3")?.as_deref(),
        Some(&b"coffee"[..])
    );
    println!("the standby is back: orders 3 and 4 are safe");

    standby.stop().await?;
    primary.stop().await?;
    Ok(())
}
