//! What `WalReplicator` promises to the author of an engine, verb by verb.

mod append;
mod events;
mod lifecycle;
mod overlap;
mod policy;
mod proxy;
mod refusals;
mod standbys;
mod stores;
mod streams;
mod subscribe;
mod takeover;
