//! The files of this repository, and which of them are only for tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::scan;

/// Folders that hold what is ours. There are no others.
const FOLDERS: [&str; 8] = [
    "src",
    "storage",
    "replication",
    "tests",
    "benches",
    "examples",
    "docs",
    ".ci",
];

/// A Rust source file.
#[derive(Debug)]
pub(super) struct Source {
    /// From the root of the repository on, with `/`.
    pub(super) path: String,
    pub(super) text: String,
    /// The text without comments and strings.
    pub(super) blanked: String,
    /// The blanked text without what is only for tests; empty in a file that is only for tests.
    pub(super) code: String,
}

impl Source {
    pub(super) fn is_in(&self, folder: &str) -> bool {
        self.path
            .strip_prefix(folder)
            .is_some_and(|rest| rest.is_empty() || rest == ".rs" || rest.starts_with('/'))
    }
}

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(super) fn read(path: &str) -> String {
    let text = fs::read_to_string(root().join(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file of the repository: those of the root, and all in its folders.
pub(super) fn files() -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root()).expect("the repository's root") {
        let path = entry.expect("an entry of the root").path();
        if path.is_file() && path.file_name().is_some_and(|name| name != ".git") {
            found.push(path);
        }
    }
    for folder in FOLDERS {
        walk(&root().join(folder), &mut found);
    }
    let relative = |path: PathBuf| {
        let path = path
            .strip_prefix(root())
            .expect("below the root")
            .to_owned();
        path.to_string_lossy().replace('\\', "/")
    };
    let mut found = found.into_iter().map(relative).collect::<Vec<_>>();
    found.sort();
    found
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                walk(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

/// Every Rust source.
pub(super) fn sources() -> Vec<Source> {
    let paths = files().into_iter().filter(|path| path.ends_with(".rs"));
    let mut all = Vec::new();
    let mut for_tests = BTreeSet::new();
    for path in paths {
        let text = read(&path);
        let blanked = scan::blank(&text);
        let children = path.trim_end_matches(".rs").to_owned();
        let children = children.trim_end_matches("/lib").trim_end_matches("/main");
        for module in scan::test_modules(&blanked) {
            for_tests.insert(format!("{children}/{module}"));
        }
        let code = scan::without_tests(&blanked);
        all.push(Source {
            path,
            text,
            blanked,
            code,
        });
    }
    for source in &mut all {
        let under = |folder: &String| source.is_in(folder);
        let outside = [
            "tests/",
            "storage/tests/",
            "replication/tests/",
            "benches/",
            "examples/",
        ];
        let outside = outside.iter().any(|folder| source.path.starts_with(folder));
        if outside || for_tests.iter().any(under) {
            source.code.clear();
        }
    }
    all
}

#[test]
fn the_sources_are_found_and_told_apart() {
    let all = sources();
    let find = |path: &str| all.iter().find(|source| source.path == path);
    assert!(find("storage/src/wal.rs").is_some_and(|wal| wal.code.contains("impl Wal")));
    assert!(find("storage/src/wal/tests.rs").is_some_and(|tests| tests.code.is_empty()));
    assert!(find("storage/src/store/lsm/tests/model.rs").is_some_and(|t| t.code.is_empty()));
    assert!(find("tests/tidy/sources.rs").is_some_and(|this| this.code.is_empty()));
    assert!(all.len() > 100, "{}", all.len());
}
