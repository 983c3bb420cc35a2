//! Slots as text: what a node's control file holds of them.

use mainstay_storage::Lsn;

use super::{SLOTS_BYTES_MAX, Slot, SlotKind, SlotSet};

const HEADER: &str = "mainstay slots 1";

impl SlotSet {
    /// The slots that outlive their sessions, as text: a header, then a line each.
    pub fn encode(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for slot in self.iter().filter(|slot| !slot.temporary) {
            let Slot {
                name,
                restart_lsn,
                confirmed,
                ..
            } = slot;
            let kind = slot.kind.as_str();
            let state = match (slot.invalidated, slot.carried) {
                (true, _) => "invalidated",
                (false, true) => "carried",
                (false, false) => "valid",
            };
            text += &format!("{name} {kind} {restart_lsn} {confirmed} {state}\n");
        }
        text
    }

    /// Reads what [`encode`](Self::encode) wrote; nobody uses any slot.
    ///
    /// # Errors
    /// On anything else.
    pub fn decode(text: &str) -> Result<Self, SlotsTextError> {
        let bad = |line: &str| SlotsTextError(line.chars().take(120).collect());
        if text.len() > SLOTS_BYTES_MAX || !text.ends_with('\n') {
            return Err(SlotsTextError("too long, or cut off".into()));
        }
        let mut lines = text.lines();
        let header = lines.next().unwrap_or_default();
        if header != HEADER {
            return Err(bad(header));
        }
        let mut set = Self::new();
        for line in lines {
            let words = line.split(' ').collect::<Vec<_>>();
            let &[name, kind, restart_lsn, confirmed, state] = words.as_slice() else {
                return Err(bad(line));
            };
            let kind = match kind {
                "physical" => SlotKind::Physical,
                "logical" => SlotKind::Logical,
                _ => return Err(bad(line)),
            };
            let lsn = |text: &str| text.parse::<Lsn>().map_err(|_| bad(line));
            let (restart_lsn, confirmed) = (lsn(restart_lsn)?, lsn(confirmed)?);
            set.insert(name, kind, restart_lsn, false)
                .map_err(|_| bad(line))?;
            let slot = set.find(name).map_err(|_| bad(line))?;
            slot.confirmed = confirmed;
            slot.invalidated = state == "invalidated";
            slot.carried = state == "carried";
            let states = ["valid", "carried", "invalidated"];
            if confirmed < restart_lsn || !states.contains(&state) {
                return Err(bad(line));
            }
        }
        set.persisted(set.generation);
        Ok(set)
    }
}

/// A text that does not list slots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the list of slots: {0:?}")]
pub struct SlotsTextError(String);
