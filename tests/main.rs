//! Integration tests of the whole product. One binary, so that it links once.

mod bad_input;
mod base_backup;
mod crash;
mod examples;
mod large_transaction;
mod stock_tools;
mod support;
mod tidy;
