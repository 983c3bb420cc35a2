//! The few SQL statements that are answered without a database.
//!
//! Clients write them with differing blanks and case, so both are taken out before comparing;
//! nothing in quotes is touched. It is a comparison, not a parser: whatever is not one of these
//! statements to the letter is not recognised.

use super::Command;
use super::lexer::{continues_word, is_blank, is_word, truncated};

/// Longest statement that is looked at, in bytes; all that can be recognised are shorter.
const STATEMENT_MAX: usize = 256;

/// The statement in `text`, if it is one of those.
pub(super) fn recognise(text: &str) -> Option<Command> {
    let text = text.trim_matches(is_blank);
    let text = text.strip_suffix(';').unwrap_or(text);
    if text.len() > STATEMENT_MAX {
        return None;
    }
    let statement = normalised(text);
    match statement.as_str() {
        "" => Some(Command::Empty),
        "select 1" => Some(Command::SelectOne),
        "select pg_is_in_recovery()" | "select pg_catalog.pg_is_in_recovery()" => {
            Some(Command::IsInRecovery)
        }
        "select pg_catalog.set_config('search_path','',false)" => Some(Command::ClearSearchPath),
        _ => {
            let name = statement.strip_prefix("show ")?;
            let words = name
                .split('.')
                .map(|word| is_word(word).then(|| truncated(word.to_owned())));
            Some(Command::Show(words.collect::<Option<Vec<_>>>()?.join(".")))
        }
    }
}

/// `text` in lower case outside quotes, with one blank between words and none elsewhere.
fn normalised(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut quote, mut blank) = (None, false);
    for c in text.chars() {
        if quote.is_none() && is_blank(c) {
            blank = true;
            continue;
        }
        if blank && continues_word(c) && out.ends_with(continues_word) {
            out.push(' ');
        }
        blank = false;
        match quote {
            Some(open) if open == c => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            _ => {}
        }
        out.push(if quote.is_none() {
            c.to_ascii_lowercase()
        } else {
            c
        });
    }
    out
}
