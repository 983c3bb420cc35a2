//! House rules, checked.
