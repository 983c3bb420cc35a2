//! Every answer as rows and back.

use bytes::Bytes;
use mainstay_storage::Lsn;
use proptest::prelude::*;

use super::*;
use crate::wire::strict::any_answer;

fn rows(result: ResultSet) -> RowSet {
    // Through the bytes, so that what is read is what a client gets.
    let mut out = BytesMut::new();
    result.encode(&mut out);
    BackendMessage::ReadyForQuery(crate::wire::TransactionStatus::Idle).encode(&mut out);
    let decoder = crate::wire::BackendDecoder::new();
    let mut collector = Collector::new();
    while let Some(frame) = decoder.next(&mut out).unwrap() {
        let message = BackendMessage::decode(frame).unwrap();
        if let Progress::Done(mut answer, _) = collector.take(message).unwrap() {
            return answer.sets.remove(0);
        }
    }
    panic!("the answer has no end");
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,20}"
}

fn any_lsn() -> impl Strategy<Value = Lsn> {
    any::<u64>().prop_map(Lsn::new)
}

proptest! {
    #[test]
    fn who_a_server_is_and_what_it_shows_round_trip(
        (system_id, timeline) in any::<(u64, u32)>(),
        position in any_lsn(),
        database in prop::option::of(text()),
        value in text(),
    ) {
        let identity = SystemIdentity { system_id, timeline, position, database };
        prop_assert_eq!(SystemIdentity::read(&rows(identity.result())), Ok(identity));
        prop_assert_eq!(read_show(&rows(show("x", &value))), Ok(value));
    }

    #[test]
    fn answers_about_slots_round_trip(
        slot in text(),
        consistent_point in any_lsn(),
        restart in prop::option::of((any_lsn(), any::<u32>())),
        (snapshot, plugin) in (prop::option::of(text()), prop::option::of(text())),
    ) {
        let position = Some(SlotPosition { restart });
        prop_assert_eq!(SlotPosition::read(&rows(SlotPosition::result(position))), Ok(position));
        prop_assert_eq!(SlotPosition::read(&rows(SlotPosition::result(None))), Ok(None));
        let created = CreatedSlot { slot, consistent_point, snapshot, plugin };
        prop_assert_eq!(CreatedSlot::read(&rows(created.result())), Ok(created));
    }

    #[test]
    fn answers_about_timelines_round_trip(
        (number, content) in any::<(u32, Vec<u8>)>(),
        begin in any_lsn(),
    ) {
        let content = Bytes::from(content);
        let file = HistoryFile { content, ..HistoryFile::new(number, String::new()) };
        prop_assert_eq!(HistoryFile::read(&rows(file.result())), Ok(file));
        let next = NextTimeline { timeline: number, begin };
        prop_assert_eq!(NextTimeline::read(&rows(next.result())), Ok(next));
    }

    #[test]
    fn answers_about_backups_round_trip(
        position in any_lsn(),
        timeline: u32,
        spaces in prop::collection::vec(any::<(Option<u32>, Option<u64>)>(), 0..4),
        location in prop::option::of(text()),
    ) {
        let bound = BackupBound { position, timeline };
        prop_assert_eq!(BackupBound::read(&rows(bound.result())), Ok(bound));
        let spaces = spaces.into_iter().map(|(oid, size_kb)| {
            let location = location.clone();
            BackupTablespace { oid, location, size_kb }
        });
        let spaces = spaces.collect::<Vec<_>>();
        let read = BackupTablespace::read(&rows(BackupTablespace::result(&spaces)));
        prop_assert_eq!(read, Ok(spaces));
    }

    #[test]
    fn an_answer_that_lacks_a_column_or_a_value_is_refused(
        (system_id, timeline) in any::<(u64, u32)>(),
        position in any_lsn(),
        at: usize,
    ) {
        let number = timeline;
        let identity = SystemIdentity { system_id, timeline, position, database: None };
        let created = CreatedSlot::physical("a");
        let history = HistoryFile::new(number, String::new());
        let next = NextTimeline { timeline, begin: position };
        let bound = BackupBound { position, timeline };
        type Read = fn(&RowSet) -> bool;
        // Each with how many of its values have to be there.
        let answers: [(ResultSet, usize, Read); 5] = [
            (identity.result(), 3, |set| SystemIdentity::read(set).is_ok()),
            (created.result(), 2, |set| CreatedSlot::read(set).is_ok()),
            (history.result(), 2, |set| HistoryFile::read(set).is_ok()),
            (next.result(), 2, |set| NextTimeline::read(set).is_ok()),
            (bound.result(), 2, |set| BackupBound::read(set).is_ok()),
        ];
        for (answer, needed, read) in answers {
            let set = rows(answer);
            let width = set.rows[0].0.len();
            prop_assert!(read(&set));
            let changed = |change: &dyn Fn(&mut RowSet)| {
                let mut set = set.clone();
                change(&mut set);
                read(&set)
            };
            let at = at % needed;
            prop_assert!(!changed(&|set| set.rows[0].0[at] = None));
            prop_assert!(!changed(&|set| set.rows[0].0[at] = Some(Bytes::from_static(b"\xFF")))
                || set.columns[at].name == "content");
            prop_assert!(!changed(&|set| set.rows[0].0.truncate(width - 1)));
            prop_assert!(!changed(&|set| set.rows.clear()));
            prop_assert!(!changed(&|set| set.rows.push(set.rows[0].clone())));
            // A newer server may say more.
            prop_assert!(changed(&|set| set.rows[0].0.push(None)));
        }
    }

    #[test]
    fn any_answer_is_read_or_refused_but_never_panics(set in any_answer()) {
        let _ = (SystemIdentity::read(&set), read_show(&set), CreatedSlot::read(&set));
        let _ = (HistoryFile::read(&set), NextTimeline::read(&set), BackupBound::read(&set));
        let _ = (SlotPosition::read(&set), BackupTablespace::read(&set));
    }
}
