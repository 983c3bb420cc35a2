//! The guards of instruction counts, as far as that needs no counting: what is counted does its
//! work, and what is compared fails when it should (the tests in `benches/guards/compare.rs`).
//!
//! The counting itself, in release and under callgrind, is `./benches/guards/run`.

#[path = "../benches/guards"]
mod benches {
    pub(super) mod cases;
    pub(super) mod compare;
}

use benches::cases::{ALL, find};
use benches::compare::Counts;

#[test]
fn every_case_does_its_work_and_has_a_count() {
    let counts = Counts::parse(include_str!("../benches/guards/counts.txt")).unwrap();
    for (name, case) in ALL {
        let dir = tempfile::tempdir().unwrap();
        case(dir.path());
        assert!(
            counts.instructions.contains_key(name),
            "{name} has no count"
        );
    }
    assert_eq!(counts.instructions.len(), ALL.len(), "a name comes twice");
    assert!(find("append-1").is_some() && find("append").is_none());
}
