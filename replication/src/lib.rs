//! PostgreSQL's streaming replication protocol, its state machines and their drivers.

pub mod wire;
