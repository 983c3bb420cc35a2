//! Integration tests of the whole product. One binary, so that it links once.

mod apply;
mod bad_input;
mod base_backup;
mod cascade;
mod catch_up;
mod crash;
mod database;
mod events;
mod examples;
mod exposure;
mod large_transaction;
mod node;
mod outcome;
mod promotions;
mod rejoin;
mod scenarios;
mod slots;
mod slow_clients;
mod stock_tools;
mod support;
mod switchover;
mod sync_policy;
mod tidy;
