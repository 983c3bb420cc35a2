//! Packages: those the product stands on are declared and used, and no others are declared.

use super::none;
use super::scan::paths;
use super::sources::{read, sources};

/// What the product is asked to stand on.
const EXPECTED: [&str; 9] = [
    "tokio",
    "uuid",
    "chrono",
    "crc32fast",
    "tracing",
    "serde",
    "bincode",
    "parking_lot",
    "tokio-stream",
];

/// Each manifest and where its sources lie.
const CRATES: [(&str, &str); 3] = [
    ("Cargo.toml", "src"),
    ("storage/Cargo.toml", "storage/src"),
    ("replication/Cargo.toml", "replication/src"),
];

/// The only version whose bytes lie in our files.
const BINCODE: &str = "2.0.1";

/// The packages in the section `[section]` of a manifest.
fn declared(manifest: &str, section: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line == format!("[{section}]");
        } else if inside && !line.starts_with('#') {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if !name.is_empty() && line.contains('=') {
                found.push(name.to_owned());
            }
        }
    }
    found
}

fn uses(code: &str, package: &str) -> bool {
    let name = package.replace('-', "_");
    let prefix = format!("{name}::");
    let found = paths(code);
    found
        .iter()
        .any(|path| path.starts_with(&prefix) || *path == name)
}

#[test]
fn every_declared_package_is_used_and_the_expected_ones_are_declared() {
    let all = sources();
    let mut unused = Vec::new();
    let mut in_use = Vec::new();
    for (manifest, folder) in CRATES {
        for package in declared(&read(manifest), "dependencies") {
            let mut code = all.iter().filter(|source| source.is_in(folder));
            if code.any(|source| uses(&source.code, &package)) {
                in_use.push(package);
            } else {
                unused.push(format!("{package} in {manifest}"));
            }
        }
    }
    none("declared and never used", &unused);
    let missing = EXPECTED
        .iter()
        .filter(|name| !in_use.iter().any(|used| used == *name));
    let missing = missing.map(|name| (*name).to_owned()).collect::<Vec<_>>();
    none("expected and not used by any crate", &missing);
}

#[test]
fn bincode_is_the_version_whose_bytes_lie_in_our_files() {
    let manifest = read("Cargo.toml");
    let pinned = format!("bincode = {{ version = \"={BINCODE}\"");
    assert!(manifest.contains(&pinned), "Cargo.toml must say: {pinned}");
    let lock = read("Cargo.lock");
    let locked = lock
        .split("[[package]]")
        .filter(|package| package.contains("\nname = \"bincode\"\n"));
    let other = locked.filter(|package| !package.contains(&format!("version = \"{BINCODE}\"")));
    assert_eq!(
        other.count(),
        0,
        "Cargo.lock holds another bincode than {BINCODE}"
    );
}

#[test]
fn the_members_are_two() {
    let manifest = read("Cargo.toml");
    assert!(manifest.contains("members = [\"storage\", \"replication\"]"));
}

#[test]
fn each_direct_dependency_has_its_reason() {
    let reasons = read("ARCHITECTURE.md");
    let mut bare = Vec::new();
    for (manifest, _) in CRATES {
        for section in ["dependencies", "dev-dependencies"] {
            for package in declared(&read(manifest), section) {
                let own = package.split('-').next() == Some("mainstay");
                if !own && !reasons.contains(&format!("| `{package}` |")) {
                    bare.push(format!("{package} of {manifest}"));
                }
            }
        }
    }
    none("not in the table of dependencies of ARCHITECTURE.md", &bare);
}

#[test]
fn a_manifest_is_read_and_a_use_is_found() {
    let manifest = "[dependencies]\n# tokio\na.workspace = true\nb-c = { version = \"1\" }\n\
                    [dev-dependencies]\nd = \"1\"\n";
    assert_eq!(declared(manifest, "dependencies"), ["a", "b-c"]);
    assert_eq!(declared(manifest, "dev-dependencies"), ["d"]);
    assert!(uses("use b_c::X;", "b-c") && uses("b_c::f()", "b-c"));
    assert!(!uses("use x::b_c::Y; let b_cd = 1;", "b-c"));
}
