//! Slots under changes, writes to disk, and crashes between the two.

use super::*;
use proptest::prelude::*;

fn with(slots: &[(&str, u64)]) -> SlotSet {
    let mut set = SlotSet::new();
    for (name, restart) in slots {
        set.create(name, SlotKind::Physical, Lsn::new(*restart), false)
            .unwrap();
    }
    save(&mut set);
    set
}

fn save(set: &mut SlotSet) {
    let (generation, text) = set.unsaved().unwrap();
    assert!(text.len() <= SLOTS_BYTES_MAX);
    set.persisted(generation);
    assert_eq!(set.unsaved(), None);
}

#[test]
fn an_advance_lets_log_go_only_when_it_is_durable() {
    let mut set = with(&[("a", 800), ("b", 960)]);
    assert_eq!(set.retain_from(), Some(Lsn::new(800)));
    assert_eq!(set.advance("a", Lsn::new(1600), Lsn::new(1600)), Ok(true));
    assert_eq!(set.retain_from(), Some(Lsn::new(800)), "not durable yet");
    let (generation, _) = set.unsaved().unwrap();
    set.advance("a", Lsn::new(2400), Lsn::new(2400)).unwrap();
    set.persisted(generation);
    assert_eq!(
        set.retain_from(),
        Some(Lsn::new(800)),
        "an older write proves nothing"
    );
    save(&mut set);
    assert_eq!(set.retain_from(), Some(Lsn::new(960)));
    assert_eq!(
        set.advance("a", Lsn::new(80), Lsn::new(80)),
        Ok(false),
        "never back"
    );
}

#[test]
fn dropping_and_invalidating_let_log_go_only_when_they_are_durable() {
    let mut set = with(&[("a", 800), ("b", 960)]);
    set.drop_slot("a").unwrap();
    assert_eq!(set.drop_slot("a"), Err(SlotError::Missing("a".into())));
    assert_eq!(set.retain_from(), Some(Lsn::new(800)));
    let taken = set
        .create("a", SlotKind::Physical, Lsn::ZERO, false)
        .unwrap_err();
    assert_eq!(
        taken,
        SlotError::Exists("a".into()),
        "until that is durable"
    );
    save(&mut set);
    assert_eq!(set.retain_from(), Some(Lsn::new(960)));
    assert_eq!(set.enforce(Lsn::new(2000), 1040), Vec::<String>::new());
    assert_eq!(set.enforce(Lsn::new(2001), 1040), ["b"]);
    assert_eq!(set.retain_from(), Some(Lsn::new(960)));
    save(&mut set);
    assert_eq!(set.retain_from(), None);
    let refused = set.acquire("b", SlotKind::Physical, 1).unwrap_err();
    assert_eq!(
        (refused.sqlstate(), set.get("b").is_some()),
        ("55000", true)
    );
}

#[test]
fn one_session_at_a_time_and_a_temporary_slot_ends_with_it() {
    let mut set = with(&[("a", 800)]);
    set.acquire("a", SlotKind::Physical, 1).unwrap();
    let busy = set.acquire("a", SlotKind::Physical, 2).unwrap_err();
    assert_eq!(busy.sqlstate(), "55006");
    assert_eq!(set.drop_slot("a").unwrap_err().sqlstate(), "55006");
    let (name, kind) = ("a".to_owned(), SlotKind::Physical);
    let other = set.acquire("a", SlotKind::Logical, 1).unwrap_err();
    assert_eq!(other.to_string(), "replication slot \"a\" is physical");
    assert_eq!(
        (other.sqlstate(), other),
        ("55000", SlotError::WrongKind { name, kind })
    );
    // It may ask again, as a client does that starts streaming once more.
    set.acquire("a", SlotKind::Physical, 1).unwrap();
    assert_eq!(
        set.acquire("x", SlotKind::Physical, 1)
            .unwrap_err()
            .sqlstate(),
        "42704"
    );
    set.create("t", SlotKind::Physical, Lsn::new(80), true)
        .unwrap();
    set.acquire("t", SlotKind::Physical, 1).unwrap();
    assert_eq!(set.retain_from(), Some(Lsn::new(80)));
    assert_eq!((set.unsaved(), set.is_durable("t")), (None, true));
    assert!(!set.encode().contains('t') || !set.encode().contains("\nt "));
    set.release(1);
    assert_eq!(set.get("a").unwrap().active, None);
    assert_eq!(set.get("t").unwrap().active, Some(1), "it may stream again");
    set.end_session(2);
    assert_eq!(set.retain_from(), Some(Lsn::new(80)));
    set.end_session(1);
    assert_eq!(
        (set.get("t"), set.retain_from()),
        (None, Some(Lsn::new(800)))
    );
    set.acquire("a", SlotKind::Physical, 2).unwrap();
}

#[test]
fn names_and_number_are_limited() {
    let mut set = SlotSet::new();
    type Refused = fn(String) -> SlotError;
    let invalid = (
        SlotError::Name as Refused,
        "42602",
        "contains invalid character",
    );
    let short = (SlotError::NameTooShort as Refused, "42602", "is too short");
    let long = (SlotError::NameTooLong as Refused, "42622", "is too long");
    for (bad, (error, sqlstate, text)) in [
        ("", short),
        ("A", invalid),
        ("a-b", invalid),
        ("a b", invalid),
        ("ä", invalid),
        ("../x", invalid),
        (&"x".repeat(64), long),
    ] {
        let refused = set
            .create(bad, SlotKind::Physical, Lsn::ZERO, false)
            .unwrap_err();
        let shown = &bad[..bad.len().min(63)];
        let said = format!("replication slot name \"{shown}\" {text}");
        assert_eq!(refused, error(shown.to_owned()), "{bad:?}");
        assert_eq!(
            (refused.sqlstate(), refused.to_string()),
            (sqlstate, said),
            "{bad:?}"
        );
        let hint = refused
            .hint()
            .is_some_and(|hint| hint.contains("lower case letters"));
        assert_eq!(hint, matches!(refused, SlotError::Name(_)), "{bad:?}");
    }
    for at in 0..SLOTS_DEFAULT {
        let name = format!("{at}_{}", "x".repeat(61));
        set.create(&name, SlotKind::Logical, Lsn::MAX, false)
            .unwrap();
    }
    let refused = set
        .create("more", SlotKind::Physical, Lsn::ZERO, true)
        .unwrap_err();
    assert_eq!(
        (refused.sqlstate(), &refused),
        ("53300", &SlotError::Full(SLOTS_DEFAULT))
    );
    let hint = refused.hint().unwrap();
    assert!(
        hint.contains(&format!(
            "max_replication_slots (currently {SLOTS_DEFAULT})"
        )),
        "{hint}"
    );
    save(&mut set);
    assert_eq!(
        SlotSet::decode(&set.encode()).unwrap().encode(),
        set.encode()
    );
}

#[test]
fn an_operator_may_allow_fewer_slots_and_never_more_than_the_file_holds() {
    let mut set = SlotSet::new();
    set.limit(1);
    set.create("a", SlotKind::Physical, Lsn::ZERO, false)
        .unwrap();
    let refused = set.create("b", SlotKind::Physical, Lsn::ZERO, true);
    assert_eq!(refused.unwrap_err(), SlotError::Full(1));
    set.limit(usize::MAX);
    for at in 1..SLOTS_MAX {
        set.create(&format!("s{at}"), SlotKind::Physical, Lsn::ZERO, true)
            .unwrap();
    }
    let refused = set.create("b", SlotKind::Physical, Lsn::ZERO, true);
    assert_eq!(refused.unwrap_err(), SlotError::Full(SLOTS_MAX));
}

/// A client is told that its slot exists, or is gone, only then.
#[test]
fn a_slot_is_durable_only_when_its_last_change_was_written() {
    let mut set = SlotSet::new();
    set.create("a", SlotKind::Physical, Lsn::new(800), false)
        .unwrap();
    let (created, _) = set.unsaved().unwrap();
    assert!(!set.is_durable("a"));
    set.drop_slot("a").unwrap();
    set.persisted(created);
    assert!(!set.is_durable("a"), "on disk it is still there");
    save(&mut set);
    assert!(set.is_durable("a"));
}

#[test]
fn a_slot_that_reserves_nothing_keeps_nothing_until_it_is_used() {
    let mut set = with(&[("a", 0)]);
    assert_eq!(set.retain_from(), None);
    set.advance("a", Lsn::new(800), Lsn::new(880)).unwrap();
    assert_eq!(
        set.retain_from(),
        Some(Lsn::new(800)),
        "at once: it keeps more"
    );
}

#[test]
fn damaged_text_is_refused() {
    let mut set = with(&[("a", 800)]);
    set.create("b", SlotKind::Logical, Lsn::new(80), false)
        .unwrap();
    set.advance("b", Lsn::new(80), Lsn::new(160)).unwrap();
    let text = set.encode();
    assert_eq!(
        text,
        "mainstay slots 1\na physical 0/320 0/320 valid\nb logical 0/50 0/A0 valid\n"
    );
    assert_eq!(SlotSet::decode(&text).unwrap().encode(), text);
    let cut = text.len() - 1;
    for bad in [
        "",
        "mainstay slots 2\n",
        &text[..cut],
        &text.replace("valid", "fine"),
        &text.replace("0/A0", "0/40"),
        &text.replace("logical", "magical"),
        &text.replace("b ", "a "),
        &text.replace("a p", "A p"),
    ] {
        assert!(SlotSet::decode(bad).is_err(), "{bad:?} was taken");
    }
}

proptest! {
    #[test]
    fn every_list_is_read_back(
        slots in prop::collection::btree_map(
            "[a-z0-9_]{1,20}",
            (any::<bool>(), any::<(u64, u64)>(), 0..3u8),
            0..8,
        ),
    ) {
        let mut set = SlotSet::new();
        for (name, (physical, (one, other), state)) in slots {
            let kind = if physical { SlotKind::Physical } else { SlotKind::Logical };
            let (restart, confirmed) = (Lsn::new(one.min(other)), Lsn::new(one.max(other)));
            set.create(&name, kind, restart, false).unwrap();
            let slot = set.find(&name).unwrap();
            slot.confirmed = confirmed;
            slot.invalidated = state == 1;
            slot.carried = state == 2;
        }
        let text = set.encode();
        let read = SlotSet::decode(&text).unwrap();
        let all = |set: &SlotSet| set.iter().cloned().collect::<Vec<_>>();
        prop_assert_eq!(all(&read), all(&set));
        // A list that is cut lacks a line at least, or is none.
        for len in 0..text.len() {
            if let Ok(cut) = SlotSet::decode(&text[..len]) {
                prop_assert_eq!(cut.encode(), &text[..len]);
                prop_assert!(cut.iter().count() < set.iter().count());
            }
        }
        for more in ["x", "\n", " ", "\nx\n"] {
            let longer = format!("{text}{more}");
            prop_assert!(SlotSet::decode(&longer).is_err(), "{:?}", longer);
        }
    }

    #[test]
    fn any_text_is_read_or_refused_but_never_panics(
        lines in "(([a-z]{1,3}|physical|logical|[0-9A-F]{0,2}/[0-9]|valid|carried|invalidated)[ \n]){0,9}",
        headed: bool,
    ) {
        let header = if headed { "mainstay slots 1\n" } else { "" };
        if let Ok(read) = SlotSet::decode(&format!("{header}{lines}")) {
            let text = read.encode();
            prop_assert_eq!(SlotSet::decode(&text).unwrap().encode(), text);
        }
    }

    /// Whatever the order of changes and writes, retention never passes what a crash would
    /// bring back from disk.
    #[test]
    fn retention_never_passes_what_is_on_disk(
        steps in prop::collection::vec((0u8..6, 0usize..3, 1u64..100), 1..80)
    ) {
        let mut set = SlotSet::new();
        let mut disk = set.encode();
        let mut writing = None;
        for (kind, who, lsn) in steps {
            let name = ["a", "b", "c"][who];
            let lsn = Lsn::new(lsn);
            match kind {
                0 => drop(set.create(name, SlotKind::Physical, lsn, false).map(|_| ())),
                1 => drop(set.drop_slot(name)),
                2 => drop(set.advance(name, lsn, lsn)),
                3 => drop(set.enforce(Lsn::new(100), lsn.get())),
                4 => writing = set.unsaved(),
                _ => if let Some((generation, text)) = writing.take() {
                    disk = text;
                    set.persisted(generation);
                }
            }
            let recovered = SlotSet::decode(&disk).unwrap().retain_from();
            let kept = set.retain_from();
            prop_assert!(recovered.is_none_or(|needs| kept.is_some_and(|kept| kept <= needs)));
        }
    }
}

#[test]
fn the_states_are_postgresql_s() {
    let mut set = with(&[("a", 1000), ("none", 0)]);
    let keep = Keep {
        end: Lsn::new(5000),
        oldest: Lsn::new(800),
        reserve: 4000,
        slot_max: Some(6000),
    };
    let state = |set: &SlotSet, end: u64, oldest: u64| {
        let keep = Keep {
            end: Lsn::new(end),
            oldest: Lsn::new(oldest),
            ..keep
        };
        set.get("a")
            .unwrap()
            .wal_status(&keep)
            .map(WalStatus::as_str)
    };
    let kinds = [SlotKind::Physical, SlotKind::Logical].map(|kind| kind.to_string());
    assert_eq!(kinds, ["physical", "logical"]);
    assert_eq!(set.get("none").unwrap().wal_status(&keep), None);
    assert_eq!(state(&set, 5000, 800), Some("reserved"));
    assert_eq!(
        state(&set, 5000, 1000),
        Some("reserved"),
        "all of it is there"
    );
    assert_eq!(state(&set, 5001, 800), Some("extended"));
    assert_eq!(
        state(&set, 7000, 800),
        Some("extended"),
        "just as much as it may"
    );
    assert_eq!(state(&set, 7001, 800), Some("unreserved"));
    assert_eq!(state(&set, 5000, 1001), Some("lost"));
    set.enforce(Lsn::new(7001), 6000);
    assert_eq!(state(&set, 5000, 800), Some("lost"));
}

#[test]
fn a_slot_that_nobody_uses_for_long_is_given_up() {
    let mut set = with(&[("a", 800), ("b", 800), ("none", 0)]);
    set.acquire("a", SlotKind::Physical, 1).unwrap();
    set.note_idle(1000);
    let since = |set: &SlotSet, name: &str| set.get(name).unwrap().inactive_since;
    assert_eq!((since(&set, "a"), since(&set, "b")), (None, Some(1000)));
    assert_eq!(set.expire(1500, 500), [""; 0]);
    assert_eq!(set.expire(1501, 500), ["b"]);
    assert_eq!(set.retain_from(), Some(Lsn::new(800)));
    set.release(1);
    set.note_idle(2000);
    set.acquire("a", SlotKind::Physical, 2).unwrap();
    set.note_idle(3000);
    assert_eq!(set.expire(9000, 500), [""; 0]);
}

#[test]
fn a_standby_carries_the_slots_of_its_primary_and_takes_them_over() {
    let mut primary = with(&[("a", 800), ("b", 0), ("gone", 80)]);
    primary
        .create("t", SlotKind::Physical, Lsn::new(80), true)
        .unwrap();
    let mut standby = with(&[("own", 1600)]);
    standby.carry(&primary.positions());
    save(&mut standby);
    assert_eq!(standby.retain_from(), Some(Lsn::new(80)));
    assert_eq!(standby.get("t"), None);
    primary
        .advance("a", Lsn::new(2400), Lsn::new(2400))
        .unwrap();
    primary.drop_slot("gone").unwrap();
    standby.carry(&primary.positions());
    // It is kept like any other.
    assert_eq!(standby.retain_from(), Some(Lsn::new(80)), "not durable yet");
    save(&mut standby);
    let mut standby = SlotSet::decode(&standby.encode()).unwrap();
    assert_eq!(standby.retain_from(), Some(Lsn::new(1600)));
    assert_eq!(standby.get("a").unwrap().restart_lsn, Lsn::new(2400));
    assert_eq!(standby.expire(i64::MAX, 1), [""; 0], "the primary decides");
    assert_eq!(standby.unsaved(), None, "nothing to write");
    standby.take_over(&primary.positions(), Some("b"));
    assert_eq!(standby.get("b"), None, "that was its own");
    save(&mut standby);
    let mut standby = SlotSet::decode(&standby.encode()).unwrap();
    let names = standby.positions().into_iter().map(|(name, _)| name);
    assert!(names.eq(["a", "own"]));
    assert!(standby.iter().all(|slot| !slot.carried));
    let others = [("a".to_owned(), Lsn::new(2400))];
    standby.take_over(&others, Some("own"));
    assert!(standby.get("own").is_some(), "the primary did not have it");
}

#[test]
fn whose_a_slot_is_survives_a_restart_and_is_written_once() {
    let told = [("a".to_owned(), Lsn::new(800))];
    let mut standby = with(&[("a", 800)]);
    standby.carry(&told);
    save(&mut standby);
    standby.carry(&told);
    assert_eq!(standby.unsaved(), None, "nothing is new");
    let mut standby = SlotSet::decode(&standby.encode()).unwrap();
    let (generation, _) = standby.unsaved().unwrap_or_default();
    standby.persisted(generation);
    assert!(standby.get("a").unwrap().carried);
    standby.take_over(&told, None);
    save(&mut standby);
    let own = SlotSet::decode(&standby.encode()).unwrap();
    assert!(!own.get("a").unwrap().carried);
}
