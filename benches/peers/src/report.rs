//! What a run says: a table of quotients, the figures behind it, and whether each bound is met.
//!
//! Verdicts are computed here and nowhere else.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::measure::{Figures, Spread};
use super::rows::{Against, Bound, Row};

/// The rounds of one contender of a row.
pub(crate) struct Rounds {
    pub(crate) who: &'static str,
    pub(crate) rounds: Vec<Figures>,
}

/// A row with everything that was measured for it.
pub(crate) struct Measured {
    pub(crate) row: &'static Row,
    pub(crate) all: Vec<Rounds>,
}

/// A bound, and how it stands.
pub(crate) struct Judged {
    pub(crate) against: String,
    /// Quotient of the medians, or Mainstay's own figure.
    pub(crate) ratio: f64,
    /// The smallest and the largest quotient of the rounds that stand beside each other.
    pub(crate) spread: Spread,
    pub(crate) bound: Bound,
    pub(crate) verdict: &'static str,
}

impl Measured {
    fn values(&self, who: &str, figure: Option<&str>) -> Vec<f64> {
        let rounds = self.all.iter().find(|rounds| rounds.who == who);
        let rounds = rounds
            .map(|rounds| rounds.rounds.iter())
            .into_iter()
            .flatten();
        let value = |figures: &Figures| match figure {
            Some(name) => figures.get(name).unwrap_or_else(|| panic!("no {name}")),
            None => figures.value,
        };
        rounds.map(value).collect()
    }

    pub(crate) fn spread(&self, who: &str) -> Spread {
        Spread::of(self.values(who, self.row.figure))
    }

    pub(crate) fn judge(&self) -> Vec<Judged> {
        self.row
            .bounds
            .iter()
            .map(|bound| self.judged(*bound))
            .collect()
    }

    fn judged(&self, bound: Bound) -> Judged {
        let figure = self.row.figure;
        let (against, ratio, spread, less) = match bound.against {
            Against::Peer(peer) => {
                let (ours, theirs) = (self.values("mainstay", figure), self.values(peer, figure));
                let pairs = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs);
                let spread = Spread::of(pairs.collect());
                let ratio = Spread::of(ours).median / Spread::of(theirs).median;
                (peer.to_owned(), ratio, spread, self.row.less)
            }
            Against::Own(name) => {
                let spread = Spread::of(self.values("mainstay", Some(name)));
                (name.to_owned(), spread.median, spread, true)
            }
        };
        let meets =
            |limit: Option<f64>| limit.map(|limit| (ratio <= limit) == less || ratio == limit);
        let verdict = match (meets(bound.must), meets(bound.aim)) {
            (Some(false), _) => "missed",
            (_, Some(true)) => "aim",
            (Some(true), _) => "must",
            (None, _) => "short of the aim",
        };
        Judged {
            against,
            ratio,
            spread,
            bound,
            verdict,
        }
    }

    /// One object for each bound.
    pub(crate) fn json(&self) -> Vec<Value> {
        let who = self.all.iter().map(|rounds| {
            let also = rounds.rounds.iter().map(|round| {
                json!(
                    round
                        .also
                        .iter()
                        .cloned()
                        .collect::<std::collections::BTreeMap<_, _>>()
                )
            });
            let also = also.collect::<Vec<_>>();
            let entry = json!({ "figure": self.spread(rounds.who).json(), "rounds": also });
            (rounds.who.to_owned(), entry)
        });
        let who = Value::Object(who.collect());
        let judged = self.judge().into_iter();
        let judged = judged.map(|judged| {
            json!({
                "row": self.row.name,
                "question": self.row.question,
                "against": judged.against,
                "ratio": judged.ratio,
                "ratio_min": judged.spread.min,
                "ratio_max": judged.spread.max,
                "better": if self.row.less { "less" } else { "more" },
                "must": judged.bound.must,
                "aim": judged.bound.aim,
                "verdict": judged.verdict,
                "unit": self.row.unit,
                "measured": who,
            })
        });
        judged.collect()
    }
}

/// The table for people, in Markdown.
pub(crate) fn table(all: &[Measured]) -> String {
    let mut text = String::from(
        "| row | against | ratio | min .. max | must | aim | verdict |\n|---|---|---|---|---|---|---|\n",
    );
    for measured in all {
        let sign = |bound: Bound| match (bound.against, measured.row.less) {
            (Against::Peer(_), false) => "at least",
            _ => "at most",
        };
        for judged in measured.judge() {
            let limit = |limit: Option<f64>| {
                limit.map_or("-".to_owned(), |limit| {
                    format!("{} {}", sign(judged.bound), short(limit))
                })
            };
            let line = writeln!(
                text,
                "| `{}` | {} | {} | {} .. {} | {} | {} | {} |",
                measured.row.name,
                judged.against,
                short(judged.ratio),
                short(judged.spread.min),
                short(judged.spread.max),
                limit(judged.bound.must),
                limit(judged.bound.aim),
                judged.verdict,
            );
            line.expect("it is memory");
        }
    }
    text
}

/// The figures that the quotients are made of.
pub(crate) fn figures(all: &[Measured]) -> String {
    let mut text =
        String::from("| row | unit | who | min | median | max |\n|---|---|---|---|---|---|\n");
    for measured in all {
        for rounds in &measured.all {
            let spread = measured.spread(rounds.who);
            let line = writeln!(
                text,
                "| `{}` | {} | {} | {} | {} | {} |",
                measured.row.name,
                measured.row.unit,
                rounds.who,
                short(spread.min),
                short(spread.median),
                short(spread.max),
            );
            line.expect("it is memory");
        }
    }
    text
}

/// What Mainstay's nodes used while each row was measured.
pub(crate) fn used(all: &[Measured]) -> String {
    let mut text =
        String::from("| row | processor time, s | peak of a node, MiB |\n|---|---|---|\n");
    for measured in all {
        let median = |name| Spread::of(measured.values("mainstay", Some(name))).median;
        let (cpu, peak) = (median("used_cpu_s"), median("used_peak_mib"));
        let line = format!(
            "| `{}` | {} | {} |\n",
            measured.row.name,
            short(cpu),
            short(peak)
        );
        text.push_str(&line);
    }
    text
}

/// Three digits that count, without an exponent.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => {
            let whole = format!("{value:.0}");
            let mut text = String::new();
            for (at, digit) in whole.chars().enumerate() {
                if at > 0 && (whole.len() - at).is_multiple_of(3) && !text.ends_with('-') {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::ROWS;
    use super::*;

    fn measured(less: bool, bounds: &'static [Bound], ours: &[f64], theirs: &[f64]) -> Measured {
        let row = Row {
            less,
            bounds,
            ..ROWS[0]
        };
        let rounds = |values: &[f64]| {
            let figures = |value: &f64| Figures::of(*value).with("own", *value);
            values.iter().map(figures).collect()
        };
        let all = [("mainstay", ours), ("postgres", theirs)];
        let all = all.map(|(who, values)| Rounds {
            who,
            rounds: rounds(values),
        });
        Measured {
            row: Box::leak(Box::new(row)),
            all: all.into(),
        }
    }

    const fn bound(against: Against, must: Option<f64>, aim: Option<f64>) -> Bound {
        Bound { against, must, aim }
    }

    const PEER: Against = Against::Peer("postgres");

    fn verdicts(less: bool, bounds: &'static [Bound], ours: &[f64]) -> Vec<&'static str> {
        let judged = measured(less, bounds, ours, &[100.0, 50.0, 400.0]).judge();
        judged.iter().map(|judged| judged.verdict).collect()
    }

    #[test]
    fn a_verdict_is_the_highest_bound_that_the_quotient_of_the_medians_reaches() {
        const MORE: &[Bound] = &[bound(PEER, Some(2.0), Some(4.0))];
        assert_eq!(verdicts(false, MORE, &[199.0, 1.0, 900.0]), ["missed"]);
        assert_eq!(verdicts(false, MORE, &[200.0, 1.0, 900.0]), ["must"]);
        assert_eq!(verdicts(false, MORE, &[400.0, 1.0, 900.0]), ["aim"]);
        const LESS: &[Bound] = &[bound(PEER, Some(0.75), Some(0.5))];
        assert_eq!(verdicts(true, LESS, &[76.0, 1.0, 900.0]), ["missed"]);
        assert_eq!(verdicts(true, LESS, &[75.0, 1.0, 900.0]), ["must"]);
        assert_eq!(verdicts(true, LESS, &[50.0, 1.0, 900.0]), ["aim"]);
    }

    #[test]
    fn a_bound_without_a_must_is_never_missed_and_one_on_our_own_figure_is_a_limit() {
        const AIM: &[Bound] = &[bound(PEER, None, Some(1.0))];
        assert_eq!(verdicts(false, AIM, &[99.0]), ["short of the aim"]);
        assert_eq!(verdicts(false, AIM, &[100.0]), ["aim"]);
        const OWN: &[Bound] = &[bound(Against::Own("own"), Some(10.0), None)];
        // Whatever the row's figure is, our own is a limit.
        for less in [false, true] {
            assert_eq!(verdicts(less, OWN, &[11.0]), ["missed"]);
            assert_eq!(verdicts(less, OWN, &[10.0]), ["must"]);
        }
    }

    #[test]
    fn every_row_can_be_judged_and_its_aim_is_no_less_than_it_must_reach() {
        for row in ROWS {
            let twins = ROWS.iter().filter(|other| other.name == row.name);
            assert_eq!(twins.count(), 1, "{}", row.name);
            assert_eq!(row.who.first(), Some(&"mainstay"), "{}", row.name);
            assert!(ROWS.iter().any(|other| other.name == row.rounds_of()));
            assert!(!row.bounds.is_empty(), "{}", row.name);
            for Bound { against, must, aim } in row.bounds {
                let limit = matches!(against, Against::Own(_)) || row.less;
                if let Against::Peer(peer) = against {
                    assert!(row.who.contains(peer), "{} against {peer}", row.name);
                }
                if let (Some(must), Some(aim)) = (must, aim) {
                    assert_eq!(aim <= must, limit, "{}: {must} and {aim}", row.name);
                }
            }
        }
    }

    #[test]
    fn json_says_what_the_table_says() {
        const BOUNDS: &[Bound] = &[bound(PEER, Some(0.5), Some(2.0))];
        let measured = measured(false, BOUNDS, &[150.0, 50.0, 80.0], &[100.0, 100.0, 200.0]);
        let [row] = &measured.json()[..] else {
            panic!("one bound")
        };
        assert_eq!(
            (&row["ratio"], &row["verdict"]),
            (&json!(0.8), &json!("must"))
        );
        let rounds = (&row["ratio_min"], &row["ratio_max"]);
        assert_eq!(rounds, (&json!(0.4), &json!(1.5)));
        assert!(table(&[measured]).contains("| postgres | 0.80 | 0.40 .. 1.50 |"));
    }

    #[test]
    fn figures_are_short() {
        let shown = [0.0, 0.123, 9.994, 12.34, 999.4, 1_234_567.0, -1234.0].map(short);
        let expected = ["0.00", "0.12", "9.99", "12.3", "999", "1,234,567", "-1,234"];
        assert_eq!(shown, expected);
    }
}
