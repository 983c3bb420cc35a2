//! Every rule that a build breaks on purpose is one that the tests were seen to notice.

use std::collections::BTreeSet;

use super::none;
use super::sources::{read, sources};

/// Canaries that there must be at least.
const CANARIES_MIN: usize = 24;

/// The names in `text` that stand between `before` and `after`.
fn between<'a>(text: &'a str, before: &str, after: &str) -> BTreeSet<&'a str> {
    let found = text.split(before).skip(1);
    let found = found.filter_map(|rest| rest.split_once(after).map(|(name, _)| name));
    found.filter(|name| is_name(name)).collect()
}

fn is_name(text: &str) -> bool {
    text.contains('-') && text.chars().all(|c| c.is_ascii_lowercase() || c == '-')
}

/// What one of the three lacks.
fn differences(
    code: &BTreeSet<&str>,
    list: &BTreeSet<&str>,
    table: &BTreeSet<&str>,
) -> Vec<String> {
    let mut found = Vec::new();
    let all = code.iter().chain(list).chain(table);
    for name in all.collect::<BTreeSet<_>>() {
        let places = [
            ("the code", code),
            ("tests/canaries", list),
            ("tests/CANARIES.md, as found", table),
        ];
        for (place, names) in places {
            if !names.contains(name) {
                found.push(format!("{name} is not in {place}"));
            }
        }
    }
    found
}

#[test]
fn every_canary_was_found() {
    let all = sources();
    let own = all
        .iter()
        .filter(|source| !source.is_in("tests") && !source.code.is_empty());
    let code = own.flat_map(|source| between(&source.text, "canary(\"", "\")"));
    let code = code.collect::<BTreeSet<_>>();
    let script = read("tests/canaries");
    let list = script.lines().filter_map(|line| line.split_once('|'));
    let list = list.map(|(name, _)| name).filter(|name| is_name(name));
    let list = list.collect::<BTreeSet<_>>();
    let table = read("tests/CANARIES.md");
    let rows = table.lines().filter(|row| row.contains(" | found | "));
    let found = rows.flat_map(|row| between(row, "| `", "` |"));
    let found = found.collect::<BTreeSet<_>>();
    none("canaries", &differences(&code, &list, &found));
    assert!(code.len() >= CANARIES_MIN, "{} canaries", code.len());
}

#[test]
fn a_canary_that_is_missing_somewhere_is_named() {
    let code = between(
        "if canary(\"a-b\") { canary(\"name\") }",
        "canary(\"",
        "\")",
    );
    assert_eq!(code, BTreeSet::from(["a-b"]));
    let none = BTreeSet::new();
    assert!(differences(&code, &code, &code).is_empty());
    assert_eq!(
        differences(&code, &none, &code),
        ["a-b is not in tests/canaries"]
    );
}
