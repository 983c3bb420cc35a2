//! The task that lets a primary go on which may not confirm.
//!
//! It asks again and again, by the rule and at the times that [`Standstill`] says, until a timeline
//! is open or this node is fenced. It decides nothing.

use std::sync::Arc;

use uuid::Uuid;

use crate::runtime::core::Core;
use crate::runtime::{promote, stopped};

/// Runs until this node stops.
pub(crate) async fn keep_going(core: Arc<Core>) {
    let mut stopping = core.stopping.subscribe();
    tokio::select! {
        _ = stopped(&mut stopping) => {}
        _ = ask(&core) => {}
    }
}

async fn ask(core: &Arc<Core>) {
    let mut standstills = core.standstill.subscribe();
    let mut attempt = 0;
    loop {
        let standstill = *standstills.borrow_and_update();
        let Some(standstill) = standstill else {
            attempt = 0;
            if standstills.changed().await.is_err() {
                return;
            }
            continue;
        };
        // Spreads the attempts; nothing depends on its quality.
        let random = Uuid::new_v4().as_u64_pair().0;
        tokio::time::sleep(standstill.backoff(attempt, random)).await;
        let purpose = standstill.purpose(attempt);
        match promote::go_on(core, purpose).await {
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, ?purpose, "this primary may not go on yet"),
        }
        attempt = attempt.saturating_add(1);
    }
}
