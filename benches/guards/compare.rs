//! Counts of instructions, as they are kept in a file, and what becomes of them.
//!
//! A case fails that needs more instructions than the tolerance allows, and one that needs less: a
//! guard that stands too high lets the next loss through. Whoever meant it writes the new counts
//! down, with the change that made them. With another compiler or another library below, counts
//! differ without anybody's fault, and only a large loss fails; those of another kind of processor,
//! for which other code is chosen, say nothing.

use std::collections::BTreeMap;
use std::fmt;

/// How far a count may be from the one in the file, in percent.
pub(crate) const TOLERANCE: f64 = 3.0;

/// How far a count may be above the one in the file where that was made elsewhere, in percent.
pub(crate) const TOLERANCE_ELSEWHERE: f64 = 25.0;

/// What two counts must have been made with to be compared at all.
const KIND: [&str; 2] = ["processor", "rustc host"];

const HEAD: &str = "\
# Instructions of each case in benches/guards/cases. `benches/guards/run` compares with these;
# `benches/guards/run --update` writes what it counted.
";
const MADE_WITH: &str = "made with ";

/// Counts, and what they were made with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Everything beside the code that counts depend on: what, and which.
    pub(crate) made_with: BTreeMap<String, String>,
    /// The instructions of each case.
    pub(crate) instructions: BTreeMap<String, u64>,
}

impl Counts {
    /// Reads the file.
    ///
    /// # Errors
    /// Which line is neither `made with WHAT: WHICH` nor `NAME COUNT`, or comes twice.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut counts = Self::default();
        for (at, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let new = match line.strip_prefix(MADE_WITH) {
                Some(rest) => rest.split_once(": ").map(|(what, which)| {
                    let made_with = &mut counts.made_with;
                    made_with
                        .insert(what.to_owned(), which.to_owned())
                        .is_none()
                }),
                None => line.rsplit_once(' ').and_then(|(name, count)| {
                    let count = count.parse().ok()?;
                    let name = name.trim_end().to_owned();
                    Some(counts.instructions.insert(name, count).is_none())
                }),
            };
            if new != Some(true) {
                return Err(format!(
                    "line {} of the counts is not understood: {line}",
                    at + 1
                ));
            }
        }
        Ok(counts)
    }

    /// These, with what was counted now, for the cases that there are.
    ///
    /// # Errors
    /// When some are left that were made elsewhere: one file holds counts of one place.
    pub(crate) fn updated(mut self, is: Self, cases: &[&str]) -> Result<Self, String> {
        self.instructions
            .retain(|name, _| cases.contains(&name.as_str()));
        self.instructions.extend(is.instructions.clone());
        if self.made_with != is.made_with && self.instructions != is.instructions {
            return Err("the other counts were made elsewhere: update all of them".to_owned());
        }
        self.made_with = is.made_with;
        Ok(self)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        for (what, which) in &self.made_with {
            writeln!(f, "{MADE_WITH}{what}: {which}")?;
        }
        for (name, count) in &self.instructions {
            writeln!(f, "{name:<18} {count:>10}")?;
        }
        Ok(())
    }
}

/// What became of one case.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing to speak of.
    None,
    /// It needs more than is allowed.
    Grew,
    /// It needs less than the file says.
    Shrank,
    /// The file does not know it.
    New,
    /// The file knows it, and there is no such case.
    Lost,
}

/// One row of the answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// Which case.
    pub(crate) name: String,
    was: Option<u64>,
    is: Option<u64>,
    /// What became of it.
    pub(crate) change: Change,
}

/// How two counts are compared.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// They were made with the same.
    Strict,
    /// One was made with another compiler or library.
    Wide,
    /// They were made for different processors, and are only shown.
    No,
}

/// The answer: a table, and whether all is as it was.
#[derive(Debug)]
pub(crate) struct Verdict {
    comparison: Comparison,
    /// In which ways the file's counts were made elsewhere.
    pub(crate) elsewhere: Vec<String>,
    /// One for each case that was counted or is lost.
    pub(crate) rows: Vec<Row>,
}

impl Verdict {
    /// Compares what was with what is; `cases` are all that there are, counted now or not.
    pub(crate) fn of(was: &Counts, is: &Counts, cases: &[&str]) -> Self {
        let mut elsewhere = Vec::new();
        let mut comparison = Comparison::Strict;
        for (what, here) in &is.made_with {
            let there = was.made_with.get(what).map_or("unknown", String::as_str);
            if there != here {
                elsewhere.push(format!("{what} was {there} and is {here}"));
                match KIND.contains(&what.as_str()) {
                    true => comparison = Comparison::No,
                    false if comparison == Comparison::Strict => comparison = Comparison::Wide,
                    false => {}
                }
            }
        }
        let counted = is.instructions.iter().map(|(name, &is)| {
            let was = was.instructions.get(name).copied();
            let name = name.clone();
            let change = change(was, is, comparison);
            Row {
                name,
                was,
                is: Some(is),
                change,
            }
        });
        let lost = was
            .instructions
            .iter()
            .filter(|(name, _)| !cases.contains(&name.as_str()));
        let lost = lost.map(|(name, &was)| {
            let (name, was) = (name.clone(), Some(was));
            Row {
                name,
                was,
                is: None,
                change: Change::Lost,
            }
        });
        let rows = counted.chain(lost).collect();
        Self {
            comparison,
            elsewhere,
            rows,
        }
    }

    /// How many cases failed.
    pub(crate) fn failed(&self) -> usize {
        let failed = self.rows.iter().filter(|row| row.change != Change::None);
        failed.count()
    }
}

fn change(was: Option<u64>, is: u64, comparison: Comparison) -> Change {
    let Some(was) = was else { return Change::New };
    let change = percent(was, is);
    match comparison {
        Comparison::Strict if change > TOLERANCE => Change::Grew,
        Comparison::Strict if change < -TOLERANCE => Change::Shrank,
        Comparison::Wide if change > TOLERANCE_ELSEWHERE => Change::Grew,
        _ => Change::None,
    }
}

/// By how much `is` is above `was`, in percent.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn percent(was: u64, is: u64) -> f64 {
    (is as f64 - was as f64) * 100.0 / (was.max(1) as f64)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.elsewhere {
            writeln!(f, "counted elsewhere: {difference}")?;
        }
        match self.comparison {
            Comparison::Strict => {}
            Comparison::Wide => {
                writeln!(
                    f,
                    "so only growth beyond {TOLERANCE_ELSEWHERE} % is a failure"
                )?;
            }
            Comparison::No => writeln!(f, "so nothing is compared, only shown")?,
        }
        writeln!(
            f,
            "{:<18} {:>12} {:>12} {:>10}",
            "case", "was", "is", "change"
        )?;
        for row in &self.rows {
            let number = |count: Option<u64>| count.map_or("-".to_owned(), |it| it.to_string());
            let change = row.was.zip(row.is).map(|(was, is)| percent(was, is));
            let change = change.map_or("-".to_owned(), |it| format!("{it:+.2} %"));
            let note = match row.change {
                Change::None => "",
                Change::Grew => "  grew",
                Change::Shrank => "  shrank",
                Change::New => "  is not in the file",
                Change::Lost => "  is no case any more",
            };
            let (name, was, is) = (&row.name, number(row.was), number(row.is));
            writeln!(f, "{name:<18} {was:>12} {is:>12} {change:>10}{note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(compiler: &str, instructions: &[(&str, u64)]) -> Counts {
        let pairs = instructions.iter();
        Counts {
            made_with: BTreeMap::from([("compiler".to_owned(), compiler.to_owned())]),
            instructions: pairs
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
        }
    }

    fn changes(was: &Counts, is: &Counts, cases: &[&str]) -> Vec<Change> {
        let rows = Verdict::of(was, is, cases).rows;
        rows.into_iter().map(|row| row.change).collect()
    }

    #[test]
    fn more_or_less_than_the_tolerance_fails_and_what_is_within_passes() {
        let was = counts("1", &[("a", 10_000)]);
        let passes = |is| Verdict::of(&was, &counts("1", &[("a", is)]), &["a"]).failed() == 0;
        assert!(passes(10_000) && passes(10_300) && passes(9_700));
        assert!(!passes(10_301), "it grew");
        assert!(!passes(9_699), "it shrank");
        let change = |is| changes(&was, &counts("1", &[("a", is)]), &["a"]);
        assert_eq!(change(10_301), [Change::Grew]);
        assert_eq!(change(9_699), [Change::Shrank]);
        assert_eq!(change(0), [Change::Shrank]);
    }

    #[test]
    fn counts_made_elsewhere_fail_only_where_they_grew_much() {
        let was = counts("1", &[("a", 10_000)]);
        let change = |is| changes(&was, &counts("2", &[("a", is)]), &["a"]);
        assert_eq!(change(12_500), [Change::None]);
        assert_eq!(change(12_501), [Change::Grew]);
        assert_eq!(change(1), [Change::None]);
        let verdict = Verdict::of(&was, &counts("2", &[]), &["a"]);
        assert_eq!(verdict.elsewhere, ["compiler was 1 and is 2"]);
    }

    #[test]
    fn counts_made_for_another_processor_are_shown_and_not_compared() {
        let (mut was, mut is) = (counts("1", &[("a", 10_000)]), counts("1", &[("a", 90_000)]));
        was.made_with
            .insert("processor".to_owned(), "avx2".to_owned());
        is.made_with
            .insert("processor".to_owned(), "neon".to_owned());
        let verdict = Verdict::of(&was, &is, &["a"]);
        assert_eq!(verdict.failed(), 0);
        let shown = verdict.to_string();
        assert!(
            shown.contains("only shown") && shown.contains("90000"),
            "{shown}"
        );
        // A case that nobody has counted yet is none the less missing.
        was.instructions.clear();
        assert_eq!(Verdict::of(&was, &is, &["a"]).failed(), 1);
        let unknown = Counts::default();
        let verdict = Verdict::of(&unknown, &counts("2", &[]), &["a"]);
        assert_eq!(verdict.elsewhere, ["compiler was unknown and is 2"]);
    }

    #[test]
    fn cases_that_only_one_side_knows_fail() {
        let (was, is) = (
            counts("1", &[("a", 5), ("b", 5)]),
            counts("1", &[("a", 5), ("c", 5)]),
        );
        let verdict = Verdict::of(&was, &is, &["a", "c"]);
        assert_eq!(verdict.failed(), 2);
        let found = changes(&was, &is, &["a", "c"]);
        assert_eq!(found, [Change::None, Change::New, Change::Lost]);
        // What was only not asked for is not lost.
        let one = counts("1", &[("a", 5)]);
        assert_eq!(Verdict::of(&was, &one, &["a", "b"]).failed(), 0);
        let shown = verdict.to_string();
        assert!(shown.contains("c                             -"), "{shown}");
        assert!(shown.contains("is no case any more"), "{shown}");
    }

    #[test]
    fn what_is_written_is_read_back_and_what_is_not_understood_is_named() {
        let counts = counts("rustc 1: x", &[("a", 5), ("commit-64", 123_456_789)]);
        assert_eq!(Counts::parse(&counts.to_string()), Ok(counts));
        for bad in [
            "a",
            "a b",
            "a -1",
            "made with x",
            "a 1\na 2",
            "made with a: 1\nmade with a: 1",
        ] {
            let error = Counts::parse(&format!("# it\n\n{bad}\n")).unwrap_err();
            assert!(error.contains("line"), "{error}");
        }
    }

    #[test]
    fn an_update_of_some_counts_keeps_the_others_if_they_were_made_here() {
        let was = counts("1", &[("a", 5), ("b", 5), ("gone", 5)]);
        let updated = was.clone().updated(counts("1", &[("b", 7)]), &["a", "b"]);
        assert_eq!(updated, Ok(counts("1", &[("a", 5), ("b", 7)])));
        let refused = was.clone().updated(counts("2", &[("b", 7)]), &["a", "b"]);
        assert!(refused.is_err(), "{refused:?}");
        let all = counts("2", &[("a", 6), ("b", 7)]);
        assert_eq!(was.updated(all.clone(), &["a", "b"]), Ok(all));
    }
}
