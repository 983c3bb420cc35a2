//! Orders that are carried out to their end, whoever gives up waiting for it.
//!
//! A future that is dropped stops where it is, and one that serves a request over HTTP is dropped
//! when its client goes away. A change of role that stops halfway would leave a node that nobody
//! can use, or two that take writes. So each is a task of its own. What an order does is not known
//! here.

use std::panic::resume_unwind;

use crate::error::Error;

/// Carries out `order` as a task of its own, and returns what became of it.
///
/// # Panics
/// Where the order does.
pub(super) async fn to_its_end<T, E>(
    order: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    match tokio::spawn(order).await {
        Ok(ended) => ended,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime ends, and everything with it.
            Err(_) => Err(Error::Stopped.into()),
        },
    }
}
