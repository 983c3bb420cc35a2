//! A durable store inside a program: no server, no runtime.
//!
//!     cargo run --example embed

use mainstay::{Database, Result};

fn main() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let db = Database::open(dir.path())?;

    // A write returns when it survives a power cut.
    let users = db.table("users");
    let receipt = users.put(b"ada", b"1815")?;
    users.put(b"grace", b"1906")?;
    println!(
        "ada is on disk; her write ends at {} in the log",
        receipt.lsn
    );

    // A transaction spans tables and happens whole or not at all. It is run again when another one
    // changed what it read, so it may be called more than once.
    let (visits, _) = db.transaction(|tx| {
        let visits = tx.get("counters", b"visits")?.map_or(0, |count| count[0]) + 1;
        tx.put("counters", b"visits", &[visits])?;
        tx.put("users", b"edsger", b"1930")?;
        Ok(visits)
    })?;
    println!("visit number {visits}");

    // Dropping a transaction instead of committing it takes everything back.
    let mut tx = db.begin()?;
    tx.delete("users", b"ada")?;
    assert_eq!(tx.get("users", b"ada")?, None, "it reads its own writes");
    drop(tx);

    // A snapshot shows one moment, whatever is written meanwhile.
    let snapshot = db.snapshot()?;
    users.put(b"alan", b"1912")?;
    for row in snapshot.scan("users", ..)? {
        let (name, born) = row?;
        println!("{:8} {}", show(&name), show(&born));
    }
    let a = snapshot.scan_prefix("users", b"a")?.count();
    println!("{a} name begins with an a; the next snapshot will show two");

    // Closing makes the next open faster. Not closing is harmless.
    drop(snapshot);
    drop((users, db));
    let db = Database::open(dir.path())?;
    assert_eq!(db.get("users", b"alan")?.as_deref(), Some(&b"1912"[..]));
    println!("everything is still there: {:?}", db.snapshot()?.tables()?);
    db.close()
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
