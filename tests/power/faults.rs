//! What a disk refuses: chosen calls, more than it has room for, and everything once it is gone.

use fuser::Errno;

use super::image::Result;

/// A call that changes something.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) enum Call {
    /// Of bytes, or of a file's size.
    Write,
    Sync,
    /// Of a directory's entries.
    Change,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The next such call on a path that holds the text fails so.
    next: Option<(Call, String, Errno)>,
    /// Most bytes that files may take.
    pub(super) space: Option<u64>,
    /// Calls until the disk is gone.
    left: Option<u64>,
    /// Syncs answer well and do nothing.
    pub(super) lies: bool,
    failed: u64,
}

impl Faults {
    /// Lets the next `call` on a path that holds `part` fail.
    pub(super) fn fail(&mut self, call: Call, part: &str, errno: Errno) {
        self.next = Some((call, part.to_owned(), errno));
    }

    /// Lets every call fail, once so many more were made: as if the power had gone then.
    pub(super) fn die_after(&mut self, calls: u64) {
        self.left = Some(calls);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.left == Some(0)
    }

    /// How many calls failed.
    pub(super) fn failed(&self) -> u64 {
        self.failed
    }

    /// Whether a path has to be known to answer a call.
    pub(super) fn by_path(&self) -> bool {
        self.next.is_some()
    }

    /// Whether a call may be done that takes `more` bytes of what is used and there is.
    pub(super) fn ask(
        &mut self,
        call: Call,
        path: &str,
        space: Option<(u64, u64)>,
        more: u64,
    ) -> Result<()> {
        let answer = self.answer(call, path, space, more);
        self.failed += u64::from(answer.is_err());
        answer
    }

    fn answer(
        &mut self,
        call: Call,
        path: &str,
        space: Option<(u64, u64)>,
        more: u64,
    ) -> Result<()> {
        match &mut self.left {
            Some(0) => return Err(Errno::EIO),
            Some(left) => *left -= 1,
            None => {}
        }
        if let Some((chosen, part, errno)) = &self.next
            && *chosen == call
            && path.contains(part)
        {
            let errno = *errno;
            self.next = None;
            return Err(errno);
        }
        match space {
            Some((used, space)) if more > 0 && used + more > space => Err(Errno::ENOSPC),
            _ => Ok(()),
        }
    }
}
