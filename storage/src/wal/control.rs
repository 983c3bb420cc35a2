//! What is durably noted beside the log: promises, checkpoints, the newest configuration.
//!
//! One change at a time. Nobody who reads what counts, appends or flushes waits for it, because its
//! syncs take long beside a busy disk. What is promised, and to whom, is not known here.

use bytes::Bytes;

use crate::control::Control;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::wal::Wal;

impl Wal {
    /// What is durably promised, as of now.
    pub fn control(&self) -> Control {
        self.shared().control.lock().get().clone()
    }

    /// What is durably promised once a change that is under way has become so.
    pub(super) fn settled_control(&self) -> Control {
        let _changing = self.shared().changing.lock();
        self.control()
    }

    /// Changes what is durably promised; when this returns, it counts.
    ///
    /// # Errors
    /// Disk errors, after which the old state counts until a restart, which may find either;
    /// [`Error::TooLarge`], [`Error::Closed`].
    pub fn update_control(&self, change: impl FnOnce(&mut Control)) -> Result<()> {
        let _changing = self.shared().changing.lock();
        let begun = {
            let file = self.shared().control.lock();
            let mut control = file.get().clone();
            change(&mut control);
            if control == *file.get() {
                return Ok(());
            }
            file.begin(control)?
        };
        begun.write()?;
        self.shared().control.lock().adopt(&begun);
        begun.copy();
        Ok(())
    }

    /// Notes durably that the store holds everything below `durable`: replay starts there.
    ///
    /// # Errors
    /// [`Error::Ahead`] beyond what is flushed; disk errors.
    pub fn checkpoint(&self, durable: Lsn) -> Result<()> {
        let flushed = self.flushed().get();
        if durable > flushed {
            return Err(Error::Ahead {
                wanted: durable,
                end: flushed,
            });
        }
        // Not locked while the disk works: whoever appends such an entry holds up all others.
        let passed = {
            let configs = self.shared().configs.lock();
            configs.iter().rfind(|(end, _)| *end <= durable).cloned()
        };
        self.update_control(|control| {
            control.checkpoint = control.checkpoint.max(durable);
            // Asked again, because the log may be being cut.
            control.watermark = self.flushed().get();
            if let Some((end, config)) =
                passed.as_ref().filter(|(end, _)| *end > control.config_lsn)
            {
                control.config_lsn = *end;
                control.config = config.to_vec();
            }
        })?;
        // In the control file now, so nobody misses them.
        if let Some((upto, _)) = passed {
            self.shared().configs.lock().retain(|(end, _)| *end > upto);
        }
        Ok(())
    }

    /// The newest `Config` entry of the log and the end of its record; empty and zero when there
    /// is none. It counts from the moment it is in the log, committed or not.
    pub fn config(&self) -> (Bytes, Lsn) {
        let newest = self.shared().configs.lock().last().cloned();
        newest.map_or_else(
            || {
                let control = self.control();
                (Bytes::from(control.config), control.config_lsn)
            },
            |(end, config)| (config, end),
        )
    }
}
