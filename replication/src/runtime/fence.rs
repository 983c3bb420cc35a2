//! The task that remembers by which timeline this primary was replaced.
//!
//! Stepping down is done where the news arrives and waits for no disk; what is noted here lets a
//! restart know it. A stop waits for what is being noted. It decides nothing.

use std::sync::Arc;

use crate::runtime::core::Core;
use crate::runtime::{promise, stopped};

/// Runs until this node stops.
pub(crate) async fn remember_fences(core: Arc<Core>) {
    let mut stopping = core.stopping.subscribe();
    let mut replaced = core.replaced.subscribe();
    loop {
        let by = *replaced.borrow_and_update();
        if let Some(by) = by
            && let Err(error) = promise::remember(&core, by).await
        {
            tracing::error!(
                %error,
                timeline = %by,
                "cannot note that this primary was replaced; start it with --follow next"
            );
        }
        tokio::select! {
            changed = replaced.changed() => if changed.is_err() {
                return;
            },
            _ = stopped(&mut stopping) => if !replaced.has_changed().unwrap_or(false) {
                return;
            },
        }
    }
}
