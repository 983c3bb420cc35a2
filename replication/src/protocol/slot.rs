//! Slots: what log is kept, and for whom.
//!
//! A slot holds log back from removal for one consumer, also while that is away. Everything that
//! lets log go is durable before it counts, in two steps: a change is made here, the driver writes
//! [`SlotSet::encode`] to disk, and [`SlotSet::persisted`] with the generation it wrote makes the
//! change count for retention. Whatever keeps more log counts at once. A slot that holds back too
//! much is invalidated, durably, and never streams again. This room touches no file.

use std::collections::BTreeMap;
use std::fmt;

use mainstay_storage::Lsn;

/// Most slots at a time, those being dropped included.
pub const SLOTS_MAX: usize = 10;
/// Longest slot name in bytes.
pub const SLOT_NAME_BYTES_MAX: usize = 63;
/// Longest text that [`SlotSet::decode`] reads, in bytes.
pub const SLOTS_BYTES_MAX: usize = 4096;

const HEADER: &str = "mainstay slots 1";

/// What reads from a slot.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum SlotKind {
    /// A standby or an archiver: log bytes.
    Physical,
    /// A subscriber: decoded changes.
    Logical,
}

impl SlotKind {
    /// PostgreSQL's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Physical => "physical",
            Self::Logical => "logical",
        }
    }
}

/// One slot as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// What reads from it.
    pub kind: SlotKind,
    /// Whether it ends with its session and is never written to disk.
    pub temporary: bool,
    /// Log from here on is still needed; zero for a slot that reserves nothing yet.
    pub restart_lsn: Lsn,
    /// What the consumer confirmed; never below `restart_lsn`.
    pub confirmed: Lsn,
    /// Whether it held back too much and was given up.
    pub invalidated: bool,
    /// The session that uses it.
    pub active: Option<u64>,
    /// What retention keeps for it: the lowest `restart_lsn` that may be on disk.
    held: Lsn,
    /// The generation of its last change.
    changed: u64,
    /// It was dropped; it stays until that is durable.
    dropped: bool,
}

/// Why a request for a slot is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// Bad name.
    #[error(
        "replication slot name {0:?} is invalid; \
         use 1 to 63 lower-case letters, digits and underscores"
    )]
    Name(String),
    /// Taken name.
    #[error("replication slot \"{0}\" already exists")]
    Exists(String),
    /// Unknown name.
    #[error("replication slot \"{0}\" does not exist")]
    Missing(String),
    /// Another session has it.
    #[error("replication slot \"{name}\" is active for session {session}")]
    Active {
        /// Which slot.
        name: String,
        /// Who.
        session: u64,
    },
    /// It was given up.
    #[error(
        "replication slot \"{0}\" was invalidated because it held back too much log; \
         drop it and take a new base backup"
    )]
    Invalidated(String),
    /// It reads the other kind.
    #[error("replication slot \"{name}\" is {}", .kind.as_str())]
    WrongKind {
        /// Which slot.
        name: String,
        /// What it is.
        kind: SlotKind,
    },
    /// Too many.
    #[error("all {SLOTS_MAX} replication slots are in use; drop one")]
    Full,
}

impl SlotError {
    /// PostgreSQL's code for it.
    pub const fn sqlstate(&self) -> &'static str {
        match self {
            Self::Name(_) => "42602",
            Self::Exists(_) => "42710",
            Self::Missing(_) => "42704",
            Self::Active { .. } => "55006",
            Self::Invalidated(_) | Self::WrongKind { .. } => "55000",
            Self::Full => "53400",
        }
    }
}

/// All slots of a node. Invariants: at most [`SLOTS_MAX`]; `restart_lsn` never falls; retention
/// never passes what is durable.
#[derive(Debug, Clone, Default)]
pub struct SlotSet {
    slots: BTreeMap<String, Slot>,
    generation: u64,
    persisted: u64,
}

impl SlotSet {
    /// No slots.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a slot that needs log from `restart_lsn` on (zero: nothing yet), which is kept from
    /// now on. Tell the client only when it is persisted.
    ///
    /// # Errors
    /// For a bad or taken name, and when there are too many.
    pub fn create(
        &mut self,
        name: &str,
        kind: SlotKind,
        restart_lsn: Lsn,
        temporary: bool,
    ) -> Result<&Slot, SlotError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if !(1..=SLOT_NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(SlotError::Name(
                name.chars().take(SLOT_NAME_BYTES_MAX).collect(),
            ));
        }
        if self.slots.contains_key(name) {
            return Err(SlotError::Exists(name.to_owned()));
        }
        if self.slots.len() >= SLOTS_MAX {
            return Err(SlotError::Full);
        }
        let changed = if temporary {
            self.persisted
        } else {
            self.change()
        };
        Ok(self.slots.entry(name.to_owned()).or_insert(Slot {
            name: name.to_owned(),
            kind,
            temporary,
            restart_lsn,
            confirmed: restart_lsn,
            invalidated: false,
            active: None,
            held: restart_lsn,
            changed,
            dropped: false,
        }))
    }

    /// Drops a slot; its log is kept until that is persisted.
    ///
    /// # Errors
    /// When it does not exist or is in use.
    pub fn drop_slot(&mut self, name: &str) -> Result<(), SlotError> {
        let slot = self.find(name)?;
        if let Some(session) = slot.active {
            let name = name.to_owned();
            return Err(SlotError::Active { name, session });
        }
        if slot.temporary {
            self.slots.remove(name);
            return Ok(());
        }
        let changed = self.change();
        let slot = self.find(name)?;
        (slot.dropped, slot.changed) = (true, changed);
        Ok(())
    }

    /// Gives a slot to `session`, to stream from it.
    ///
    /// # Errors
    /// When it does not exist, is in use, was invalidated, or is of the other kind.
    pub fn acquire(
        &mut self,
        name: &str,
        kind: SlotKind,
        session: u64,
    ) -> Result<&Slot, SlotError> {
        let slot = self.find(name)?;
        let name = || name.to_owned();
        if slot.kind != kind {
            let kind = slot.kind;
            return Err(SlotError::WrongKind { name: name(), kind });
        }
        if slot.invalidated {
            return Err(SlotError::Invalidated(name()));
        }
        match slot.active {
            Some(other) if other != session => {
                let session = other;
                Err(SlotError::Active {
                    name: name(),
                    session,
                })
            }
            _ => {
                slot.active = Some(session);
                Ok(slot)
            }
        }
    }

    /// Takes back what `session` has; its temporary slots go.
    pub fn release(&mut self, session: u64) {
        let mine = |slot: &Slot| slot.active == Some(session);
        self.slots.retain(|_, slot| !(slot.temporary && mine(slot)));
        for slot in self.slots.values_mut().filter(|slot| mine(slot)) {
            slot.active = None;
        }
    }

    /// Notes that the consumer of `name` needs log only from `restart_lsn` on and confirmed
    /// `confirmed`. Positions that do not climb change nothing. True if something is to persist.
    ///
    /// # Errors
    /// When the slot does not exist or was invalidated.
    pub fn advance(
        &mut self,
        name: &str,
        restart_lsn: Lsn,
        confirmed: Lsn,
    ) -> Result<bool, SlotError> {
        let next = self.generation + 1;
        let slot = self.find(name)?;
        if slot.invalidated {
            return Err(SlotError::Invalidated(name.to_owned()));
        }
        let before = (slot.restart_lsn, slot.confirmed);
        if slot.restart_lsn.is_zero() {
            // Reserves for the first time: keeping more needs no disk.
            slot.held = restart_lsn;
        }
        slot.restart_lsn = slot.restart_lsn.max(restart_lsn);
        slot.confirmed = slot.confirmed.max(confirmed).max(slot.restart_lsn);
        if before == (slot.restart_lsn, slot.confirmed) {
            return Ok(false);
        }
        if slot.temporary {
            slot.held = slot.restart_lsn;
            return Ok(false);
        }
        slot.changed = next;
        self.generation = next;
        Ok(true)
    }

    /// Invalidates slots that hold back more than `keep_bytes_max` before `end`, the end of the
    /// log, and names them. Their log is kept until that is persisted; end their sessions.
    pub fn enforce(&mut self, end: Lsn, keep_bytes_max: u64) -> Vec<String> {
        let next = self.generation + 1;
        let too_old = |slot: &&mut Slot| {
            let holds = !slot.restart_lsn.is_zero() && !slot.invalidated && !slot.dropped;
            holds && end.bytes_since(slot.restart_lsn) > keep_bytes_max
        };
        let mut names = Vec::new();
        for slot in self.slots.values_mut().filter(too_old) {
            (slot.invalidated, slot.changed) = (true, next);
            names.push(slot.name.clone());
        }
        if !names.is_empty() {
            self.generation = next;
        }
        names
    }

    /// What to write to disk now, if something changed since the last [`persisted`]: the
    /// generation and the text.
    ///
    /// [`persisted`]: Self::persisted
    pub fn unsaved(&self) -> Option<(u64, String)> {
        (self.generation > self.persisted).then(|| (self.generation, self.encode()))
    }

    /// Notes that the text of `generation` is durable: what changed up to it counts for retention.
    ///
    /// # Panics
    /// For a generation that was never given out.
    pub fn persisted(&mut self, generation: u64) {
        let newest = self.generation;
        assert!(generation <= newest, "generation {generation} of {newest}");
        self.persisted = self.persisted.max(generation);
        let durable = self.persisted;
        self.slots
            .retain(|_, slot| !(slot.dropped && slot.changed <= durable));
        for slot in self
            .slots
            .values_mut()
            .filter(|slot| slot.changed <= durable)
        {
            slot.held = slot.restart_lsn;
        }
    }

    /// Whether everything about the slot `name`, its absence too, is durable.
    pub fn is_durable(&self, name: &str) -> bool {
        let slot = self.slots.get(name);
        slot.is_none_or(|slot| !slot.dropped && slot.changed <= self.persisted)
    }

    /// The oldest position that some slot needs; log below it may go. `None` if no slot needs any.
    pub fn retain_from(&self) -> Option<Lsn> {
        let durable = self.persisted;
        let holds = |slot: &&Slot| !(slot.invalidated && slot.changed <= durable);
        let held = self.slots.values().filter(holds).map(|slot| slot.held);
        held.filter(|held| !held.is_zero()).min()
    }

    /// The slot `name`.
    pub fn get(&self, name: &str) -> Option<&Slot> {
        self.slots.get(name).filter(|slot| !slot.dropped)
    }

    /// All slots by name.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values().filter(|slot| !slot.dropped)
    }

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
            let state = if slot.invalidated {
                "invalidated"
            } else {
                "valid"
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
            set.create(name, kind, restart_lsn, false)
                .map_err(|_| bad(line))?;
            let slot = set.find(name).map_err(|_| bad(line))?;
            slot.confirmed = confirmed;
            slot.invalidated = state == "invalidated";
            if confirmed < restart_lsn || !["valid", "invalidated"].contains(&state) {
                return Err(bad(line));
            }
        }
        set.persisted(set.generation);
        Ok(set)
    }

    fn change(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    fn find(&mut self, name: &str) -> Result<&mut Slot, SlotError> {
        let slot = self.slots.get_mut(name).filter(|slot| !slot.dropped);
        slot.ok_or_else(|| SlotError::Missing(name.chars().take(SLOT_NAME_BYTES_MAX).collect()))
    }
}

/// A text that does not list slots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the list of slots: {0:?}")]
pub struct SlotsTextError(String);

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            set.acquire("a", SlotKind::Logical, 1)
                .unwrap_err()
                .sqlstate(),
            "55000"
        );
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
        assert_eq!(
            (set.get("t"), set.retain_from()),
            (None, Some(Lsn::new(800)))
        );
        set.acquire("a", SlotKind::Physical, 2).unwrap();
    }

    #[test]
    fn names_and_number_are_limited() {
        let mut set = SlotSet::new();
        for bad in ["", "A", "a-b", "a b", "ä", "../x", &"x".repeat(64)] {
            let refused = set
                .create(bad, SlotKind::Physical, Lsn::ZERO, false)
                .unwrap_err();
            assert_eq!(refused.sqlstate(), "42602", "{bad:?}");
        }
        for at in 0..SLOTS_MAX {
            let name = format!("{at}_{}", "x".repeat(61));
            set.create(&name, SlotKind::Logical, Lsn::MAX, false)
                .unwrap();
        }
        let refused = set
            .create("more", SlotKind::Physical, Lsn::ZERO, true)
            .unwrap_err();
        assert_eq!(refused, SlotError::Full);
        save(&mut set);
        assert_eq!(
            SlotSet::decode(&set.encode()).unwrap().encode(),
            set.encode()
        );
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
}
