//! House rules, checked: who may import whom, how large things may grow, which words are not used.
//!
//! Cargo keeps the crates apart; inside a crate only a scan of the sources does. The scanners are
//! deliberately simple, and each is tested on small texts, so that a rule that cannot fail is
//! noticed. Nothing here runs any code of the product.
//!
//! A limit that the code does not keep yet stands in a list with its present size: a ratchet, which
//! may only be turned down.

mod canaries;
mod checklist;
mod documents;
mod errors;
mod layers;
mod packages;
mod scan;
mod sizes;
mod sources;
mod words;

/// Fails with all findings at once, or does nothing.
fn none(rule: &str, findings: &[String]) {
    assert!(
        findings.is_empty(),
        "{rule}:\n  {}\n",
        findings.join("\n  ")
    );
}
