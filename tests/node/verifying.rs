//! A standby is compared with its primary although both stores soon let go of old positions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mainstay::Error;
use mainstay_storage::LsmOptions;
use tempfile::TempDir;

use super::{node, on_one_worker, reach, url};

/// Rows that are there from the begin on.
const ROWS: u32 = 30_000;

/// How often both are compared.
const VERIFICATIONS: usize = 4;

/// A store that keeps a position readable for a few transactions.
fn forgetful() -> LsmOptions {
    LsmOptions {
        snapshot_age: 256 << 10,
        snapshot_bytes: 256 << 10,
        memtable_bytes: 256 << 10,
        ..LsmOptions::default()
    }
}

#[test]
fn positions_that_are_lost_make_no_verification_wrong() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = node(&dirs[0], "a")
            .store(forgetful())
            .start()
            .await
            .unwrap();
        for begin in (0..ROWS).step_by(1000) {
            let mut tx = a.begin().unwrap();
            for n in begin..begin + 1000 {
                tx.put("t", &n.to_be_bytes(), &[b'v'; 200]).unwrap();
            }
            tx.commit().await.unwrap();
        }
        let b = node(&dirs[1], "b").store(forgetful()).follow(url(&a));
        let b = b.start().await.unwrap();
        // It has to stream from its primary to be compared with it.
        let first = a.put("u", b"k", b"v").await.unwrap();
        reach(&b, first.lsn).await;
        let stop = Arc::new(AtomicBool::new(false));
        let writing = tokio::spawn({
            let (a, stop) = (a.clone(), stop.clone());
            async move {
                let mut n = 0_u32;
                let mut last = first;
                while !stop.load(Ordering::Acquire) {
                    n += 1;
                    let value = [b'w'; 4000];
                    last = a.put("u", &(n % 500).to_be_bytes(), &value).await.unwrap();
                }
                last
            }
        });
        for _ in 0..VERIFICATIONS {
            let verified = match b.verify(false).await {
                // So forgetful that nothing was compared in between.
                Err(Error::Refused(why)) if why.contains("times in a row") => continue,
                verified => verified.unwrap(),
            };
            println!("compared at {} positions", verified.positions);
            assert!(verified.verified, "{verified:?}");
            assert!(verified.rows >= u64::from(ROWS), "{verified:?}");
        }
        stop.store(true, Ordering::Release);
        let last = writing.await.unwrap();
        reach(&b, last.lsn).await;
        assert_eq!(b.status().problem, None);
        b.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}
