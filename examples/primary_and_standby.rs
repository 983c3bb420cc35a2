//! A store with a warm standby that answers reads.
//!
//!     cargo run --example primary_and_standby

use std::time::Duration;

use mainstay::{Error, Node};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);

    // The primary listens for its standbys. Port 0 takes a free one.
    let primary = Node::builder(first.path())
        .name("a")
        .listen("127.0.0.1:0")
        .start()
        .await?;
    let address = primary.listen_addr().expect("it listens");
    primary.put("users", b"ada", b"1815").await?;
    println!("a is the primary and listens on {address}");

    // The standby's directory is empty, so it is filled from the primary first.
    let standby = Node::builder(second.path())
        .name("b")
        .listen("127.0.0.1:0")
        .follow(format!("postgres://{address}"))
        .start()
        .await?;
    println!("b follows it");

    // Write here, read there: the receipt says from which position on the write can be seen.
    let receipt = primary.put("users", b"grace", b"1906").await?;
    standby
        .wait_for(receipt.lsn, Duration::from_secs(10))
        .await?;
    for row in standby.snapshot()?.scan("users", ..)? {
        let (name, born) = row?;
        let (name, born) = (std::str::from_utf8(&name)?, std::str::from_utf8(&born)?);
        println!("b read {name}, born {born}");
    }

    // A standby takes no writes, and says who does.
    match standby.put("users", b"alan", b"1912").await {
        Err(error @ Error::NotPrimary { .. }) => println!("b refused a write: {error}"),
        other => panic!("a standby took a write: {other:?}"),
    }

    // What an operator sees.
    for seen in primary.status().standbys {
        let (name, state, lag) = (seen.name, seen.state, seen.lag_bytes);
        println!("a sees {name}: {state}, {lag} bytes behind");
    }
    standby.stop().await?;
    primary.stop().await?;
    Ok(())
}
