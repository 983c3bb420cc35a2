//! The state of the model in a few bytes: what three nodes have on disk and in memory.
//!
//! Every place holds one byte, so that tens of millions of states are copied, compared and hashed
//! quickly. Two states that differ only in names, of the standbys or of attempts that opened
//! nothing, are made the same one. No decisions here.

/// Nodes.
pub(super) const NODES: usize = 3;
/// Records that one log can hold behind the first configuration, which every log has.
pub(super) const LOG_MAX: usize = 5;
/// The highest number of a timeline.
pub(super) const NUMBER_MAX: u8 = 4;
/// The author of a first configuration that is none of the nodes: a primary that is gone.
pub(super) const STRANGER: u8 = 3;

/// A timeline: its number and who opens it. Zero is none, one is the first. Those that nobody will
/// open any more, since their candidates gave up, are all the same one of their number.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct Tid(pub(super) u8);

impl Tid {
    pub(super) const NONE: Self = Self(0);
    pub(super) const FIRST: Self = Self(1);

    pub(super) fn new(number: u8, owner: usize) -> Self {
        assert!((2..=NUMBER_MAX).contains(&number) && owner < NODES);
        Self(2 + (number - 2) * 3 + u8::try_from(owner).expect("few nodes"))
    }

    /// One of this number that nobody will open.
    pub(super) fn dead(number: u8) -> Self {
        Self(27 + number)
    }

    pub(super) const fn is_dead(self) -> bool {
        self.0 > 28
    }

    pub(super) const fn is_some(self) -> bool {
        self.0 != 0
    }

    pub(super) const fn number(self) -> u8 {
        match self.0 {
            0 | 1 => self.0,
            29.. => self.0 - 27,
            later => (later - 2) / 3 + 2,
        }
    }

    /// Who opened it; the first belongs to the first node.
    pub(super) const fn owner(self) -> u8 {
        match self.0 {
            0 | 1 => 0,
            later => (later - 2) % 3,
        }
    }
}

/// A byte of a timeline and three bits more.
const fn pack(tid: Tid, more: u8) -> u8 {
    tid.0 | more << 5
}

/// What a record says.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Something of the application.
    Write,
    /// A policy that asks for one standby.
    One,
    /// A policy that asks for two.
    Two,
    /// A timeline begins, and its primary takes the policy over.
    Begin,
}

/// A record: the timeline that owns it, what it says, and a bit more. Of what begins a timeline the
/// bit says that it also changes the policy; of others, that it is a second one at the same place
/// of the same timeline.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct Record(u8);

impl Record {
    pub(super) const fn new(owner: Tid, kind: Kind, bit: bool) -> Self {
        Self(pack(owner, kind as u8 | (bit as u8) << 2))
    }

    pub(super) const fn owner(self) -> Tid {
        Tid(self.0 & 31)
    }

    pub(super) const fn kind(self) -> Kind {
        match self.0 >> 5 & 3 {
            0 => Kind::Write,
            1 => Kind::One,
            2 => Kind::Two,
            _ => Kind::Begin,
        }
    }

    /// How many standbys the policy asks for from here on, if it changes.
    pub(super) const fn asks(self, before: u8) -> Option<u8> {
        match (self.kind(), self.0 >> 7) {
            (Kind::One, _) => Some(1),
            (Kind::Two, _) => Some(2),
            (Kind::Begin, 1) => Some(3 - before),
            _ => None,
        }
    }

    pub(super) const fn byte(self) -> u8 {
        self.0
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let again = if self.0 >> 7 == 0 { "" } else { "'" };
        write!(f, "{:?}{again}@{}", self.kind(), show(self.owner()))
    }
}

/// A timeline as a human reads it: number and owner.
pub(super) fn show(tid: Tid) -> String {
    let owner = if tid.is_dead() {
        'x'
    } else {
        char::from(b'a' + tid.owner())
    };
    format!("{}{owner}", tid.number())
}

/// A timeline and a count of records: where it begins, or where a log of it ends. Zero is none.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct Place(u8);

impl Place {
    pub(super) const fn new(tid: Tid, at: u8) -> Self {
        Self(pack(tid, at))
    }

    pub(super) const fn tid(self) -> Tid {
        Tid(self.0 & 31)
    }

    pub(super) const fn at(self) -> u8 {
        self.0 >> 5
    }

    pub(super) const fn is_some(self) -> bool {
        self.0 != 0
    }

    pub(super) const fn byte(self) -> u8 {
        self.0
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.is_some() {
            true => write!(f, "{}:{}", show(self.tid()), self.at()),
            false => f.write_str("-"),
        }
    }
}

/// What a node is.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Role {
    /// It follows, or serves nobody.
    Standby,
    /// It writes, streams and confirms.
    Primary,
    /// It writes and streams, and must ask before it confirms.
    Outbid,
    /// It crashed, and must ask before it does anything.
    Crashed,
    /// Both: it streams what it has, and must ask before it writes or confirms.
    CrashedOutbid,
}

impl Role {
    pub(super) const fn is_primary(self) -> bool {
        !matches!(self, Self::Standby)
    }

    pub(super) const fn writes(self) -> bool {
        matches!(self, Self::Primary | Self::Outbid)
    }

    pub(super) const fn streams(self) -> bool {
        matches!(self, Self::Primary | Self::Outbid | Self::CrashedOutbid)
    }
}

/// How far a node's own attempt to open a timeline is, and why it makes one.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Candidacy {
    /// None is made.
    None,
    /// A standby collects promises.
    Promote,
    /// A primary that must ask collects promises.
    Raise,
    /// A crashed primary collects acceptances.
    Restart,
}

/// One node. `role`, `candidacy`, `promised` and `hold` are memory, everything else is disk.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Node {
    pub(super) log: [Record; LOG_MAX],
    pub(super) len: u8,
    /// Of a standby always all.
    pub(super) flushed: u8,
    /// Up to where it knows that the log is committed. Of a standby only as far as it matters: up
    /// to the last configuration below.
    pub(super) commit: u8,
    /// Where the timelines after the first begin.
    pub(super) spans: [Place; 3],
    /// What was promised to others, and to itself.
    pub(super) others: Tid,
    pub(super) own: Tid,
    pub(super) role: Role,
    pub(super) candidacy: Candidacy,
    /// The ends of logs that came with promises to this node.
    pub(super) promised: [Place; NODES],
    /// Nothing is confirmed before so many records are.
    pub(super) hold: u8,
}

impl Node {
    pub(super) fn records(&self) -> &[Record] {
        &self.log[..usize::from(self.len)]
    }

    pub(super) fn push(&mut self, record: Record) {
        self.log[usize::from(self.len)] = record;
        self.len += 1;
    }

    pub(super) fn truncate(&mut self, len: u8) {
        self.log[usize::from(len)..].fill(Record::default());
        self.len = len;
        self.flushed = self.flushed.min(len);
    }

    /// The newest timeline of its history.
    pub(super) fn current(&self) -> Tid {
        let last = self.spans.iter().rev().find(|span| span.is_some());
        last.map_or(Tid::FIRST, |span| span.tid())
    }

    /// Where its log ends.
    pub(super) fn log_end(&self) -> Place {
        let last = self.records().last();
        Place::new(last.map_or(Tid::FIRST, |record| record.owner()), self.len)
    }

    /// Up to where the newest of its policies reaches back that is at or below `at`.
    pub(super) fn settled(&self, at: u8) -> u8 {
        let below = &self.log[..usize::from(at)];
        let last = below
            .iter()
            .rposition(|record| record.kind() != Kind::Write);
        last.map_or(0, |at| u8::try_from(at + 1).expect("a short log"))
    }

    fn for_each(&mut self, mut change: impl FnMut(Tid) -> Tid) {
        for record in &mut self.log {
            record.0 = record.0 & !31 | change(Tid(record.0 & 31)).0;
        }
        for place in self.spans.iter_mut().chain(&mut self.promised) {
            place.0 = place.0 & !31 | change(Tid(place.0 & 31)).0;
        }
        self.others = change(self.others);
        self.own = change(self.own);
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (log, flushed, commit) = (self.records(), self.flushed, self.commit);
        write!(
            f,
            "{:?} {log:?} flushed {flushed} commit {commit}",
            self.role
        )?;
        let spans = self.spans.iter().filter(|span| span.is_some());
        write!(f, " history {:?}", spans.collect::<Vec<_>>())?;
        if self.others.is_some() || self.own.is_some() {
            write!(f, " bound {} own {}", show(self.others), show(self.own))?;
        }
        match self.candidacy {
            Candidacy::None => Ok(()),
            candidacy => write!(f, " {candidacy:?} {:?}", self.promised),
        }
    }
}

/// What must never happen and can only be seen while it does.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Breach {
    /// Two primaries committed different records at one place.
    TwoLogs = 1,
    /// Two timelines of one number committed.
    TwoIds = 2,
    /// A member promised a second timeline of a number.
    PromisedTwice = 4,
    /// A node cut what was committed, and what it knew to be.
    Cut = 8,
}

/// A cluster, and what was committed in it so far.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct State {
    pub(super) nodes: [Node; NODES],
    /// How many standbys the first configuration asks for, and who wrote it.
    pub(super) first: (u8, u8),
    /// The longest log that any primary committed.
    pub(super) committed: [Record; LOG_MAX],
    pub(super) committed_len: u8,
    /// The highest number of a timeline whose primary committed.
    pub(super) committed_number: u8,
    /// By number, from 2: the timeline of it whose primary committed.
    pub(super) committing: [Tid; 3],
    pub(super) breaches: u8,
    /// How many writes and changes of policy there were.
    pub(super) appended: u8,
}

impl State {
    pub(super) fn committed(&self) -> &[Record] {
        &self.committed[..usize::from(self.committed_len)]
    }

    pub(super) const fn breached(&self, breach: Breach) -> bool {
        self.breaches & breach as u8 != 0
    }

    pub(super) const fn breach(&mut self, breach: Breach) {
        self.breaches |= breach as u8;
    }

    fn for_each(&mut self, mut change: impl FnMut(Tid) -> Tid) {
        for node in &mut self.nodes {
            node.for_each(&mut change);
        }
        for record in &mut self.committed {
            record.0 = record.0 & !31 | change(Tid(record.0 & 31)).0;
        }
        for tid in &mut self.committing {
            *tid = change(*tid);
        }
    }

    /// Which timelines are open somewhere, or may still be opened; a bit each.
    pub(super) fn live(&self) -> u32 {
        let mut live = 1 << Tid::FIRST.0;
        for node in &self.nodes {
            let opened = node.spans.iter().map(|span| span.tid());
            let tids = opened.chain(node.records().iter().map(|record| record.owner()));
            live = tids.fold(live, |live, tid| live | 1 << tid.0);
            if node.candidacy != Candidacy::None {
                live |= 1 << node.own.0;
            }
        }
        live
    }

    /// Two standbys have exchanged their names: nothing distinguishes them but the order in which
    /// they are listed, and no policy here looks at that.
    fn swapped(&self) -> Self {
        let mut swapped = *self;
        swapped.nodes.swap(1, 2);
        for node in &mut swapped.nodes {
            node.promised.swap(1, 2);
        }
        swapped.for_each(|tid| match (tid.0, tid.owner()) {
            (29.., _) => tid,
            (2.., 1) => Tid(tid.0 + 1),
            (2.., 2) => Tid(tid.0 - 1),
            _ => tid,
        });
        swapped
    }

    /// The one state that stands for all that differ in names only.
    pub(super) fn canonical(self) -> Self {
        self.min(self.swapped())
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, committed) = (self.first, self.committed());
        writeln!(
            f,
            "first {first:?} committed {committed:?} breaches {}",
            self.breaches
        )?;
        for (name, node) in ["a", "b", "c"].iter().zip(&self.nodes) {
            writeln!(f, "  {name} {node:?}")?;
        }
        Ok(())
    }
}
