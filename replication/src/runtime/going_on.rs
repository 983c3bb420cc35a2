//! The task that lets a primary go on which may not confirm.
//!
//! It asks again and again, by the rule and at the times that [`Standstill`] says, until a timeline
//! is open or this node is fenced. It decides nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use uuid::Uuid;

use crate::runtime::core::Core;
use crate::runtime::{promote, stopped};

/// How long a start waits until a primary that crashed may write.
const GOING_ON_WAIT: Duration = Duration::from_secs(2);

/// Runs until this node stops.
pub(crate) async fn keep_going(core: Arc<Core>) {
    let mut stopping = core.stopping.subscribe();
    tokio::select! {
        _ = stopped(&mut stopping) => {}
        _ = ask(&core) => {}
    }
}

/// Waits for a moment until a primary that crashed and can write nothing before may go on. Its
/// members are asked further on if they do not answer in time.
pub(crate) async fn await_going_on(core: &Core) {
    let waits = core.is_primary() && core.wal.must_begin_timeline();
    let mut standstills = core.standstill.subscribe();
    let goes_on = standstills.wait_for(Option::is_none);
    if waits && timeout(GOING_ON_WAIT, goes_on).await.is_err() {
        let wait = GOING_ON_WAIT;
        tracing::warn!(
            ?wait,
            "no answer yet from the members; writes are refused until then"
        );
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
