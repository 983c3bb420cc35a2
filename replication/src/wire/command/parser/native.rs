//! The commands that only native peers may say.

use mainstay_storage::{HISTORY_ENTRIES_MAX, Timeline};

use super::{Parser, Token};
use crate::wire::command::verify::key;
use crate::wire::command::{
    Command, FailOver, PromiseTimeline, RegisterStandby, TakeOver, TimelineOpened, VerifyAt,
    VerifyCommand,
};
use crate::wire::{Result, WireError};

impl Parser<'_> {
    pub(super) fn promise(&mut self) -> Result<Command> {
        let number = self.timeline_number()?;
        let id = self.uuid()?;
        Ok(Command::PromiseTimeline(PromiseTimeline {
            timeline: Timeline { number, id },
            candidate: self.text()?,
            address: self.text()?,
            continues: self.timelines()?,
        }))
    }

    fn timelines(&mut self) -> Result<Vec<Timeline>> {
        let mut listed = Vec::new();
        let mut more = self.take_mark('(')?;
        while more {
            let (number, id) = (self.timeline_number()?, self.uuid()?);
            listed.push(Timeline { number, id });
            more = self.take_mark(',')?;
            if listed.len() > HISTORY_ENTRIES_MAX || !(more || self.take_mark(')')?) {
                return Err(WireError::syntax());
            }
        }
        Ok(listed)
    }

    pub(super) fn opened(&mut self) -> Result<Command> {
        let number = self.timeline_number()?;
        let id = self.uuid()?;
        Ok(Command::TimelineOpened(TimelineOpened {
            timeline: Timeline { number, id },
            primary: self.text()?,
            address: self.text()?,
        }))
    }

    pub(super) fn take_over(&mut self) -> Result<Command> {
        let number = self.timeline_number()?;
        let id = self.uuid()?;
        Ok(Command::TakeOver(TakeOver {
            timeline: Timeline { number, id },
            end: self.position()?,
        }))
    }

    pub(super) fn verify_begin(&mut self) -> Result<Command> {
        let number = self.timeline_number()?;
        let id = self.uuid()?;
        let at = match self.peek()? {
            Token::Position(_) => VerifyAt::Lsn(self.position()?),
            Token::Name(name) if name == "place" => {
                self.next()?;
                VerifyAt::Place
            }
            _ => VerifyAt::Newest,
        };
        let timeline = Timeline { number, id };
        Ok(Command::Verify(VerifyCommand::Begin { timeline, at }))
    }

    pub(super) fn verify_ranges(&mut self) -> Result<Command> {
        Ok(Command::Verify(VerifyCommand::Ranges {
            rows: self.number()?,
            after: key(&self.text()?)?,
            upto: key(&self.text()?)?,
        }))
    }

    pub(super) fn verify_rows(&mut self) -> Result<Command> {
        Ok(Command::Verify(VerifyCommand::Rows {
            offset: self.number()?,
            after: key(&self.text()?)?,
            upto: key(&self.text()?)?,
        }))
    }

    pub(super) fn fail_over(&mut self) -> Result<Command> {
        Ok(Command::FailOver(FailOver {
            why: self.text()?,
            force: self.flag("force")?,
            without_policy: self.flag("without_policy")?,
            max_lag: match self.text()? {
                none if none.is_empty() => None,
                bytes => Some(bytes.parse().map_err(|_| WireError::syntax())?),
            },
        }))
    }

    /// `word`, or nothing.
    fn flag(&mut self, word: &str) -> Result<bool> {
        match self.text()? {
            none if none.is_empty() => Ok(false),
            given if given == word => Ok(true),
            _ => Err(WireError::syntax()),
        }
    }

    pub(super) fn register(&mut self) -> Result<Command> {
        Ok(Command::RegisterStandby(RegisterStandby {
            name: self.text()?,
            node: self.uuid()?,
            incarnation: self.uuid()?,
            address: self.text()?,
        }))
    }
}
