//! What peers answer to commands, taken apart; and base backups, in `bootstrap/fuzz.rs`.

use bytes::Bytes;
use mainstay_storage::fuzz::Input;

pub(crate) use super::bootstrap::fuzz::{backup, backup_archive, backup_files};

use super::{failover, handover, promise};
use crate::wire::Row;
use crate::wire::result::{
    BackupBound, BackupTablespace, CreatedSlot, HistoryFile, NextTimeline, ResultSet, RowSet,
    SlotPosition, SystemIdentity, read_show,
};

/// Most values of a row here; no answer has more columns.
const VALUES_MAX: usize = 12;

/// An answer of a few rows, as every command's.
pub(crate) fn answers(data: &[u8]) {
    let mut input = Input::new(data);
    let mut set = RowSet::default();
    for _ in 0..1 + input.byte() % 3 {
        let values = usize::from(input.byte()) % VALUES_MAX;
        let value = |_| match input.byte() % 8 {
            0 => None,
            _ => Some(Bytes::copy_from_slice(input.sized())),
        };
        set.rows.push(Row((0..values).map(value).collect()));
    }
    if let Ok(read) = SystemIdentity::read(&set) {
        assert_eq!(SystemIdentity::read(&row_set(read.result())), Ok(read));
    }
    if let Ok(read) = SlotPosition::read(&set) {
        assert_eq!(
            SlotPosition::read(&row_set(SlotPosition::result(read))),
            Ok(read)
        );
    }
    if let Ok(read) = CreatedSlot::read(&set) {
        assert_eq!(CreatedSlot::read(&row_set(read.result())), Ok(read));
    }
    if let Ok(read) = HistoryFile::read(&set) {
        assert_eq!(HistoryFile::read(&row_set(read.result())), Ok(read));
    }
    if let Ok(read) = NextTimeline::read(&set) {
        assert_eq!(NextTimeline::read(&row_set(read.result())), Ok(read));
    }
    if let Ok(read) = BackupBound::read(&set) {
        assert_eq!(BackupBound::read(&row_set(read.result())), Ok(read));
    }
    if let Ok(read) = BackupTablespace::read(&set) {
        let again = row_set(BackupTablespace::result(&read));
        assert_eq!(BackupTablespace::read(&again), Ok(read));
    }
    if let Some(read) = failover::read(&set) {
        let again = failover::read(&row_set(failover::written(&read)));
        assert_eq!(
            again.map(|again| again.possible_loss),
            Some(read.possible_loss)
        );
    }
    // The others are written where they are known, and only have to be read.
    let _ = read_show(&set);
    let _ = promise::read_unfit(&set);
    let _ = promise::read_probe(&set);
    let _ = promise::read_promise(&set);
    let _ = handover::opened(Some(&set));
}

fn row_set(result: ResultSet) -> RowSet {
    RowSet {
        columns: result.columns,
        rows: result.rows,
        tag: Some(result.tag.into_owned()),
    }
}
