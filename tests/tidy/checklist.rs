//! The checklist names tests that exist.

use super::{none, sources};

/// Columns of a row: number, what it proves, our test, verdict.
const COLUMNS: usize = 4;

/// Rows of the checklist whose test no source defines, and rows of another shape.
fn wrong(checklist: &str, defined: impl Fn(&str) -> bool) -> Vec<String> {
    let rows = checklist.lines().filter(|line| line.starts_with("| "));
    let rows = rows.filter(|line| !line.starts_with("| number |"));
    let mut wrong = Vec::new();
    for row in rows {
        let cells = row.trim_matches('|').split('|').map(str::trim);
        let cells = cells.collect::<Vec<_>>();
        let name = cells
            .get(2)
            .and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`'));
        match name {
            Some(name) if cells.len() == COLUMNS && defined(name) => {}
            Some(name) if cells.len() == COLUMNS => wrong.push(format!("no test is named {name}")),
            _ => wrong.push(format!("not a row: {row}")),
        }
    }
    wrong
}

#[test]
fn every_test_that_the_checklist_names_exists() {
    let checklist = sources::read("tests/CHECKLIST.md");
    let all = sources::sources();
    let defined = |name: &str| {
        let definition = format!("fn {name}(");
        all.iter()
            .any(|source| source.blanked.contains(&definition))
    };
    none("rows of the checklist", &wrong(&checklist, defined));
    let rows = checklist
        .lines()
        .filter(|line| line.starts_with("| 0"))
        .count();
    assert!(rows > 30, "{rows} rows are left");
}

#[test]
fn a_row_without_its_test_is_found() {
    let text = "| number | a | b | c |\n|---|---|---|---|\n| 001 | x | `here` | passes |\n\
                | 002 | x | `gone` | passes |\n| 003 | x | here | passes |\n";
    let found = wrong(text, |name| name == "here");
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0], "no test is named gone");
}
