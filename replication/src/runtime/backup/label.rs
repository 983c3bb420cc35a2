//! What a base backup says about itself: the file `backup_label` at its root.

use std::path::Path;

use mainstay_storage::{BACKUP_LABEL, Lsn, SegmentSize, Timeline, TimelineHistory};

use super::manifest::date;
use crate::error::{Error, Result};

/// Where a backup stands, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) system_id: u64,
    pub(crate) segment_size: SegmentSize,
    /// From where the log is replayed into the copy of the store, at or below `copy`.
    pub(crate) replay: Lsn,
    /// Where the copy of the store stands.
    pub(crate) copy: Lsn,
    pub(crate) timeline: Timeline,
    /// Where the cluster's first timeline begins.
    pub(crate) history_begin: Lsn,
    /// The history file's text; empty on timeline 1.
    pub(crate) history: String,
    /// When it was begun, in seconds since 1970.
    pub(crate) begun: i64,
    /// What its taker calls it.
    pub(crate) name: String,
}

impl Label {
    /// First position of the log that belongs to the backup.
    pub(crate) fn log_begin(&self) -> Lsn {
        let number = self.segment_size.segment_of(self.replay);
        self.segment_size.start_of(number)
    }

    pub(crate) fn timelines(&self) -> Result<TimelineHistory> {
        TimelineHistory::parse(&self.history, self.timeline, self.history_begin)
            .map_err(|error| Error::Invalid(format!("{BACKUP_LABEL}: {error}")))
    }

    pub(crate) fn to_text(&self) -> String {
        let Self {
            system_id,
            replay,
            copy,
            timeline,
            history_begin,
            ..
        } = self;
        let bytes = self.segment_size.bytes();
        let name = self.name.replace(char::is_control, " ");
        format!(
            "START WAL LOCATION: {replay}\nMAINSTAY BACKUP: 2\nSYSTEM ID: {system_id}\n\
             SEGMENT SIZE: {bytes}\nSTORE AT: {copy}\nSTART TIMELINE: {}\nPROMOTION ID: {}\n\
             LOG BEGIN: {history_begin}\nBEGUN: {}\nSTART TIME: {}\nLABEL: {name}\nHISTORY:\n{}",
            timeline.number,
            timeline.id,
            self.begun,
            date(self.begun),
            self.history
        )
    }

    /// Reads the label of the backup in `root`.
    ///
    /// # Errors
    /// Disk errors, and as [`parse`](Self::parse).
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let path = root.join(BACKUP_LABEL);
        let bytes = super::files::read(&path, LABEL_BYTES_MAX)?;
        let text = String::from_utf8_lossy(&bytes);
        Self::parse(&text).map_err(|why| Error::Invalid(format!("{}: {why}", path.display())))
    }

    /// Reads a label's text.
    ///
    /// # Errors
    /// On anything that [`to_text`](Self::to_text) does not write: what cannot be read.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let bad = |what: &str| format!("its {what} cannot be read");
        let (head, history) = text.split_once("HISTORY:\n").ok_or_else(|| bad("end"))?;
        let field = |key: &'static str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            let found = lines.find(|(name, _)| *name == key);
            found.map(|(_, value)| value).ok_or_else(|| bad(key))
        };
        if field("MAINSTAY BACKUP")? != "2" {
            return Err("it is of another version of Mainstay, or of PostgreSQL".to_owned());
        }
        fn number<T: std::str::FromStr>(
            value: Result<&str, String>,
            key: &str,
        ) -> Result<T, String> {
            let read = value?.parse();
            read.map_err(|_| format!("its {key} cannot be read"))
        }
        let size: u32 = number(field("SEGMENT SIZE"), "SEGMENT SIZE")?;
        let timeline = Timeline {
            number: number(field("START TIMELINE"), "START TIMELINE")?,
            id: number(field("PROMOTION ID"), "PROMOTION ID")?,
        };
        Ok(Self {
            system_id: number(field("SYSTEM ID"), "SYSTEM ID")?,
            segment_size: SegmentSize::new(size).ok_or_else(|| bad("SEGMENT SIZE"))?,
            replay: number(field("START WAL LOCATION"), "START WAL LOCATION")?,
            copy: number(field("STORE AT"), "STORE AT")?,
            timeline,
            history_begin: number(field("LOG BEGIN"), "LOG BEGIN")?,
            history: history.to_owned(),
            begun: number(field("BEGUN"), "BEGUN")?,
            name: field("LABEL")?.to_owned(),
        })
    }
}

/// Longest label that is read, in bytes.
pub(crate) const LABEL_BYTES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    #[test]
    fn a_label_round_trips_and_a_damaged_one_is_refused() {
        let one = Timeline {
            number: 1,
            id: Uuid::from_u128(1),
        };
        let two = Timeline {
            number: 2,
            id: Uuid::from_u128(2),
        };
        let mut history = TimelineHistory::new(one, Lsn::new(16 << 20));
        history.open(two, Lsn::new(17 << 20), "x").unwrap();
        let label = Label {
            system_id: 7,
            segment_size: SegmentSize::DEFAULT,
            replay: Lsn::new(40 << 20),
            copy: Lsn::new(70 << 20),
            timeline: two,
            history_begin: Lsn::new(16 << 20),
            history: history.to_text(),
            begun: 951_782_400,
            name: "before: the move".to_owned(),
        };
        let text = label.to_text();
        assert!(
            text.contains("START TIME: 2000-02-29 00:00:00 GMT\n"),
            "{text}"
        );
        assert_eq!(Label::parse(&text).unwrap(), label);
        assert_eq!(label.timelines().unwrap(), history);
        assert_eq!(label.log_begin(), Lsn::new(32 << 20));
        for cut in 0..text.find("HISTORY").unwrap() {
            assert!(Label::parse(&text[..cut]).is_err());
        }
        assert!(Label::parse(&text.replace("BACKUP: 2", "BACKUP: 9")).is_err());
        let name = "x\nSYSTEM ID: 8\nHISTORY:\n".to_owned();
        let odd = Label { name, ..label };
        assert_eq!(Label::parse(&odd.to_text()).unwrap().system_id, 7);
    }

    proptest! {
        #[test]
        fn every_label_is_read_back(
            (system_id, replay, copy, begin) in any::<(u64, u64, u64, u64)>(),
            (number, id, begun) in any::<(u32, u128, u32)>(),
            shift in 20u32..31,
            name in "\\PC{0,30}",
            history in "([0-9]\tx\n){0,2}",
        ) {
            let label = Label {
                system_id,
                segment_size: SegmentSize::new(1 << shift).unwrap(),
                replay: Lsn::new(replay),
                copy: Lsn::new(copy),
                timeline: Timeline { number, id: Uuid::from_u128(id) },
                history_begin: Lsn::new(begin),
                history,
                begun: i64::from(begun),
                name,
            };
            let text = label.to_text();
            // The history of the timeline is the rest, and read by itself.
            let head = text.len() - label.history.len();
            for (len, _) in text.char_indices().take_while(|(len, _)| *len < head) {
                prop_assert!(Label::parse(&text[..len]).is_err(), "{:?}", &text[..len]);
            }
            let longer = Label::parse(&format!("{text}x")).unwrap();
            let history = format!("{}x", label.history);
            prop_assert_eq!(longer, Label { history, ..label.clone() });
            prop_assert_eq!(Label::parse(&text), Ok(label));
        }

        #[test]
        fn any_text_is_a_label_or_refused_but_never_panics(
            text in "((START WAL LOCATION|CHECKPOINT LOCATION|SEGMENT SIZE|SYSTEM ID|HISTORY|[A-Z]{1,9}): ?\\PC{0,12}\n){0,9}",
        ) {
            if let Ok(label) = Label::parse(&text) {
                prop_assert_eq!(Label::parse(&label.to_text()), Ok(label));
            }
        }
    }
}
