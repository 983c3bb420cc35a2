//! What a run says: a table of quotients, the figures behind it, and whether each bound is met.
//!
//! Verdicts are computed here and nowhere else.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::measure::{Figures, Spread};
use crate::rows::{Against, Bound, Row};

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
