//! Every way in which something can fail is one that some test expects.
//!
//! A variant of an error is expected where code of a test names it, where a script's recorded
//! answers do, or where a test quotes its words. Tests in a file `error.rs` do not count: they make
//! errors by hand. That a test which names an error meets it is left to whoever reads the test.

use super::none;
use super::scan;
use super::sources::{Source, files, read, sources};

/// Fixed words of a message that are as long belong to that message alone.
const WORDS_MIN: usize = 16;

/// Names that tests give to the error of a crate of ours.
const ALIASES: [(&str, &str); 2] = [("StorageError", "storage"), ("Storage", "storage")];

/// Errors whose words are all another's, and which no caller is given: what meets them.
const MET: [(&str, &str, &str); 1] = [(
    "GiveUp::CopyIsCheaper",
    "tests/resync.rs",
    "fn a_standby_far_behind_copies_where_that_is_clearly_cheaper()",
)];

/// An enum of errors.
#[derive(Debug)]
struct Errors {
    path: String,
    name: String,
    /// Each variant with its message.
    variants: Vec<(String, String)>,
}

impl Errors {
    /// The names under which another crate knows it.
    fn krate(&self) -> &str {
        krate(&self.path)
    }
}

fn krate(path: &str) -> &str {
    let top = path.split('/').next().unwrap_or_default();
    match top {
        "storage" | "replication" => top,
        _ => "",
    }
}

/// The enums of `source` that derive `thiserror::Error`.
fn errors(source: &Source) -> Vec<Errors> {
    let mut found = Vec::new();
    for (at, derive) in source.blanked.match_indices("thiserror::Error)]") {
        let from = at + derive.len();
        let item = &source.blanked[from..][..scan::item_end(&source.blanked[from..])];
        let Some((head, _)) = item.split_once('{') else {
            continue;
        };
        let Some((_, name)) = head.split_once("enum ") else {
            continue;
        };
        let mut variants = Vec::new();
        let (mut line_at, mut before) = (from, from);
        for line in item.split_inclusive('\n') {
            let name = line.strip_prefix("    ").unwrap_or_default();
            if name.starts_with(|c: char| c.is_ascii_uppercase()) {
                let end = name.find(|c| !scan::is_word(c)).unwrap_or(name.len());
                let message = message(&source.text[before..line_at]);
                variants.push((name[..end].to_owned(), message));
                before = line_at;
            }
            line_at += line.len();
        }
        found.push(Errors {
            path: source.path.clone(),
            name: name.trim().to_owned(),
            variants,
        });
    }
    found
}

/// The text of the last `#[error("..")]` in `attributes`.
fn message(attributes: &str) -> String {
    let Some((_, rest)) = attributes.rsplit_once("#[error(") else {
        return String::new();
    };
    let Some((_, rest)) = rest.split_once('"') else {
        return String::new();
    };
    let mut text = String::new();
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next() {
                // A line that goes on, without what the next one begins with.
                Some('\n') => {
                    let rest = chars.as_str().trim_start_matches(' ');
                    chars = rest.chars();
                }
                Some(escaped) => text.push(escaped),
                None => break,
            },
            c => text.push(c),
        }
    }
    text
}

/// The fixed words between the placeholders of a message that nobody says by chance.
fn words(message: &str) -> impl Iterator<Item = &str> {
    let pieces = message.split(['{', '}']).step_by(2);
    let pieces = pieces.map(|piece| piece.trim_matches(|c: char| !c.is_alphanumeric()));
    pieces.filter(|piece| piece.len() >= WORDS_MIN)
}

/// What tests say: where, the paths that their code names, and their text.
struct Test {
    path: String,
    names: Vec<String>,
    text: String,
}

/// The parts of a source that are for tests alone.
fn test(source: &Source) -> Option<Test> {
    const MARK: &str = "#[cfg(test)]";
    if source.path.ends_with("/error.rs") || source.path.starts_with("tests/tidy") {
        return None;
    }
    let (mut code, mut text) = (String::new(), String::new());
    if source.code.is_empty() {
        (code, text) = (source.blanked.clone(), source.text.clone());
    } else {
        for (at, _) in source.blanked.match_indices(MARK) {
            let end = at + scan::item_end(&source.blanked[at..]);
            code += &source.blanked[at..end];
            text += &source.text[at..end];
        }
    }
    Some(Test {
        path: source.path.clone(),
        names: scan::paths(&code),
        text: joined(&text),
    })
}

/// `text` with strings that go on in the next line in one piece.
fn joined(text: &str) -> String {
    let mut pieces = text.split("\\\n");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |all, piece| all + piece.trim_start_matches(' '))
}

/// Whether `test` names the variant of `errors`, whose namesakes are `others`.
fn is_named(test: &Test, errors: &Errors, variant: &str, others: &[&Errors]) -> bool {
    let alone = others.iter().all(|other| other.krate() != errors.krate());
    let room = errors.path.rsplit_once('/').map_or("", |(room, _)| room);
    let imported = format!("mainstay_storage::{}", errors.name);
    let foreign = test.names.contains(&imported) && krate(&test.path) != "storage";
    test.names.iter().any(|path| {
        let mut parts = path.rsplit("::");
        if parts.next() != Some(variant) {
            return false;
        }
        let (name, before) = (parts.next().unwrap_or_default(), parts.next());
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
        if let Some((_, krate)) = alias {
            return errors.name == "Error" && errors.krate() == *krate;
        }
        if name != errors.name {
            return false;
        }
        match before.and_then(|before| before.strip_prefix("mainstay")) {
            Some(krate) => krate.trim_start_matches('_') == errors.krate(),
            None if others.is_empty() => true,
            None if foreign => errors.krate() == "storage",
            None => {
                let near = alone || test.path.starts_with(room);
                krate(&test.path) == errors.krate() && near
            }
        }
    })
}

/// Whether a script of the machine that lies beside `errors` records the variant.
fn is_recorded(script: &str, text: &str, errors: &Errors, variant: &str) -> bool {
    let machine = script.rsplit('/').next().unwrap_or_default();
    let machine = machine.split(['-', '.']).next().unwrap_or_default();
    let room = format!("protocol/{machine}/");
    errors.path.contains(&room)
        && text
            .split(|c| !scan::is_word(c))
            .any(|word| word == variant)
}

#[test]
fn every_error_is_expected_by_a_test() {
    let all = sources();
    let product = all.iter().filter(|source| !source.code.is_empty());
    let enums = product.flat_map(errors).collect::<Vec<_>>();
    let tests = all.iter().filter_map(test).collect::<Vec<_>>();
    let scripts = files().into_iter();
    let scripts = scripts.filter(|path| path.contains("/scripts/") && path.ends_with(".txt"));
    let scripts = scripts.map(|path| (read(&path), path));
    let scripts = scripts.collect::<Vec<_>>();
    let mut missing = Vec::new();
    for errors in &enums {
        let others = enums.iter().filter(|other| other.name == errors.name);
        let others = others.filter(|other| other.path != errors.path);
        let others = others.collect::<Vec<_>>();
        for (variant, message) in &errors.variants {
            let named = |test: &Test| is_named(test, errors, variant, &others);
            let recorded =
                |(text, path): &(String, String)| is_recorded(path, text, errors, variant);
            let quoted = |words: &str| {
                tests.iter().any(|test| test.text.contains(words))
                    || scripts.iter().any(|(text, _)| text.contains(words))
            };
            let full = format!("{}::{variant}", errors.name);
            let met = MET.iter().find(|(error, ..)| *error == full);
            let expected = met.is_some_and(|(_, path, test)| read(path).contains(test))
                || tests.iter().any(named)
                || scripts.iter().any(recorded)
                || words(message).any(quoted);
            if !expected {
                missing.push(format!("{}: {full}", errors.path));
            }
        }
    }
    assert!(enums.len() > 15, "{} enums of errors", enums.len());
    none("errors that no test expects", &missing);
}

fn source(path: &str, text: &str, is_test: bool) -> Source {
    let blanked = scan::blank(text);
    Source {
        path: path.to_owned(),
        text: text.to_owned(),
        code: if is_test {
            String::new()
        } else {
            scan::without_tests(&blanked)
        },
        blanked,
    }
}

#[test]
fn an_error_is_expected_only_where_a_test_names_it_or_its_words() {
    let text = concat!(
        "#[derive(Debug, thiserror::Error)]\npub enum Odd {\n",
        "    /// One.\n    #[error(\"it is {0} and \\\n     rather odd today\")]\n    One(u8),\n",
        "    #[error(transparent)]\n    Two {\n        /// Why.\n        why: Other,\n    },\n}\n",
    );
    let product = source("storage/src/odd.rs", text, false);
    let found = errors(&product).pop().expect("an enum of errors");
    assert_eq!(found.name, "Odd");
    let two = ("Two".to_owned(), String::new());
    let one = (
        "One".to_owned(),
        "it is {0} and rather odd today".to_owned(),
    );
    assert_eq!(found.variants, [one, two]);
    let message = &found.variants[0].1;
    assert_eq!(words(message).collect::<Vec<_>>(), ["and rather odd today"]);

    let names = |path: &str, code: &str| {
        let test = test(&source(path, code, true));
        test.is_some_and(|test| is_named(&test, &found, "Two", &[]))
    };
    assert!(names("storage/tests/a.rs", "matches!(e, Odd::Two { .. })"));
    assert!(!names("storage/tests/a.rs", "matches!(e, Odd::One(_))"));
    assert!(!names("storage/tests/a.rs", "// Odd::Two"));
    assert!(
        !names("storage/src/error.rs", "Odd::Two { why }"),
        "made by hand"
    );
    let machine = Errors {
        path: "replication/src/protocol/odd/event.rs".to_owned(),
        ..found
    };
    assert!(is_recorded(
        "scripts/odd-table.txt",
        "Close(Two)",
        &machine,
        "Two"
    ));
    assert!(!is_recorded(
        "scripts/odd.txt",
        "Close(Twofold)",
        &machine,
        "Two"
    ));
    assert!(!is_recorded(
        "scripts/even.txt",
        "Close(Two)",
        &machine,
        "Two"
    ));
}

#[test]
fn an_error_of_one_crate_is_not_taken_for_that_of_another() {
    let an = |path: &str| Errors {
        path: path.to_owned(),
        name: "Error".to_owned(),
        variants: Vec::new(),
    };
    let (log, peers) = (an("storage/src/error.rs"), an("replication/src/error.rs"));
    let named = |path: &str, code: &str, errors: &Errors, other: &Errors| {
        let test = test(&source(path, code, true)).expect("a test");
        is_named(&test, errors, "Invalid", &[other])
    };
    for (path, code, is_log, is_peers) in [
        ("storage/src/tests.rs", "Error::Invalid(_)", true, false),
        ("replication/tests/a.rs", "Error::Invalid(_)", false, true),
        ("tests/a.rs", "Error::Invalid(_)", false, false),
        (
            "tests/a.rs",
            "mainstay_storage::Error::Invalid(_)",
            true,
            false,
        ),
        (
            "tests/a.rs",
            "mainstay_replication::Error::Invalid(_)",
            false,
            true,
        ),
        ("tests/a.rs", "Storage::Invalid(_)", true, false),
        (
            "replication/tests/a.rs",
            "use mainstay_storage::Error; Error::Invalid(_)",
            true,
            false,
        ),
    ] {
        assert_eq!(named(path, code, &log, &peers), is_log, "{path} {code}");
        assert_eq!(named(path, code, &peers, &log), is_peers, "{path} {code}");
    }
}
