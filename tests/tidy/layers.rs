//! Who may import whom: the layering law.

use super::none;
use super::scan::{names, paths};
use super::sources::{Source, sources};

/// A room, what it may never name, and the files in it that may.
struct Law {
    room: &'static str,
    never: &'static [&'static str],
    but: &'static [&'static str],
}

/// What reads a clock.
const CLOCKS: [&str; 2] = ["Instant", "SystemTime"];

const LAWS: [Law; 10] = [
    Law {
        room: "storage/src",
        never: &["tokio", "std::net", "Instant", "SystemTime"],
        but: &[],
    },
    Law {
        room: "storage/src",
        never: &["std::fs"],
        // The library that keeps the tables is handed a directory, so its room may look into it.
        but: &["storage/src/disk", "storage/src/store/lsm"],
    },
    Law {
        room: "replication/src/wire",
        never: &[
            "tokio",
            "std::net",
            "std::fs",
            "Instant",
            "SystemTime",
            "HashMap",
        ],
        but: &[],
    },
    Law {
        room: "replication/src/protocol",
        never: &[
            "tokio",
            "std::net",
            "std::fs",
            "Instant",
            "SystemTime",
            "HashMap",
        ],
        but: &[],
    },
    Law {
        room: "replication/src/time",
        never: &[
            "tokio",
            "std::net",
            "std::fs",
            "Instant",
            "SystemTime",
            "HashMap",
        ],
        but: &[],
    },
    Law {
        room: "replication/src",
        never: &["std::fs", "tokio::fs"],
        // A base backup is read wherever it lies. What is made of it goes through storage's disk.
        but: &[
            "replication/src/runtime/backup",
            "replication/src/runtime/bootstrap",
        ],
    },
    // A test's scheduler and a test's network take the place of these by one module each.
    Law {
        room: "storage/src/wal",
        never: &["parking_lot"],
        but: &["storage/src/wal/tests"],
    },
    Law {
        room: "replication/src",
        never: &["tokio::net"],
        but: &["replication/src/runtime/net"],
    },
    Law {
        room: "replication/src",
        never: &CLOCKS,
        // The replicator measures the deadline of its own stop.
        but: &[
            "replication/src/runtime/clock",
            "replication/src/replicator",
        ],
    },
    // What is measured follows from a seed, and how it is counted can be tested without waiting.
    Law {
        room: "src/bench",
        never: &[
            "tokio",
            "std::net",
            "std::fs",
            "std::thread",
            "Instant",
            "SystemTime",
        ],
        but: &["src/bench/load"],
    },
];

/// What `src/` may name of the replication crate beside the items at its root.
const REPLICATION_FACE: [&str; 3] = ["protocol::level", "protocol::policy", "wire::scram"];

/// The words of `code` that `never` forbids.
fn forbidden<'a>(code: &str, never: &[&'a str]) -> Vec<&'a str> {
    let found = paths(code);
    let mut broken = never.to_vec();
    broken.retain(|word| found.iter().any(|path| names(path, word)));
    broken
}

/// The paths that go past the face of the replication crate.
fn inner_paths(code: &str) -> Vec<String> {
    let found = paths(code).into_iter().filter(|path| {
        let Some(item) = path.strip_prefix("mainstay_replication::") else {
            return false;
        };
        let face = |face: &&str| item == *face || item.starts_with(&format!("{face}::"));
        item.contains("::")
            && item.starts_with(char::is_lowercase)
            && !REPLICATION_FACE.iter().any(face)
    });
    found.collect()
}

fn has_async(code: &str) -> bool {
    code.split(|c: char| !super::scan::is_word(c))
        .any(|word| word == "async" || word == "await")
}

fn broken(law: &Law, all: &[Source]) -> Vec<String> {
    let inside = all.iter().filter(|source| {
        source.is_in(law.room) && !law.but.iter().any(|folder| source.is_in(folder))
    });
    inside
        .flat_map(|source| {
            let words = forbidden(&source.code, law.never);
            words
                .into_iter()
                .map(|word| format!("{} uses {word}", source.path))
        })
        .collect()
}

#[test]
fn rooms_import_only_what_they_may() {
    let all = sources();
    for law in &LAWS {
        assert!(
            all.iter().any(|source| source.is_in(law.room)),
            "{} is gone; the law needs its new name",
            law.room
        );
        none(&format!("not in {}", law.room), &broken(law, &all));
    }
}

#[test]
fn what_decides_and_what_encodes_never_waits() {
    let all = sources();
    let pure = all.iter().filter(|source| {
        source.is_in("replication/src/wire") || source.is_in("replication/src/protocol")
    });
    let waits = pure.filter(|source| has_async(&source.code));
    let waits = waits.map(|source| source.path.clone()).collect::<Vec<_>>();
    none("async in wire/ or protocol/", &waits);
}

#[test]
fn the_node_uses_the_crates_by_their_faces() {
    let all = sources();
    let node = all.iter().filter(|source| source.is_in("src"));
    let past = node.flat_map(|source| {
        let inner = inner_paths(&source.code).into_iter();
        inner.map(|path| format!("{}: {path}", source.path))
    });
    none("src/ reaches past a public face", &past.collect::<Vec<_>>());
}

#[test]
fn a_forbidden_import_is_found_however_it_is_written() {
    let never = ["std::fs", "tokio", "Instant"];
    assert_eq!(forbidden("use std::{fmt, fs};", &never), ["std::fs"]);
    assert_eq!(
        forbidden("let f = std::fs::File::open(p);", &never),
        ["std::fs"]
    );
    assert_eq!(
        forbidden("use std::time::{Duration, Instant};", &never),
        ["Instant"]
    );
    assert_eq!(forbidden("tokio::spawn(x)", &never), ["tokio"]);
    assert!(forbidden("use crate::fs; let tokio_like = instant;", &never).is_empty());
    assert!(has_async("pub async fn f() {}") && !has_async("fn asynchronous() {}"));
    let inner = "use mainstay_replication::protocol::{level::Level, sender::Sender};";
    assert_eq!(
        inner_paths(inner),
        ["mainstay_replication::protocol::sender::Sender"]
    );
    assert!(inner_paths("mainstay_replication::Error::Refused(x)").is_empty());
}

#[test]
fn a_law_looks_at_its_room_and_not_at_its_exceptions() {
    let source = |path: &str| Source {
        path: path.to_owned(),
        text: String::new(),
        blanked: String::new(),
        code: "use std::fs;".to_owned(),
    };
    let all = [
        "storage/src/wal.rs",
        "storage/src/disk/os.rs",
        "storage/src/disk.rs",
        "src/lib.rs",
    ];
    let found = broken(&LAWS[1], &all.map(source));
    assert_eq!(found, ["storage/src/wal.rs uses std::fs"]);
}
