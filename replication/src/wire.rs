//! The bytes on the node's port.
//!
//! Everything a peer sends or is sent is read and written here: PostgreSQL's wire protocol, its
//! streaming replication messages bit by bit as stock tools expect them, and the few messages
//! that native peers negotiate on top (`_pq_.mainstay`). Each direction of a connection is a
//! chain of three steps, and each step is a plain function of its input:
//!
//! ```text
//! bytes --frame--> Frame (type, body) --backend / frontend--> message
//!                                       message --replication / command / result--> meaning
//! ```
//!
//! The room promises that no input panics, that a length is checked against a named limit before
//! anything is allocated for it, and that payload bytes are passed on without being copied. It
//! refuses to know sockets, disks, clocks, randomness and what an answer should be: times and
//! nonces come in as arguments, and a session decides.

mod admission;
mod backend;
mod backup;
pub mod command;
mod cursor;
mod error;
mod frame;
mod frontend;
#[cfg(test)]
mod goldens;
mod login;
pub mod replication;
mod report;
pub mod result;
mod row;
pub mod scram;
mod secret;
pub mod sqlstate;
mod startup;
#[cfg(test)]
pub(crate) mod strict;

pub use admission::{Admission, Admitted, Guard};
pub use backend::{Authentication, BackendMessage, CopyFormat, TransactionStatus};
pub use backup::BackupMessage;
pub use error::{Result, WireError};
pub use frame::*;
pub use frontend::{FrontendMessage, SaslInitialResponse};
pub(crate) use login::DESCRIPTION;
pub use login::{LoggedIn, Login};
pub use report::{ERROR_FIELD_MAX, ErrorFields, Severity};
pub use row::{Column, Row, oid};
pub use secret::Secret;
pub use startup::{
    CancelRequest, NATIVE_OPTION, NATIVE_VERSION, Negotiation, PROTOCOL_MINOR, ReplicationMode,
    StartupMessage, encode_ssl_request,
};
