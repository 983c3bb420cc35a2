//! Words that are not used, and places that no file may name.

use super::none;
use super::scan::is_word;
use super::sources::{files, root, sources};

/// Parts of names that say nothing, or that PostgreSQL says otherwise.
const BANNED: [&str; 7] = [
    "util", "utils", "manager", "managers", "master", "slave", "slaves",
];

/// Names of files and folders that say nothing.
const BANNED_FILES: [&str; 10] = [
    "mod", "util", "utils", "manager", "common", "info", "data", "misc", "helper", "helpers",
];

/// Texts that no file may hold. Written in two halves, so that this one does not.
const NEVER: [&str; 4] = [
    concat!("TO", "DO"),
    concat!("todo", "!("),
    concat!("/wo", "rk/"),
    concat!("../sha", "red"),
];

/// The parts of a name: `WalManager` is `wal`, `manager`.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut lower = false;
    for c in name.chars() {
        if c == '_' || (c.is_uppercase() && lower) {
            parts.push(String::new());
        }
        lower = c.is_lowercase();
        if c != '_' {
            parts
                .last_mut()
                .expect("never empty")
                .extend(c.to_lowercase());
        }
    }
    parts
}

fn banned_names(blanked: &str) -> Vec<&str> {
    let names = blanked.split(|c| !is_word(c));
    let banned = names.filter(|name| {
        let parts = parts(name);
        parts.iter().any(|part| BANNED.contains(&part.as_str()))
    });
    banned.collect()
}

/// Whether a word stands in `text` by itself, or for a text that is no word, at all.
fn holds(text: &str, what: &str) -> bool {
    text.match_indices(what).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + what.len()..].chars().next();
        let word = what.chars().all(is_word);
        !word || !(before.is_some_and(is_word) || after.is_some_and(is_word))
    })
}

#[test]
fn names_say_something() {
    let all = sources();
    let found = all.iter().flat_map(|source| {
        let names = banned_names(&source.blanked).into_iter();
        names.map(|name| format!("{}: {name}", source.path))
    });
    none("banned names", &found.collect::<Vec<_>>());
    let files = files().into_iter().filter(|path| {
        let mut parts = path.trim_end_matches(".rs").split('/');
        path.ends_with(".rs") && parts.any(|part| BANNED_FILES.contains(&part))
    });
    none("banned names of files", &files.collect::<Vec<_>>());
}

#[test]
fn no_file_holds_what_is_unfinished_or_of_one_machine() {
    let mut found = Vec::new();
    for path in files() {
        let bytes = std::fs::read(root().join(&path)).expect("a file of the repository");
        // What is no text has no words.
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        let held = NEVER.iter().filter(|what| holds(&text, what));
        found.extend(held.map(|what| format!("{path}: {what}")));
    }
    none("not in any file", &found);
}

#[test]
fn banned_words_are_found_in_names_only() {
    assert_eq!(
        banned_names("struct WalManager; fn str_util() {}"),
        ["WalManager", "str_util"]
    );
    assert!(banned_names("fn mastered() { let futile = 1; }").is_empty());
    assert_eq!(parts("WalManager_x"), ["wal", "manager", "x"]);
    let word = NEVER[0];
    assert!(holds(&format!("// {word}: x"), word));
    assert!(!holds(&format!("X{word}_Y"), word));
    assert!(holds("see /wo\u{72}k/a", NEVER[2]));
}
