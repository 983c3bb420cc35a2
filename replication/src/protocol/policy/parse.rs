//! The text form of a policy, read. What is wrong with one is said with its place.

use std::str::FromStr;

use super::{Names, POLICY_BYTES_MAX, POLICY_NAMES_MAX, SyncPolicy};
use crate::protocol::name::NodeName;

/// Most characters of a text that an error repeats.
const TEXT_SHOWN_MAX: usize = 120;

/// Why a policy text is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sync policy {text:?}{}: {why}; examples: off, FIRST 1 (a, b), ANY 2 (a, b, c), ANY 1 (*)",
    at.map(|at| format!(" at character {at}")).unwrap_or_default())]
pub struct ParsePolicyError {
    text: String,
    /// The character, from 1, where it goes wrong.
    at: Option<usize>,
    why: String,
}

impl ParsePolicyError {
    /// The fault alone.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// The character, counted from 1, at which something else was expected; `None` when it is the
    /// policy as a whole.
    pub const fn at(&self) -> Option<usize> {
        self.at
    }
}

impl FromStr for SyncPolicy {
    type Err = ParsePolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|fault| ParsePolicyError {
            text: text.chars().take(TEXT_SHOWN_MAX).collect(),
            at: fault.at.map(|at| {
                let before = text.char_indices().take_while(|(byte, _)| *byte < at);
                before.count() + 1
            }),
            why: fault.why,
        })
    }
}

/// What is wrong, and at which byte.
struct Fault {
    at: Option<usize>,
    why: String,
}

impl Fault {
    fn at(at: usize, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { at: Some(at), why }
    }

    fn whole(why: impl Into<String>) -> Self {
        let why = why.into();
        Self { at: None, why }
    }
}

#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    Star,
    Comma,
    Open,
    Close,
}

/// A token, and the byte at which it begins.
type Placed = (usize, Token);

fn parse(text: &str) -> Result<SyncPolicy, Fault> {
    if text.len() > POLICY_BYTES_MAX {
        return Err(Fault::whole(format!(
            "longer than {POLICY_BYTES_MAX} bytes"
        )));
    }
    let tokens = tokens(text)?;
    let token = |at: usize| tokens.get(at).map(|(_, token)| token);
    let place = |at: usize| tokens.get(at).map_or(text.len(), |(place, _)| *place);
    let word = |at: usize, word: &str| match token(at) {
        Some(Token::Word(found)) => found.eq_ignore_ascii_case(word),
        _ => false,
    };
    if tokens.is_empty() || (tokens.len() == 1 && word(0, "off")) {
        return Ok(SyncPolicy::Off);
    }
    let any = word(0, "any");
    let counted = usize::from(any || word(0, "first"));
    if counted == 0 && token(1) != Some(&Token::Open) {
        let names = names(&tokens, text.len())?;
        return Ok(SyncPolicy::First { count: 1, names });
    }
    let count = match token(counted) {
        Some(Token::Word(digits)) => digits.parse::<usize>().ok(),
        _ => None,
    };
    let number = "how many standbys must be a number before the parenthesis";
    let count = count.ok_or_else(|| Fault::at(place(counted), number))?;
    let names = names(within(&tokens, counted + 1, text.len())?, text.len())?;
    if count == 0 {
        let why = "at least 1 standby must be asked for; `off` asks for none";
        return Err(Fault::at(place(counted), why));
    }
    let (most, of) = match &names {
        Names::Voters => (POLICY_NAMES_MAX, "voters at most"),
        Names::Listed(names) => (names.len(), "names can never be met"),
    };
    if count > most {
        return Err(Fault::at(place(counted), format!("{count} of {most} {of}")));
    }
    Ok(match any {
        true => SyncPolicy::Any { count, names },
        false => SyncPolicy::First { count, names },
    })
}

/// The tokens between the parentheses that begin at token `open` and end the text.
fn within(tokens: &[Placed], open: usize, end: usize) -> Result<&[Placed], Fault> {
    let rest = tokens.get(open..).unwrap_or_default();
    if let [(_, Token::Open), inner @ .., (_, Token::Close)] = rest {
        return Ok(inner);
    }
    let close = rest.iter().position(|(_, token)| *token == Token::Close);
    // Where it should have opened, what follows its end, or the end that it lacks.
    let wrong = match (rest.first(), close) {
        (Some((at, token)), _) if *token != Token::Open => *at,
        (Some(_), Some(close)) => rest.get(close + 1).map_or(end, |(at, _)| *at),
        _ => end,
    };
    let why = "names must stand in one pair of parentheses";
    Err(Fault::at(wrong, why))
}

fn names(tokens: &[Placed], end: usize) -> Result<Names, Fault> {
    if let [(_, Token::Star)] = tokens {
        return Ok(Names::Voters);
    }
    let mut listed: Vec<NodeName> = Vec::new();
    for (at, (place, token)) in tokens.iter().enumerate() {
        match token {
            Token::Comma if at % 2 == 1 && at + 1 < tokens.len() => {}
            Token::Word(text) | Token::Quoted(text) if at % 2 == 0 => {
                let name = text.parse::<NodeName>();
                let name = name.map_err(|error| Fault::at(*place, error.to_string()))?;
                if listed.contains(&name) {
                    return Err(Fault::at(*place, format!("{name} is listed twice")));
                }
                listed.push(name);
            }
            Token::Star => return Err(Fault::at(*place, "`*` cannot stand beside names")),
            _ => {
                let why = "names must be separated by one comma each";
                return Err(Fault::at(*place, why));
            }
        }
    }
    match listed.len() {
        0 => Err(Fault::at(end, "no names")),
        1..=POLICY_NAMES_MAX => Ok(Names::Listed(listed)),
        more => Err(Fault::whole(format!(
            "{more} names, at most {POLICY_NAMES_MAX} are taken"
        ))),
    }
}

fn tokens(text: &str) -> Result<Vec<Placed>, Fault> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let at = text.len() - rest.len();
        let (token, used) = match first {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            '*' => (Token::Star, 1),
            '"' => quoted(rest).map_err(|why| Fault::at(at, why))?,
            _ => {
                let used = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                if used == 0 {
                    let why = format!("{first:?} needs double quotes around the name");
                    return Err(Fault::at(at, why));
                }
                let word = rest.chars().take_while(|c| is_word(*c)).collect();
                (Token::Word(word), used)
            }
        };
        tokens.push((at, token));
        rest = rest.get(used..).unwrap_or_default().trim_start();
    }
    Ok(tokens)
}

/// Hyphen and dot are more than PostgreSQL takes unquoted, but host names have them.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || ['_', '-', '.', '$'].contains(&c)
}

/// A quoted name, `""` standing for one quote, and the bytes it takes with its quotes.
fn quoted(text: &str) -> Result<(Token, usize), String> {
    let mut name = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != '"' {
            name.push(c);
        } else if chars.next_if(|(_, c)| *c == '"').is_some() {
            name.push('"');
        } else {
            return Ok((Token::Quoted(name), at + 1));
        }
    }
    Err("a double quote is not closed".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_the_character_where_it_begins() {
        for (text, at) in [
            ("ANY 1 (b c)", Some(10)),
            ("ANY 1 (b,)", Some(9)),
            ("ANY (b)", Some(5)),
            ("ANY", Some(4)),
            ("ANY 3 (b, c)", Some(5)),
            ("ANY 1 b", Some(7)),
            ("ANY 1 (b) c", Some(11)),
            ("ANY 1 (b", Some(9)),
            ("ANY 1 (b, b)", Some(11)),
            ("ANY 1 (b, *)", Some(11)),
            ("grün; b", Some(5)),
            ("FIRST 1 (\"b)", Some(10)),
        ] {
            let error = text.parse::<SyncPolicy>().unwrap_err();
            assert_eq!(error.at(), at, "{error}");
        }
        let error = "ANY 1 (b c)".parse::<SyncPolicy>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "sync policy \"ANY 1 (b c)\" at character 10: names must be separated by one comma \
             each; examples: off, FIRST 1 (a, b), ANY 2 (a, b, c), ANY 1 (*)"
        );
    }
}
