//! How large things may grow: files, functions, lines.

use super::none;
use super::scan::functions;
use super::sources::{Source, sources};

/// Lines a file may have before its tests.
const FILE_LINES_MAX: usize = 400;

/// Lines of a file that holds nothing but tests.
const TEST_FILE_LINES_MAX: usize = 600;

/// Lines of a function, from `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Characters of a line.
const COLUMNS_MAX: usize = 100;

/// Files with lines that are longer, and how many. Only to be turned down.
const LONG_LINES: [(&str, usize); 6] = [
    ("replication/src/protocol/commit.rs", 1),
    ("replication/src/protocol/policy.rs", 1),
    ("replication/src/protocol/sender/start.rs", 1),
    ("src/http.rs", 1),
    ("storage/src/signal.rs", 1),
    ("storage/src/wal/log_file.rs", 1),
];

/// Lines of a file that are not below `#[cfg(test)]`, or all lines of a file of tests.
fn file_lines(source: &Source) -> usize {
    let tests = source.blanked.find("#[cfg(test)]\nmod tests {");
    let counted = tests.map_or(source.text.as_str(), |at| &source.blanked[..at]);
    counted.lines().count()
}

/// The numbers of lines that are too long. A string that nothing can break is no fault of its line,
/// nor is a row of a table in the documentation.
fn long_lines(text: &str, blanked: &str) -> Vec<usize> {
    let mut found = Vec::new();
    for (at, (line, code)) in text.lines().zip(blanked.lines()).enumerate() {
        let comment = line.trim_start().starts_with("//");
        let table = line
            .trim_start()
            .trim_start_matches(['/', '!'])
            .trim_start()
            .starts_with('|');
        let text_only = code.split_whitespace().collect::<Vec<_>>().join(" ").len();
        let breakable = comment || text_only > COLUMNS_MAX;
        if line.chars().count() > COLUMNS_MAX && breakable && !table {
            found.push(at + 1);
        }
    }
    found
}

/// What is over its limit.
fn over(found: &[(String, usize)], max: usize, ratchet: &[(String, usize)]) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, size) in found {
        let allowed = ratchet.iter().find(|(listed, _)| listed == name);
        let allowed = allowed.map_or(max, |(_, size)| *size);
        if *size > allowed {
            faults.push(format!("{name}: {size}, at most {allowed}"));
        }
    }
    faults
}

#[test]
fn files_are_short() {
    let all = sources();
    for (only_tests, max) in [(false, FILE_LINES_MAX), (true, TEST_FILE_LINES_MAX)] {
        let found = all
            .iter()
            .filter(|source| source.code.is_empty() == only_tests);
        let found = found.map(|source| (source.path.clone(), file_lines(source)));
        let found = found.collect::<Vec<_>>();
        none("lines of a file", &over(&found, max, &[]));
    }
}

#[test]
fn functions_are_short() {
    let all = sources();
    let found = all.iter().flat_map(|source| {
        let functions = functions(&source.blanked).into_iter();
        functions.map(|(name, _, lines)| (format!("{} {name}", source.path), lines))
    });
    let found = found.collect::<Vec<_>>();
    none(
        "lines of a function",
        &over(&found, FUNCTION_LINES_MAX, &[]),
    );
}

#[test]
fn lines_are_short() {
    let all = sources();
    let found = all.iter().map(|source| {
        let long = long_lines(&source.text, &source.blanked);
        (source.path.clone(), long.len())
    });
    let ratchet = LONG_LINES.map(|(path, lines)| (path.to_owned(), lines));
    let found = found.collect::<Vec<_>>();
    none(
        "lines over 100 columns in a file",
        &over(&found, 0, &ratchet),
    );
}

#[test]
fn every_file_says_what_it_is_for() {
    let all = sources();
    let silent = all.iter().filter(|source| !source.text.starts_with("//!"));
    let silent = silent.map(|source| source.path.clone()).collect::<Vec<_>>();
    none("files that do not begin with //!", &silent);
}

#[test]
fn what_is_too_large_is_found() {
    let named = |name: &str, size| (name.to_owned(), size);
    assert_eq!(over(&[named("a", 5)], 4, &[]), ["a: 5, at most 4"]);
    assert!(over(&[named("a", 5)], 4, &[named("a", 5)]).is_empty());
    assert_eq!(over(&[named("a", 6)], 4, &[named("a", 5)]).len(), 1);
    assert!(over(&[named("a", 3)], 4, &[named("a", 5)]).is_empty());
    let long = "x ".repeat(60);
    assert_eq!(
        long_lines(&format!("a\n// {long}"), &format!("a\n{}", " ".repeat(123))),
        [2]
    );
    assert_eq!(long_lines(&long, &long), [1]);
    assert!(long_lines(&format!("f(\"{long}\")"), "f(  )").is_empty());
}
