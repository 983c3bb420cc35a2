//! The grammar of replication commands.
//!
//! Recursive descent with one token of lookahead, a function for each command. What does not
//! parse is PostgreSQL's bare "syntax error"; what parses and cannot be meant gets the message
//! and code PostgreSQL gives it. It knows no state of the server.

mod native;

use mainstay_storage::Lsn;
use uuid::Uuid;

use super::lexer::{Lexer, Token, continues_word, is_blank, is_word};
use super::option::{RawOption, RawValue, push_bounded, refused, slot_kind, unrecognised};
use super::{BackupOptions, Command, StartReplication, check_slot_name};
use crate::wire::{Result, WireError, sqlstate};

/// Parses `text` if its first word is a command; `None` if it is not.
pub(super) fn parse_command(text: &str, native: bool) -> Option<Result<Command>> {
    let start = text.trim_start_matches(is_blank);
    let end = start.find(|c| !continues_word(c)).unwrap_or(start.len());
    let (word, rest) = start.split_at(end);
    let rule = rule(word, native)?;
    let mut parser = Parser::new(rest, native);
    Some(parser.whole(rule))
}

type Rule = fn(&mut Parser<'_>) -> Result<Command>;

fn rule(word: &str, native: bool) -> Option<Rule> {
    let rule: Rule = match word {
        "IDENTIFY_SYSTEM" => |_| Ok(Command::IdentifySystem),
        "SHOW" => |it| it.show(),
        "READ_REPLICATION_SLOT" => |it| Ok(Command::ReadReplicationSlot { slot: it.name()? }),
        "CREATE_REPLICATION_SLOT" => |it| it.create_slot(),
        "ALTER_REPLICATION_SLOT" => |it| it.alter_slot(),
        "DROP_REPLICATION_SLOT" => |it| it.drop_slot(),
        "START_REPLICATION" => |it| it.start(),
        "TIMELINE_HISTORY" => |it| it.timeline_history(),
        "BASE_BACKUP" => |it| it.base_backup(),
        "UPLOAD_MANIFEST" => |_| Ok(Command::UploadManifest),
        "PROBE_TIMELINE" if native => |_| Ok(Command::ProbeTimeline),
        "PROMISE_TIMELINE" if native => |it| it.promise(),
        "TIMELINE_OPENED" if native => |it| it.opened(),
        "TAKE_OVER" if native => |it| it.take_over(),
        "VERIFY_BEGIN" if native => |it| it.verify_begin(),
        "VERIFY_RANGES" if native => |it| it.verify_ranges(),
        "VERIFY_ROWS" if native => |it| it.verify_rows(),
        "FAIL_OVER" if native => |it| it.fail_over(),
        "IDENTIFY_NODE" if native => |_| Ok(Command::IdentifyNode),
        "REGISTER_STANDBY" if native => |it| it.register(),
        _ => return None,
    };
    Some(rule)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    peeked: Option<Token>,
    native: bool,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, native: bool) -> Self {
        Self {
            lexer: Lexer::new(text),
            peeked: None,
            native,
        }
    }

    /// A command, an optional semicolon and nothing else.
    fn whole(&mut self, rule: Rule) -> Result<Command> {
        let command = rule(self)?;
        self.take_mark(';')?;
        match self.next()? {
            Token::End => Ok(command),
            _ => Err(WireError::syntax()),
        }
    }

    fn peek(&mut self) -> Result<&Token> {
        let token = match self.peeked.take() {
            Some(token) => token,
            None => self.lexer.next()?,
        };
        Ok(self.peeked.insert(token))
    }

    fn next(&mut self) -> Result<Token> {
        self.peek()?;
        Ok(self.peeked.take().unwrap_or(Token::End))
    }

    fn take(&mut self, wanted: &Token) -> Result<bool> {
        let found = self.peek()? == wanted;
        if found {
            self.peeked = None;
        }
        Ok(found)
    }

    fn take_keyword(&mut self, keyword: &'static str) -> Result<bool> {
        self.take(&Token::Keyword(keyword))
    }

    fn take_mark(&mut self, mark: char) -> Result<bool> {
        self.take(&Token::Mark(mark))
    }

    fn name(&mut self) -> Result<String> {
        match self.next()? {
            Token::Name(name) => Ok(name),
            _ => Err(WireError::syntax()),
        }
    }

    fn text(&mut self) -> Result<String> {
        match self.next()? {
            Token::Text(text) => Ok(text),
            _ => Err(WireError::syntax()),
        }
    }

    fn number(&mut self) -> Result<u64> {
        match self.next()? {
            Token::Number(number) => Ok(number),
            _ => Err(WireError::syntax()),
        }
    }

    fn position(&mut self) -> Result<Lsn> {
        match self.next()? {
            Token::Position(lsn) => Ok(lsn),
            _ => Err(WireError::syntax()),
        }
    }

    fn timeline_number(&mut self) -> Result<u32> {
        let number = self.number()?;
        match u32::try_from(number) {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(refused(format!("invalid timeline {number}"))),
        }
    }

    fn uuid(&mut self) -> Result<Uuid> {
        let text = self.text()?;
        parse_uuid(&text)
    }

    fn show(&mut self) -> Result<Command> {
        let mut name = self.name()?;
        while self.take_mark('.')? {
            name.push('.');
            name += &self.name()?;
        }
        if !name.split('.').all(is_word) {
            return Err(WireError::Refused {
                sqlstate: sqlstate::UNDEFINED_OBJECT,
                message: format!("unrecognized configuration parameter \"{name}\""),
                hint: None,
            });
        }
        // The names of settings have no case, quoted or not.
        Ok(Command::Show(name.to_ascii_lowercase()))
    }

    fn drop_slot(&mut self) -> Result<Command> {
        let slot = self.name()?;
        let wait = self.take_keyword("WAIT")?;
        Ok(Command::DropReplicationSlot { slot, wait })
    }

    fn timeline_history(&mut self) -> Result<Command> {
        let timeline = self.timeline_number()?;
        Ok(Command::TimelineHistory { timeline })
    }

    fn start(&mut self) -> Result<Command> {
        let slot = match self.take_keyword("SLOT")? {
            true => Some(self.name()?),
            false => None,
        };
        if let Some(slot) = &slot
            && self.take_keyword("LOGICAL")?
        {
            let slot = slot.clone();
            let start = self.position()?;
            let options = self.plugin_options()?;
            return Ok(Command::StartLogicalReplication {
                slot,
                start,
                options,
            });
        }
        self.take_keyword("PHYSICAL")?;
        let start = self.position()?;
        let timeline = match self.take_keyword("TIMELINE")? {
            true => Some(self.timeline_number()?),
            false => None,
        };
        let timeline_id = match timeline {
            Some(_) if self.native => self.timeline_id()?,
            _ => None,
        };
        Ok(Command::StartReplication(StartReplication {
            slot,
            start,
            timeline,
            timeline_id,
        }))
    }

    /// `(timeline_id 'uuid')`, which only native peers may write.
    fn timeline_id(&mut self) -> Result<Option<Uuid>> {
        if self.peek()? != &Token::Mark('(') {
            return Ok(None);
        }
        match &self.parenthesised()?[..] {
            [option] if option.name == "timeline_id" => parse_uuid(&option.text()?).map(Some),
            [option] => Err(refused(format!("unrecognized option: {}", option.name))),
            _ => Err(WireError::syntax()),
        }
    }

    /// `( name ['value'] [, ...] )` for an output plugin, or nothing.
    fn plugin_options(&mut self) -> Result<Vec<(String, Option<String>)>> {
        let mut options = Vec::new();
        if !self.take_mark('(')? {
            return Ok(options);
        }
        loop {
            let name = self.name()?;
            let value = match self.peek()? {
                Token::Text(_) => Some(self.text()?),
                _ => None,
            };
            push_bounded(&mut options, (name, value))?;
            match self.next()? {
                Token::Mark(',') => {}
                Token::Mark(')') => return Ok(options),
                _ => return Err(WireError::syntax()),
            }
        }
    }

    /// `( key [value] [, ...] )`
    fn parenthesised(&mut self) -> Result<Vec<RawOption>> {
        if !self.take_mark('(')? {
            return Err(WireError::syntax());
        }
        let mut options = Vec::new();
        loop {
            let name = match self.next()? {
                Token::Name(name) => name,
                Token::Keyword(keyword) => keyword.to_ascii_lowercase(),
                _ => return Err(WireError::syntax()),
            };
            let value = match self.peek()? {
                Token::Name(_) => Some(RawValue::Text(self.name()?)),
                Token::Text(_) => Some(RawValue::Text(self.text()?)),
                Token::Number(_) => Some(RawValue::Number(self.number()?)),
                _ => None,
            };
            push_bounded(&mut options, RawOption { name, value })?;
            match self.next()? {
                Token::Mark(',') => {}
                Token::Mark(')') => return Ok(options),
                _ => return Err(WireError::syntax()),
            }
        }
    }

    fn create_slot(&mut self) -> Result<Command> {
        let slot = self.name()?;
        let temporary = self.take_keyword("TEMPORARY")?;
        let plugin = match self.next()? {
            Token::Keyword("PHYSICAL") => None,
            Token::Keyword("LOGICAL") => Some(self.name()?),
            _ => return Err(WireError::syntax()),
        };
        let options = match self.peek()? {
            Token::Mark('(') => self.parenthesised()?,
            _ => self.legacy_slot_options()?,
        };
        let kind = slot_kind(plugin, &options)?;
        check_slot_name(&slot)?;
        Ok(Command::CreateReplicationSlot {
            slot,
            temporary,
            kind,
        })
    }

    fn legacy_slot_options(&mut self) -> Result<Vec<RawOption>> {
        let mut options = Vec::new();
        loop {
            let snapshot = |action: &str| RawOption {
                name: "snapshot".to_owned(),
                value: Some(RawValue::Text(action.to_owned())),
            };
            let option = match self.peek()? {
                Token::Keyword("EXPORT_SNAPSHOT") => snapshot("export"),
                Token::Keyword("NOEXPORT_SNAPSHOT") => snapshot("nothing"),
                Token::Keyword("USE_SNAPSHOT") => snapshot("use"),
                Token::Keyword("RESERVE_WAL") => RawOption::flag("reserve_wal"),
                Token::Keyword("TWO_PHASE") => RawOption::flag("two_phase"),
                _ => return Ok(options),
            };
            self.next()?;
            push_bounded(&mut options, option)?;
        }
    }

    fn alter_slot(&mut self) -> Result<Command> {
        let slot = self.name()?;
        let (mut failover, mut two_phase) = (None, None);
        for option in self.parenthesised()? {
            let target = match option.name.as_str() {
                "failover" => &mut failover,
                "two_phase" => &mut two_phase,
                name => return Err(unrecognised(name)),
            };
            if target.replace(option.boolean()?).is_some() {
                return Err(refused("conflicting or redundant options".to_owned()));
            }
        }
        Ok(Command::AlterReplicationSlot {
            slot,
            failover,
            two_phase,
        })
    }

    fn base_backup(&mut self) -> Result<Command> {
        let options = match self.peek()? {
            Token::Mark('(') => self.parenthesised()?,
            _ => self.legacy_backup_options()?,
        };
        BackupOptions::from_raw(&options).map(Command::BaseBackup)
    }

    /// The words clients send to servers before version 15, as the options they became.
    fn legacy_backup_options(&mut self) -> Result<Vec<RawOption>> {
        let mut options = Vec::new();
        loop {
            let Token::Keyword(keyword) = *self.peek()? else {
                return Ok(options);
            };
            self.next()?;
            let text = |text| Some(RawValue::Text(text));
            let (name, value) = match keyword {
                "LABEL" => ("label", text(self.text()?)),
                "PROGRESS" => ("progress", None),
                "FAST" => ("checkpoint", text("fast".to_owned())),
                "WAL" => ("wal", None),
                "NOWAIT" => ("wait", Some(RawValue::Number(0))),
                "MAX_RATE" => ("max_rate", Some(RawValue::Number(self.number()?))),
                "TABLESPACE_MAP" => ("tablespace_map", None),
                "NOVERIFY_CHECKSUMS" => ("verify_checksums", Some(RawValue::Number(0))),
                "MANIFEST" => ("manifest", text(self.text()?)),
                "MANIFEST_CHECKSUMS" => ("manifest_checksums", text(self.text()?)),
                _ => return Err(WireError::syntax()),
            };
            let name = name.to_owned();
            push_bounded(&mut options, RawOption { name, value })?;
        }
    }
}

/// Only the hyphenated form is taken, so that every id has one spelling.
fn parse_uuid(text: &str) -> Result<Uuid> {
    let uuid = Uuid::try_parse(text).ok();
    let uuid = uuid.filter(|uuid| text.eq_ignore_ascii_case(&uuid.to_string()));
    uuid.ok_or_else(|| {
        let text: String = text.chars().take(super::NAME_MAX).collect();
        let message = format!("invalid input syntax for type uuid: \"{text}\"");
        WireError::refused(sqlstate::SYNTAX_ERROR, message)
    })
}
