//! The record, its files and what is asked of it.

use std::fs;
use std::time::Duration;

use proptest::prelude::*;

use super::files::Files;
use super::*;

fn draft(text: &str) -> Draft {
    Draft::new(EventType::Started, text)
}

fn texts(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.message.as_str()).collect()
}

fn ids(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.id).collect()
}

fn opened(dir: &Path) -> EventLog {
    let log = EventLog::new(dir).unwrap();
    log.identify("node".to_owned());
    log
}

fn all(log: &EventLog) -> Vec<Event> {
    log.events(&EventFilter::default()).unwrap()
}

#[test]
fn an_event_is_one_line_with_exactly_these_keys() {
    let dir = tempfile::tempdir().unwrap();
    let log = opened(dir.path());
    let draft = Draft::new(EventType::LagDetected, "standby b is behind");
    let draft = draft
        .primary("a")
        .standby("b")
        .lag(7)
        .with("level", "warning");
    log.record(draft);
    let [event] = &all(&log)[..] else {
        panic!("one event expected");
    };
    let text = fs::read_to_string(dir.path().join("events/current.ndjson")).unwrap();
    let at = moment::rfc3339(event.created_at);
    let expected = format!(
        "{{\"id\":1,\"node_id\":\"node\",\"event_type\":\"lag_detected\",\"primary_name\":\"a\",\
         \"standby_name\":\"b\",\"lag_bytes\":7,\"message\":\"standby b is behind\",\
         \"metadata\":{{\"level\":\"warning\"}},\"created_at\":\"{at}\"}}\n"
    );
    assert_eq!(text, expected);
    assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), *event);
}

#[test]
fn ids_climb_over_restarts_and_a_torn_last_line_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let log = opened(dir.path());
    assert!(all(&log).is_empty());
    assert!(
        !dir.path().join("events").exists(),
        "nothing is written for nothing"
    );
    log.record(draft("one"));
    log.record(draft("two"));
    log.settle();
    drop(log);
    let path = dir.path().join("events/current.ndjson");
    let whole = fs::read(&path).unwrap();
    for torn in [b"{\"id\":3,\"nod".as_slice(), b"{", b"\0\0\0\0"] {
        let bytes = [whole.as_slice(), torn].concat();
        fs::write(&path, bytes).unwrap();
        let log = opened(dir.path());
        assert_eq!(texts(&all(&log)), ["one", "two"]);
        log.record(draft("three"));
        assert_eq!(texts(&all(&log)), ["one", "two", "three"]);
        assert_eq!(ids(&all(&log)), [1, 2, 3]);
        fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn a_line_that_cannot_be_read_is_passed_over_and_its_id_is_not_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let events = dir.path().join("events");
    fs::create_dir(&events).unwrap();
    let newer = "{\"id\":41,\"event_type\":\"of_a_newer_version\"}\nnonsense\n";
    fs::write(events.join("current.ndjson"), newer).unwrap();
    let log = opened(dir.path());
    log.record(draft("next"));
    assert_eq!(ids(&all(&log)), [42]);
    let text = fs::read_to_string(events.join("current.ndjson")).unwrap();
    assert!(text.starts_with(newer), "{text}");
}

#[test]
fn the_record_takes_two_files_at_most_and_drops_the_oldest() {
    const MAX: u64 = 2000;
    let dir = tempfile::tempdir().unwrap();
    let size = |name: &str| fs::metadata(dir.path().join(name)).map_or(0, |file| file.len());
    let mut last = 0;
    for life in 0..3_u64 {
        let mut files = Files::with_max(dir.path(), MAX);
        for n in 0..40 {
            files.append([draft(&format!("{life} {n}"))], "node");
            assert!(size("current.ndjson") <= MAX && size("older.ndjson") <= MAX);
        }
        let read = files.read().unwrap();
        let ids = ids(&read);
        assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ids:?}");
        assert_eq!(*ids.last().unwrap(), last + 40);
        assert!(ids.len() >= 8, "more than one file's worth: {ids:?}");
        last += 40;
    }
}

#[test]
fn what_cannot_be_written_is_lost_and_recording_goes_on_when_it_can_be() {
    let dir = tempfile::tempdir().unwrap();
    // A file where the directory should be.
    fs::write(dir.path().join("events"), "").unwrap();
    let log = opened(dir.path());
    log.record(draft("lost"));
    log.settle();
    fs::remove_file(dir.path().join("events")).unwrap();
    log.record(draft("kept"));
    assert_eq!(texts(&all(&log)), ["kept"]);
}

#[test]
fn more_than_the_queue_holds_is_lost_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let log = opened(dir.path());
    let held = log.shared.files.lock();
    for n in 0..3 * QUEUE_MAX {
        log.record(draft(&n.to_string()));
    }
    assert!(log.shared.queue.lock().waiting.len() <= QUEUE_MAX);
    drop(held);
    let filter = EventFilter {
        limit: Some(EVENTS_MAX),
        ..EventFilter::default()
    };
    let kept = log.events(&filter).unwrap();
    assert!(
        (QUEUE_MAX..=2 * QUEUE_MAX).contains(&kept.len()),
        "{}",
        kept.len()
    );
    assert_eq!(kept[0].message, "0");
}

#[test]
fn a_long_message_is_cut_and_long_metadata_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let log = opened(dir.path());
    log.record(draft(&"ä".repeat(MESSAGE_BYTES_MAX)).with("text", "x".repeat(100_000)));
    let [event] = &all(&log)[..] else {
        panic!("one event expected");
    };
    assert_eq!(event.message.len(), MESSAGE_BYTES_MAX);
    assert_eq!(event.metadata["left_out"], true);
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn about(id: u64, kind: EventType, primary: &str, standby: Option<&str>) -> Event {
    let mut event = Draft::new(kind, "")
        .primary(primary)
        .into_event(id, "f81d".to_owned());
    event.standby_name = standby.map(str::to_owned);
    event.created_at = at(id);
    event
}

#[test]
fn a_filter_admits_what_is_about_the_node_of_the_kind_and_in_the_time() {
    let events = [
        about(1, EventType::StandbyCreated, "a", Some("b")),
        about(2, EventType::StandbyCreated, "a", Some("c")),
        about(3, EventType::Promoted, "b", None),
        about(4, EventType::SyncEstablished, "b", Some("c")),
    ];
    let chosen = |change: fn(&mut EventFilter)| {
        let mut filter = EventFilter::default();
        change(&mut filter);
        ids(&filter.choose(events.iter().cloned()))
    };
    assert_eq!(chosen(|_| {}), [1, 2, 3, 4]);
    assert_eq!(chosen(|filter| filter.node = Some("b".into())), [1, 3, 4]);
    assert_eq!(chosen(|filter| filter.node = Some("f81d".into())).len(), 4);
    assert!(chosen(|filter| filter.node = Some("x".into())).is_empty());
    let created = |filter: &mut EventFilter| filter.event_type = Some(EventType::StandbyCreated);
    assert_eq!(chosen(created), [1, 2]);
    let between = |filter: &mut EventFilter| {
        (filter.since, filter.until) = (Some(at(2)), Some(at(4)));
    };
    assert_eq!(chosen(between), [2, 3]);
    assert_eq!(chosen(|filter| filter.limit = Some(2)), [3, 4]);
    let after = |filter: &mut EventFilter| {
        (filter.after_id, filter.limit) = (Some(1), Some(2));
    };
    assert_eq!(chosen(after), [2, 3]);
    let all_of_them = |filter: &mut EventFilter| {
        filter.node = Some("c".into());
        filter.event_type = Some(EventType::StandbyCreated);
        filter.after_id = Some(1);
    };
    assert_eq!(chosen(all_of_them), [2]);
}

#[test]
fn a_limit_that_cannot_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = opened(dir.path());
    for limit in [0, EVENTS_MAX + 1] {
        let filter = EventFilter {
            limit: Some(limit),
            ..EventFilter::default()
        };
        let refused = log.events(&filter);
        assert!(matches!(refused, Err(Error::Usage(_))), "{refused:?}");
    }
}

#[test]
fn every_kind_is_found_by_its_word_and_no_other_is() {
    for kind in EventType::ALL {
        assert_eq!(kind.as_str().parse(), Ok(*kind));
        let json = serde_json::to_value(kind).unwrap();
        assert_eq!(json, kind.as_str());
    }
    let error = "promotion".parse::<EventType>().unwrap_err();
    assert!(error.contains("promoted"), "{error}");
}

proptest! {
    #[test]
    fn every_event_is_read_back_from_its_line(
        (id, lag_bytes) in any::<(u64, Option<u64>)>(),
        kind in prop::sample::select(EventType::ALL.to_vec()),
        names in any::<[Option<String>; 2]>(),
        message in "\\PC{0,20}",
        metadata in prop::collection::btree_map("[a-z]{1,5}", any::<(i64, String)>(), 0..3),
        micros in 0..4_000_000_000_000_000u64,
    ) {
        let metadata = metadata.into_iter();
        let metadata = metadata.map(|(name, value)| (name, serde_json::json!([value.0, value.1])));
        let [primary_name, standby_name] = names;
        let event = Event {
            id,
            node_id: "n".to_owned(),
            event_type: kind,
            primary_name,
            standby_name,
            lag_bytes,
            message,
            metadata: metadata.collect(),
            created_at: std::time::SystemTime::UNIX_EPOCH + Duration::from_micros(micros),
        };
        let line = serde_json::to_vec(&event).unwrap();
        prop_assert!(!line.contains(&b'\n'));
        prop_assert_eq!(serde_json::from_slice::<Event>(&line).unwrap(), event);
        for len in 0..line.len() {
            prop_assert!(serde_json::from_slice::<Event>(&line[..len]).is_err());
        }
        prop_assert!(serde_json::from_slice::<Event>(&[line, b"x".to_vec()].concat()).is_err());
        prop_assert_eq!(kind.as_str().parse(), Ok(kind));
    }
}
