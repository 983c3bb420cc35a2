//! Reading Rust without a parser: what is code, what is text, which paths it names.

/// `source` with comments, strings and characters turned into blanks; line ends stay. What is left
/// can be searched for words and counted for braces.
pub(super) fn blank(source: &str) -> String {
    let text = source.as_bytes();
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let end = match &text[at..] {
            [b'/', b'/', ..] => find(text, at, b"\n"),
            [b'/', b'*', ..] => block_comment(text, at),
            [b'"', ..] => string(text, at + 1),
            [b'r', rest @ ..] if begins_raw(rest) && !in_word(text, at) => raw(text, at + 1),
            [b'\'', ..] => character(text, at),
            [byte, ..] => {
                out.push(*byte);
                at += 1;
                continue;
            }
            [] => break,
        };
        let keep = |byte: &u8| if *byte == b'\n' { b'\n' } else { b' ' };
        out.extend(text[at..end].iter().map(keep));
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn find(text: &[u8], from: usize, what: &[u8]) -> usize {
    let found = text[from..].windows(what.len()).position(|w| w == what);
    found.map_or(text.len(), |found| from + found)
}

fn block_comment(text: &[u8], from: usize) -> usize {
    let mut depth = 0;
    let mut at = from;
    while at < text.len() {
        match &text[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                at += 2;
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    text.len()
}

fn string(text: &[u8], mut at: usize) -> usize {
    while at < text.len() {
        match text[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

fn begins_raw(rest: &[u8]) -> bool {
    let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
    rest.get(hashes) == Some(&b'"')
}

fn in_word(text: &[u8], at: usize) -> bool {
    // The b of a raw byte string does not make its r part of a word.
    let before = at.checked_sub(1).map(|before| text[before]);
    before.is_some_and(|byte| is_word(char::from(byte)) && byte != b'b')
}

fn raw(text: &[u8], from: usize) -> usize {
    let hashes = find(text, from, b"\"") - from;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = find(text, from + hashes + 1, close.as_bytes());
    (end + close.len()).min(text.len())
}

/// A character literal, or just the quote of a lifetime.
fn character(text: &[u8], at: usize) -> usize {
    if text.get(at + 1) == Some(&b'\\') {
        return (find(text, at + 3, b"'") + 1).min(text.len());
    }
    let close = text[at + 1..]
        .iter()
        .take(5)
        .position(|byte| *byte == b'\'');
    let wide = text.get(at + 1).is_some_and(|byte| *byte >= 0x80);
    match close {
        Some(1) => at + 3,
        Some(close) if wide => at + close + 2,
        _ => at + 1,
    }
}

/// Blanked code without the items that stand under `#[cfg(test)]`; line ends stay.
pub(super) fn without_tests(blanked: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(blanked.len());
    let mut rest = blanked;
    while let Some(at) = rest.find(MARK) {
        let (before, marked) = rest.split_at(at);
        out.push_str(before);
        let (item, after) = marked.split_at(item_end(marked));
        out.extend(item.chars().filter(|c| *c == '\n'));
        rest = after;
    }
    out + rest
}

/// Where the item that `code` begins with ends: at its semicolon, or at its closing brace.
pub(super) fn item_end(code: &str) -> usize {
    let mut depth = 0_i32;
    let mut round = 0_i32;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => round += 1,
            ')' | ']' => round -= 1,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth <= 0 {
                    return at + 1;
                }
            }
            ';' if depth == 0 && round == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The names of modules that are declared only for tests, in files of their own.
pub(super) fn test_modules(blanked: &str) -> Vec<String> {
    let marked = blanked.match_indices("#[cfg(test)]").map(|(at, mark)| {
        let item = &blanked[at..at + item_end(&blanked[at..])];
        item[mark.len()..].trim().to_owned()
    });
    let named = marked.filter_map(|item| {
        let declared = item.strip_suffix(';')?;
        let name = declared.split_once("mod ")?.1;
        Some(name.trim().to_owned())
    });
    named.collect()
}

pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Every path that blanked code names, such as `std::fs::File`: those of `use` declarations written
/// out in full, and all others as they stand.
pub(super) fn paths(blanked: &str) -> Vec<String> {
    let mut found = Vec::new();
    let tight: String = squeeze(blanked);
    let mut rest = tight.as_str();
    while let Some(at) = rest.find(is_word) {
        let before = rest[..at].chars().next_back();
        rest = &rest[at..];
        let end = path_end(rest);
        let (path, after) = rest.split_at(end);
        if path == "use" && before != Some('#') {
            let end = after.find(';').unwrap_or(after.len());
            spread("", after[..end].trim(), &mut found);
            rest = &after[end..];
        } else {
            found.push(path.to_owned());
            rest = after;
        }
    }
    found
}

/// `text` with all white space around `::` removed, so that a path is one piece.
fn squeeze(text: &str) -> String {
    let pieces = text.split("::").collect::<Vec<_>>();
    let last = pieces.len() - 1;
    let trim = |(at, piece): (usize, &&str)| {
        let piece = if at > 0 { piece.trim_start() } else { piece };
        if at < last { piece.trim_end() } else { piece }.to_owned()
    };
    let pieces = pieces.iter().enumerate().map(trim);
    pieces.collect::<Vec<_>>().join("::")
}

fn path_end(text: &str) -> usize {
    let mut end = 0;
    loop {
        let word = text[end..].find(|c| !is_word(c));
        let Some(word) = word else { return text.len() };
        end += word;
        let more = text[end..].strip_prefix("::");
        if !more.is_some_and(|more| more.starts_with(is_word)) {
            return end;
        }
        end += 2;
    }
}

/// Writes out one tree of a `use` declaration.
fn spread(prefix: &str, tree: &str, out: &mut Vec<String>) {
    let tree = tree.trim().trim_start_matches("::");
    let Some((head, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().trim();
        if !path.is_empty() {
            out.push(format!("{prefix}{path}"));
        }
        return;
    };
    let inner = inner.trim_end().strip_suffix('}').unwrap_or(inner);
    let prefix = format!("{prefix}{}", head.trim());
    let (mut depth, mut from) = (0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                spread(&prefix, &inner[from..at], out);
                from = at + 1;
            }
            _ => {}
        }
    }
    spread(&prefix, &inner[from..], out);
}

/// Whether `path` has the segments of `part` in a row: `std::fs::File` has `std::fs`.
pub(super) fn names(path: &str, part: &str) -> bool {
    let (path, part) = (format!("::{path}::"), format!("::{part}::"));
    path.contains(&part)
}

/// The functions of blanked code with the number of lines each takes, from `fn` to its last brace.
pub(super) fn functions(blanked: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in blanked.match_indices("fn ") {
        let before = blanked[..at].chars().next_back();
        let rest = &blanked[at..];
        let end = item_end(rest);
        let name = rest[3..].trim_start();
        let name: String = name.chars().take_while(|c| is_word(*c)).collect();
        if name.is_empty() || before.is_some_and(is_word) || !rest[..end].ends_with('}') {
            continue;
        }
        let line = blanked[..at].matches('\n').count() + 1;
        let lines = rest[..end].matches('\n').count() + 1;
        found.push((name, line, lines));
    }
    found
}

#[test]
fn text_is_blank_and_code_is_not() {
    let code = "let a = \"fn { \\\" }\"; // tokio\n/* std::fs /* nested */ */ let b = '{';";
    let blanked = blank(code);
    assert_eq!(blanked.len(), code.len());
    assert!(!blanked.contains(['{', '"']), "{blanked}");
    assert!(!blanked.contains("std") && !blanked.contains("tokio"));
    assert!(blanked.contains("let a") && blanked.contains("let b"));
    assert_eq!(blanked.lines().count(), 2);
    assert_eq!(blank("r#\"a \" fs\"# x").trim(), "x");
    assert_eq!(
        blank("br\"\\\" x").trim(),
        "b          x".trim().replace("          ", "     ")
    );
    assert_eq!(blank("fn f<'a>(x: &'a str) {}"), "fn f< a>(x: & a str) {}");
    assert_eq!(blank("'\\'' '\"' x").trim(), "x");
    assert_eq!(blank("'─' x").trim(), "x");
}

#[test]
fn what_is_only_for_tests_is_left_out() {
    let code =
        "use a;\n#[cfg(test)]\nmod tests;\nfn f() {}\n#[cfg(test)]\nmod t {\n fn g() {}\n}\n";
    let kept = without_tests(code);
    assert_eq!(kept.lines().count(), code.lines().count());
    assert!(kept.contains("use a;") && kept.contains("fn f()"));
    assert!(!kept.contains("mod") && !kept.contains('g'));
    assert_eq!(test_modules(code), ["tests"]);
}

#[test]
fn imports_are_written_out() {
    let code =
        "use std::{fmt, fs::{self, File as F}};\npub(crate) use a::b;\nlet x = std :: net::X;";
    let found = paths(code);
    for path in [
        "std::fmt",
        "std::fs::self",
        "std::fs::File",
        "a::b",
        "std::net::X",
    ] {
        assert!(found.iter().any(|found| found == path), "{path}: {found:?}");
    }
    assert!(names("std::fs::File", "std::fs") && names("std::fs::self", "std::fs"));
    assert!(!names("mystd::fs", "std::fs") && !names("std::fsx", "std::fs"));
}

#[test]
fn functions_are_measured() {
    let code = "fn a() {\n\n}\nconst X: fn() = b;\nfn c();\nasync fn d(x: [u8; 2]) {}\n";
    let found = functions(code);
    assert_eq!(found, [("a".to_owned(), 1, 3), ("d".to_owned(), 6, 1)]);
}
