//! Words, strings, numbers and positions of the replication grammar.
//!
//! Follows PostgreSQL's scanner: the longest match wins, keywords are exactly upper case, bare
//! names are folded, quoted ones are not. It hands out one token at a time, so a long text costs
//! no more memory than its longest token. It knows no grammar.

use mainstay_storage::Lsn;

use super::NAME_MAX;
use crate::wire::{Result, WireError, sqlstate};

/// Words that are not names when they stand bare and in upper case.
const KEYWORDS: [&str; 31] = [
    "ALTER_REPLICATION_SLOT",
    "BASE_BACKUP",
    "CREATE_REPLICATION_SLOT",
    "DROP_REPLICATION_SLOT",
    "EXPORT_SNAPSHOT",
    "FAST",
    "IDENTIFY_SYSTEM",
    "LABEL",
    "LOGICAL",
    "MANIFEST",
    "MANIFEST_CHECKSUMS",
    "MAX_RATE",
    "NOEXPORT_SNAPSHOT",
    "NOVERIFY_CHECKSUMS",
    "NOWAIT",
    "PHYSICAL",
    "PROGRESS",
    "READ_REPLICATION_SLOT",
    "RESERVE_WAL",
    "SHOW",
    "SLOT",
    "START_REPLICATION",
    "TABLESPACE_MAP",
    "TEMPORARY",
    "TIMELINE",
    "TIMELINE_HISTORY",
    "TWO_PHASE",
    "UPLOAD_MANIFEST",
    "USE_SNAPSHOT",
    "WAIT",
    "WAL",
];

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A word of [`KEYWORDS`].
    Keyword(&'static str),
    /// A name: bare and folded, or quoted.
    Name(String),
    /// A string.
    Text(String),
    /// An unsigned decimal number.
    Number(u64),
    /// A position, `X/X`.
    Position(Lsn),
    /// Any other character.
    Mark(char),
    /// The end of the text.
    End,
}

/// A position in a text.
pub(super) struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    /// The next token; [`Token::End`] again and again at the end.
    pub(super) fn next(&mut self) -> Result<Token> {
        self.rest = self.rest.trim_start_matches(is_blank);
        let Some(first) = self.rest.chars().next() else {
            return Ok(Token::End);
        };
        if let Some(position) = self.position()? {
            return Ok(position);
        }
        match first {
            '0'..='9' => self.number(),
            '\'' => self.quoted('\'').map(Token::Text),
            '"' => Ok(Token::Name(truncated(self.quoted('"')?))),
            _ if begins_word(first) => Ok(self.word()),
            _ => {
                self.rest = &self.rest[first.len_utf8()..];
                Ok(Token::Mark(first))
            }
        }
    }

    /// Takes the longest prefix whose characters all satisfy `part`.
    fn run(&mut self, part: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !part(c)).unwrap_or(self.rest.len());
        let (run, rest) = self.rest.split_at(end);
        self.rest = rest;
        run
    }

    /// A position beats a number or a name, because it is the longer match.
    fn position(&mut self) -> Result<Option<Token>> {
        let start = self.rest;
        let hex = |c: char| c.is_ascii_hexdigit();
        let high = self.run(hex).len();
        let slash = high > 0 && self.rest.starts_with('/');
        if slash {
            self.rest = &self.rest[1..];
            let low = self.run(hex).len();
            if low > 0 {
                let lsn = start[..high + 1 + low].parse().map_err(|_| {
                    let text = "invalid streaming start location";
                    WireError::refused(sqlstate::SYNTAX_ERROR, text)
                })?;
                return Ok(Some(Token::Position(lsn)));
            }
        }
        self.rest = start;
        Ok(None)
    }

    fn number(&mut self) -> Result<Token> {
        let digits = self.run(|c| c.is_ascii_digit());
        let number = digits.parse().map_err(|_| WireError::syntax())?;
        Ok(Token::Number(number))
    }

    fn word(&mut self) -> Token {
        let word = self.run(continues_word);
        match KEYWORDS.into_iter().find(|&keyword| keyword == word) {
            Some(keyword) => Token::Keyword(keyword),
            None => Token::Name(truncated(word.to_ascii_lowercase())),
        }
    }

    /// The text between two quotes; a doubled quote stands for one.
    fn quoted(&mut self, quote: char) -> Result<String> {
        let mut text = String::new();
        self.rest = &self.rest[quote.len_utf8()..];
        loop {
            text += self.run(|c| c != quote);
            if self.rest.is_empty() {
                let what = if quote == '"' { "identifier" } else { "string" };
                let message = format!("unterminated quoted {what}");
                return Err(WireError::refused(sqlstate::SYNTAX_ERROR, message));
            }
            self.rest = &self.rest[quote.len_utf8()..];
            if !self.rest.starts_with(quote) {
                return Ok(text);
            }
            text.push(quote);
            self.rest = &self.rest[quote.len_utf8()..];
        }
    }
}

/// Whether the scanner skips `c` between tokens.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0C' | '\x0B')
}

/// Whether `text` is a bare word, of any length.
pub(super) fn is_word(text: &str) -> bool {
    text.starts_with(begins_word) && text.chars().all(continues_word)
}

fn begins_word(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

/// Whether `c` can be inside a bare word.
pub(super) fn continues_word(c: char) -> bool {
    begins_word(c) || c.is_ascii_digit() || c == '$'
}

/// `name` cut to the longest prefix of whole characters that fits.
pub(super) fn truncated(mut name: String) -> String {
    let mut end = name.len().min(NAME_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token> {
        let mut lexer = Lexer::new(text);
        let mut tokens = Vec::new();
        loop {
            match lexer.next().unwrap() {
                Token::End => return tokens,
                token => tokens.push(token),
            }
        }
    }

    fn name(text: &str) -> Token {
        Token::Name(text.to_owned())
    }

    #[test]
    fn the_longest_match_wins() {
        assert_eq!(
            tokens("7F/0 DEADBEEF/1 DEADBEEF 12 0/"),
            [
                Token::Position(Lsn::new(0x7F << 32)),
                Token::Position(Lsn::new(0xDEAD_BEEF << 32 | 1)),
                name("deadbeef"),
                Token::Number(12),
                Token::Number(0),
                Token::Mark('/'),
            ]
        );
    }

    #[test]
    fn keywords_are_exact_and_bare_names_are_folded() {
        assert_eq!(
            tokens("SHOW Show \"Show\" 'Show' SHOW_ \"a\"\"b\" 'c''d'"),
            [
                Token::Keyword("SHOW"),
                name("show"),
                name("Show"),
                Token::Text("Show".into()),
                name("show_"),
                name("a\"b"),
                Token::Text("c'd".into()),
            ]
        );
    }

    #[test]
    fn unterminated_quotes_and_oversized_positions_are_syntax_errors() {
        for bad in [
            "'abc",
            "\"abc",
            "'a''",
            "123456789/0",
            "99999999999999999999",
        ] {
            let error = Lexer::new(bad).next().unwrap_err();
            assert_eq!(
                (error.sqlstate(), error.closes()),
                ("42601", false),
                "{bad}"
            );
        }
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let long = format!("\"a{}\"", "é".repeat(40));
        let [Token::Name(name)] = &tokens(&long)[..] else {
            panic!("not one name");
        };
        assert_eq!(name.len(), NAME_MAX);
    }
}
