//! The commands that only native peers may say.

use mainstay_storage::Timeline;

use super::Parser;
use crate::wire::Result;
use crate::wire::command::{Command, PromiseTimeline, RegisterStandby, TakeOver, TimelineOpened};

impl Parser<'_> {
    pub(super) fn promise(&mut self) -> Result<Command> {
        let number = self.timeline_number()?;
        let id = self.uuid()?;
        Ok(Command::PromiseTimeline(PromiseTimeline {
            timeline: Timeline { number, id },
            candidate: self.text()?,
            address: self.text()?,
        }))
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

    pub(super) fn register(&mut self) -> Result<Command> {
        Ok(Command::RegisterStandby(RegisterStandby {
            name: self.text()?,
            node: self.uuid()?,
            incarnation: self.uuid()?,
            address: self.text()?,
        }))
    }
}
