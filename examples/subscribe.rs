//! The log as a stream of changes, from any position on.
//!
//!     cargo run --example subscribe
//!
//! `WalReplicator` is the log alone: for an engine that keeps its data itself.

use mainstay_replication::{WalReplicator, WalStreamingConfig};
use mainstay_storage::{Lsn, WalEntry, WalEntryType};
use tokio_stream::StreamExt;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = WalStreamingConfig {
        data_dir: dir.path().to_owned(),
        ..WalStreamingConfig::default()
    };
    let replicator = WalReplicator::new(config, vec![]);
    replicator.start().await?;

    // Appending needs no subscriber and no standby. The position returned is where the entry
    // starts, and where a subscription may start.
    let mut lsns = Vec::new();
    for name in ["ada", "grace", "edsger"] {
        let entry = WalEntry::new(WalEntryType::Insert, None, name);
        lsns.push(replicator.append(entry).await?);
    }
    println!("appended at {lsns:?}");

    // From the second entry on, and then live: one stream, without gap or duplicate.
    let mut changes = replicator.subscribe(lsns[1])?;
    println!("already there: {}", name(changes.next().await)?);
    println!("already there: {}", name(changes.next().await)?);
    let entry = WalEntry::new(WalEntryType::Update, None, "alan");
    replicator.append(entry).await?;
    println!("live: {}", name(changes.next().await)?);

    // Whoever is slow is served from disk later, and loses nothing.
    let mut slow = replicator.subscribe(replicator.current_lsn()?)?;
    for n in 0..10_000 {
        let entry = WalEntry::new(WalEntryType::Insert, None, format!("row {n}"));
        replicator.append(entry).await?;
    }
    for n in 0..10_000 {
        assert_eq!(name(slow.next().await)?, format!("row {n}"));
    }
    println!("a slow subscriber got all 10,000 rows in order");

    // What is not there is an error, not silence.
    let gone = replicator.subscribe(Lsn::new(8)).expect_err("it is gone");
    println!("too old: {gone}");
    let ahead = replicator.current_lsn()? + 4096;
    let ahead = replicator.subscribe(ahead).expect_err("it is not there");
    println!("too new: {ahead}");

    replicator.stop().await?;
    // A stream that was not read to its end gives what it holds already, then ends.
    while let Some(change) = changes.next().await {
        change?;
    }
    Ok(())
}

fn name(change: Option<mainstay_replication::Result<WalEntry>>) -> Result<String> {
    let entry = change.ok_or("the stream ended")??;
    Ok(String::from_utf8(entry.data.to_vec())?)
}
