//! A future with a thread of its own, which may block without holding anybody else up.
//!
//! The receiver writes and syncs what comes in little by little itself: handing it to another
//! thread and being woken by that costs more than the sync. It runs in the background like any
//! task: whoever drops it aborts it, at its next wait. In a simulated network it is a task, because
//! that knows no threads.

use std::future::Future;

use tokio::sync::oneshot;

/// A future that runs until it ends or is aborted.
#[derive(Debug)]
pub(crate) struct OwnThread {
    /// Dropped, or sent to, it aborts.
    abort: Option<oneshot::Sender<()>>,
    ended: oneshot::Receiver<()>,
}

impl OwnThread {
    /// Runs `work` in the background, on a thread called `name`.
    ///
    /// # Panics
    /// When the system gives no thread, as where the runtime itself cannot have one.
    pub(crate) fn start(name: &str, work: impl Future<Output = ()> + Send + 'static) -> Self {
        let (abort, aborted) = oneshot::channel();
        let (tell, ended) = oneshot::channel();
        let work = async move {
            tokio::select! {
                () = work => {}
                _ = aborted => {}
            }
            // Nobody may be interested any more.
            let _ = tell.send(());
        };
        spawn(name, work);
        let abort = Some(abort);
        Self { abort, ended }
    }

    /// Ends it at its next wait.
    pub(crate) fn abort(&mut self) {
        self.abort = None;
    }

    /// Waits for its end, however that came.
    pub(crate) async fn ended(&mut self) {
        // A panic in it was reported by the panic itself.
        let _ = (&mut self.ended).await;
    }
}

#[cfg(not(all(test, turmoil)))]
fn spawn(name: &str, work: impl Future<Output = ()> + Send + 'static) {
    let thread = std::thread::Builder::new().name(name.to_owned());
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("the system gives a poller").block_on(work);
    };
    thread.spawn(run).expect("the system gives a thread");
}

#[cfg(all(test, turmoil))]
fn spawn(_name: &str, work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(work);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ends_by_itself_or_at_its_next_wait_once_it_is_aborted() {
        let mut short = OwnThread::start("short", async {});
        short.ended().await;
        let (dropped, told) = oneshot::channel::<()>();
        let mut long = OwnThread::start("long", async move {
            std::future::pending::<()>().await;
            drop(dropped);
        });
        long.abort();
        long.ended().await;
        assert!(told.await.is_err(), "what it held is gone with it");
    }

    #[tokio::test]
    async fn whoever_drops_it_aborts_it() {
        let (dropped, told) = oneshot::channel::<()>();
        let long = OwnThread::start("long", async move {
            std::future::pending::<()>().await;
            drop(dropped);
        });
        drop(long);
        assert!(told.await.is_err());
    }
}
