//! PostgreSQL's streaming replication protocol, its state machines and their drivers.

pub mod protocol;
pub mod time;
