//! The default store, on the `lsm-tree` crate.

#[cfg(test)]
mod assumptions;
#[cfg(test)]
mod fixture;
