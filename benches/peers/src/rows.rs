//! The questions: who answers each, in which unit, and what must be reached against whom.
//!
//! A bound against a peer is on the quotient of Mainstay's figure and the peer's, median by median;
//! one without a peer is on Mainstay's own figure.

/// What a figure is held against.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) enum Against {
    /// The same figure of this contender, in the same run.
    Peer(&'static str),
    /// This figure of Mainstay's, by itself.
    Own(&'static str),
}

#[derive(Debug, Copy, Clone)]
pub(crate) struct Bound {
    pub(crate) against: Against,
    pub(crate) must: Option<f64>,
    pub(crate) aim: Option<f64>,
}

pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) question: &'static str,
    pub(crate) unit: &'static str,
    /// Whether a smaller figure is the better one.
    pub(crate) less: bool,
    /// Who is measured, Mainstay first.
    pub(crate) who: &'static [&'static str],
    /// What is compared; the first figure of all without a name.
    pub(crate) figure: Option<&'static str>,
    /// The row whose rounds these figures are from as well.
    pub(crate) shares: Option<&'static str>,
    pub(crate) bounds: &'static [Bound],
}

impl Row {
    /// The row whose rounds are run for this one.
    pub(crate) fn rounds_of(&self) -> &'static str {
        self.shares.unwrap_or(self.name)
    }
}

const fn peer(name: &'static str, must: Option<f64>, aim: Option<f64>) -> Bound {
    let against = Against::Peer(name);
    Bound { against, must, aim }
}

const fn own(figure: &'static str, must: Option<f64>, aim: Option<f64>) -> Bound {
    let against = Against::Own(figure);
    Bound { against, must, aim }
}

const NONE: Row = Row {
    name: "",
    question: "",
    unit: "",
    less: false,
    who: &["mainstay", "postgres"],
    figure: None,
    shares: None,
    bounds: &[],
};

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "sync-1",
        question: "A commit of 100 B that is flushed on both nodes, one client, median",
        unit: "us",
        less: true,
        who: &["mainstay", "postgres", "redis", "ideal"],
        bounds: &[
            peer("postgres", Some(0.75), Some(0.6)),
            peer("ideal", None, Some(1.15)),
        ],
        ..NONE
    },
    Row {
        name: "sync-64",
        question: "The same by 64 clients",
        unit: "commits/s",
        who: &["mainstay", "postgres", "ideal"],
        bounds: &[
            peer("postgres", Some(3.0), Some(6.0)),
            peer("ideal", None, Some(1.0)),
        ],
        ..NONE
    },
    Row {
        name: "local-32",
        question: "Commits of 100 B flushed on one node, 32 clients",
        unit: "commits/s",
        who: &["mainstay", "postgres", "raft-engine"],
        bounds: &[
            peer("postgres", Some(3.0), Some(6.0)),
            peer("raft-engine", Some(0.95), Some(1.5)),
        ],
        ..NONE
    },
    Row {
        name: "local-64",
        question: "The same by 64 clients",
        unit: "commits/s",
        who: &["mainstay", "postgres", "raft-engine"],
        bounds: &[
            peer("postgres", Some(3.0), Some(6.0)),
            peer("raft-engine", Some(0.95), Some(1.5)),
        ],
        ..NONE
    },
    Row {
        name: "batch-1000",
        question: "Rows of 100 B in transactions of 1,000, each flushed, one client",
        unit: "rows/s",
        who: &["mainstay", "fjall", "redb", "raft-engine"],
        bounds: &[
            peer("fjall", Some(1.0), Some(2.0)),
            peer("redb", Some(1.0), Some(2.0)),
            peer("raft-engine", None, Some(1.0)),
        ],
        ..NONE
    },
    Row {
        name: "stream",
        question: "Log in records of 1 KiB, until it is flushed on both nodes",
        unit: "MB/s",
        who: &["mainstay", "postgres", "pipe"],
        bounds: &[
            peer("postgres", Some(2.0), Some(3.5)),
            peer("pipe", None, Some(0.8)),
        ],
        ..NONE
    },
    Row {
        name: "cpu",
        question: "Processor time for that, both nodes together",
        unit: "s/GB",
        less: true,
        figure: Some("cpu_s_gb"),
        shares: Some("stream"),
        bounds: &[peer("postgres", Some(0.7), Some(0.4))],
        ..NONE
    },
    Row {
        name: "catch-up",
        question: "Log that a standby lacks when it comes back, until it is flushed there",
        unit: "MB/s",
        bounds: &[peer("postgres", Some(1.0), Some(1.5))],
        ..NONE
    },
    Row {
        name: "apply",
        question: "Rows of 100 B with random keys that a standby applies",
        unit: "rows/s",
        who: &["mainstay", "fjall"],
        bounds: &[peer("fjall", Some(0.8), Some(1.3))],
        ..NONE
    },
    Row {
        name: "memory",
        question: "Most memory of a node under that load",
        unit: "MiB",
        less: true,
        who: &["mainstay"],
        figure: Some("peak_mib"),
        shares: Some("apply"),
        // 256 MiB and what the store is configured to keep.
        bounds: &[own("peak_above_cache_mib", Some(256.0), None)],
    },
    Row {
        name: "visible",
        question: "From a commit's answer to its row's being read on a standby, 500/s, median",
        unit: "ms",
        less: true,
        bounds: &[
            peer("postgres", Some(0.6), Some(0.25)),
            own("p99_ms", None, Some(2.0)),
        ],
        ..NONE
    },
    Row {
        name: "visible-local",
        question: "The same with a synchronous standby, the commit waiting for its own disk only",
        unit: "ms",
        less: true,
        bounds: &[
            peer("postgres", Some(0.6), Some(0.25)),
            own("p99_ms", None, Some(2.0)),
        ],
        ..NONE
    },
    Row {
        name: "visible-sync",
        question: "The same with a synchronous standby, the commit waiting for its disk too",
        unit: "ms",
        less: true,
        bounds: &[
            peer("postgres", None, Some(0.6)),
            own("p99_ms", None, Some(2.0)),
        ],
        ..NONE
    },
    Row {
        name: "lag-half",
        question: "How far a standby is behind at half of the primary's highest rate, p99",
        unit: "ms",
        less: true,
        who: &["mainstay"],
        figure: Some("p99_ms"),
        bounds: &[
            own("p99_ms", Some(10.0), Some(2.0)),
            own("max_mb", Some(1.0), None),
        ],
        ..NONE
    },
    Row {
        name: "lag-full",
        question: "The same while the primary writes as fast as it can",
        unit: "ms",
        less: true,
        who: &["mainstay"],
        figure: Some("p99_ms"),
        bounds: &[
            own("growth", Some(2.0), None),
            own("p99_ms", None, Some(50.0)),
        ],
        ..NONE
    },
    Row {
        name: "base-backup",
        question: "A standby begins with a copy of the data of a primary at rest, synced",
        unit: "MB/s",
        who: &["mainstay", "postgres", "copy"],
        bounds: &[
            peer("postgres", Some(1.0), Some(1.6)),
            peer("copy", None, Some(0.8)),
        ],
        ..NONE
    },
    Row {
        name: "promote",
        question: "From the order to promote to the first write, the primary at rest",
        unit: "ms",
        less: true,
        bounds: &[
            peer("postgres", Some(0.5), None),
            own("first_write_ms", None, Some(10.0)),
        ],
        ..NONE
    },
    Row {
        name: "kill-promote",
        question: "The primary is killed under load, the standby promoted at once",
        unit: "ms",
        less: true,
        bounds: &[
            peer("postgres", Some(1.0), None),
            own("first_write_ms", None, Some(30.0)),
        ],
        ..NONE
    },
    Row {
        name: "levels-1",
        question: "What waiting for a standby adds to a commit of one client, median",
        unit: "ms",
        less: true,
        who: &["mainstay"],
        bounds: &[own("sync_adds_ms", Some(10.0), Some(0.3))],
        ..NONE
    },
    Row {
        name: "levels-32",
        question: "The same with 32 clients",
        unit: "ms",
        less: true,
        who: &["mainstay"],
        bounds: &[own("sync_adds_ms", Some(10.0), Some(0.3))],
        ..NONE
    },
];
