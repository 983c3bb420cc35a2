//! Builds that are broken on purpose, to see that the tests would notice.
//!
//! At the place of a rule that must hold stands `canary("name")`, and what would happen without the
//! rule. In every build that anybody uses this is the constant `false`. Only where the compiler is
//! given `--cfg canary`, as `tests/canaries` does, the environment variable `MAINSTAY_CANARY` names
//! one rule that the process breaks. `tests/CANARIES.md` says which tests noticed.

/// Whether this process breaks the rule `name`.
#[cfg(not(canary))]
#[doc(hidden)]
#[inline(always)]
pub const fn canary(_name: &str) -> bool {
    false
}

/// Whether this process breaks the rule `name`.
#[cfg(canary)]
#[doc(hidden)]
pub fn canary(name: &str) -> bool {
    static BROKEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let broken = BROKEN.get_or_init(|| std::env::var("MAINSTAY_CANARY").ok());
    broken.as_deref() == Some(name)
}
