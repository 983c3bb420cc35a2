//! Logs that part where a timeline begins, and are brought together again.

use super::*;

#[test]
fn a_new_timeline_continues_the_log_and_both_nodes_agree() {
    let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let old = create(a.path());
    append_flushed(&old, "one");
    let new = standby_of(&old, b.path());
    stream(&old, &new, 1 << 20);
    append_flushed(&old, "never sent");
    let second = Timeline {
        number: 2,
        id: Uuid::new_v4(),
    };
    let fork = new.open_timeline(second, "the old primary failed").unwrap();
    new.append_new_timeline(&[]).unwrap();
    append_flushed(&new, "two");
    assert_eq!(new.timeline(), second);
    assert!(b.path().join("wal/000000020000000000000001").exists());
    assert!(b.path().join("wal/00000002.history").exists());
    // The old primary first gives up what nobody saw, then follows.
    let refused = old.adopt_history(&new.history());
    assert!(matches!(refused, Err(Error::Refused { .. })));
    assert!(
        matches!(old.cut(fork), Err(Error::Invalid(_))),
        "it had committed that locally"
    );
    drop(old);
    let (old, _) = open(a.path());
    assert!(old.append_raw(fork, &Bytes::new()).is_err());
    drop((old, new));
    let (new, recovered) = open(b.path());
    assert_eq!(new.timeline(), second);
    assert_eq!(new.history().owner(fork), second);
    assert!(recovered.torn.is_none());
    // The file that bears the new timeline's name holds what the old one wrote, as such.
    drop(new);
    let _ = std::fs::remove_file(b.path().join("wal/000000010000000000000001"));
    let (new, _) = open(b.path());
    let there = texts(&new, new.oldest());
    assert!(["one", "two"].map(|text| there.iter().filter(|it| *it == text).count()) == [1, 1]);
    assert_eq!(new.history().owner(new.oldest()).number, 1);
}

#[test]
fn a_timeline_begins_between_units_of_appenders() {
    let dir = TempDir::new().unwrap();
    let wal = create(dir.path());
    let in_tx = |entry_type| WalEntry::new(entry_type, Some(1), "");
    let unit = wal.unit();
    let from = wal.append(&[in_tx(WalEntryType::TxBegin)]).unwrap().start;
    let next = Timeline {
        number: 2,
        id: Uuid::from_u128(2),
    };
    let other = wal.clone();
    let begin = std::thread::spawn(move || other.begin_timeline(next, "test", &[]).unwrap());
    while wal.inner.units.try_read().is_some() {
        std::thread::yield_now();
    }
    let end = wal.append(&[in_tx(WalEntryType::TxCommit)]).unwrap().end;
    drop(unit);
    let (fork, opened) = begin.join().unwrap();
    assert!(fork >= end && wal.timeline() == next);
    wal.flushed().wait_blocking(opened, None).unwrap();
    let mut reader = wal.reader(from).unwrap();
    let types = std::iter::from_fn(|| reader.next_entry(opened).unwrap());
    let types = types.map(|(entry, _)| entry.entry_type).collect::<Vec<_>>();
    let (begins, ends) = (WalEntryType::TxBegin, WalEntryType::TxCommit);
    assert_eq!(types, [begins, ends, WalEntryType::NewTimeline]);
    assert!(wal.was_clean());
    wal.stop();
    drop((wal, reader));
    assert!(!open(dir.path()).0.was_clean());
}

#[test]
fn a_standby_cuts_what_it_never_applied_and_follows_the_new_timeline() {
    let dirs = [
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    ];
    let primary = create(dirs[0].path());
    append_flushed(&primary, "one");
    let winner = standby_of(&primary, dirs[1].path());
    let ahead = standby_of(&primary, dirs[2].path());
    ahead.set_commit_follows(false);
    stream(&primary, &winner, 1 << 20);
    append_flushed(&primary, "only the other standby got this");
    append_flushed(&primary, vec![9; 200_000]);
    for _ in 0..6 {
        append_flushed(&primary, vec![9; 250_000]);
    }
    stream(&primary, &ahead, 1 << 20);
    let fork = winner
        .open_timeline(
            Timeline {
                number: 2,
                id: Uuid::new_v4(),
            },
            "x",
        )
        .unwrap();
    winner.append_new_timeline(&[]).unwrap();
    append_flushed(&winner, "two");
    let torn = ahead.cut(fork).unwrap().expect("something was set aside");
    assert!(torn.saved_to.exists());
    assert_eq!((ahead.appended(), ahead.flushed().get()), (fork, fork));
    ahead.adopt_history(&winner.history()).unwrap();
    stream(&winner, &ahead, 1 << 20);
    assert_same_files(&winner, &ahead);
    drop(ahead);
    let (ahead, recovered) = open(dirs[2].path());
    assert_eq!(
        (recovered.end, ahead.timeline()),
        (winner.appended(), winner.timeline())
    );
}

#[test]
fn what_was_committed_here_alone_is_taken_back_by_a_rewind() {
    let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let old = create(a.path());
    append_flushed(&old, "one");
    let new = standby_of(&old, b.path());
    stream(&old, &new, 1 << 20);
    append_flushed(&old, "never sent");
    append_flushed(&old, "nor this");
    let (number, id) = (2, Uuid::new_v4());
    let second = Timeline { number, id };
    let fork = new.open_timeline(second, "the old primary failed").unwrap();
    new.append_new_timeline(&[]).unwrap();
    append_flushed(&new, "two");
    drop(old);
    let (old, _) = open(a.path());
    assert!(old.commit().get() > fork);
    old.set_commit_follows(false);
    assert!(
        old.rewind(fork)
            .unwrap()
            .expect("set aside")
            .saved_to
            .exists()
    );
    assert_eq!((old.commit().get(), old.flushed().get()), (fork, fork));
    old.adopt_history(&new.history()).unwrap();
    stream(&new, &old, 1 << 20);
    assert_same_files(&new, &old);
    drop(old);
    let (old, recovered) = open(a.path());
    assert_eq!(recovered.end, new.appended());
    // What a restart does not replay any more cannot be taken back.
    old.checkpoint(recovered.end).unwrap();
    assert!(matches!(old.rewind(fork), Err(Error::Invalid(_))));
}
