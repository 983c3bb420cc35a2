//! The locks, conditions, counters and threads of whatever several threads of this crate share.
//!
//! In every build that anybody uses these are parking_lot's and the standard library's themselves.
//! Where the compiler is given `--cfg shuttle`, as `tests/schedules` does, the unit tests get twins
//! whose every step is a point at which shuttle may let another thread go on: so a test decides by
//! a seed who runs when (`schedules.rs`). The twins are sequentially consistent; what a weaker
//! ordering of memory would allow is not tried.

#[cfg(not(all(test, shuttle)))]
pub(crate) use std::{
    sync::atomic::{AtomicBool, AtomicU64},
    thread,
};

#[cfg(not(all(test, shuttle)))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};

#[cfg(all(test, shuttle))]
pub(crate) use self::twins::{Condvar, Mutex, MutexGuard, RwLock};
#[cfg(all(test, shuttle))]
pub(crate) use shuttle::{
    sync::RwLockReadGuard,
    sync::atomic::{AtomicBool, AtomicU64},
    thread,
};

#[cfg(all(test, shuttle))]
mod twins;
