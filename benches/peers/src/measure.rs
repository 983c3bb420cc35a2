//! Figures: many samples of a round become a few numbers, and the rounds a median with its spread.

use std::time::Duration;

use serde_json::{Value, json};

/// What one round of one contender gave: the figure that is compared, and others worth reading.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) value: f64,
    pub(crate) also: Vec<(String, f64)>,
}

impl Figures {
    pub(crate) fn of(value: f64) -> Self {
        let also = Vec::new();
        Self { value, also }
    }

    pub(crate) fn with(mut self, name: &str, value: f64) -> Self {
        self.also.push((name.to_owned(), value));
        self
    }

    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        let named = self.also.iter().find(|(known, _)| known == name);
        named.map(|(_, value)| *value)
    }
}

/// The middle of some rounds and how far they lie apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// # Panics
    /// Without any values.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let last = values.len() - 1;
        let (low, high) = (values[last / 2], values[last.div_ceil(2)]);
        Self {
            min: values[0],
            median: f64::midpoint(low, high),
            max: values[last],
        }
    }

    pub(crate) fn json(self) -> Value {
        json!({ "min": self.min, "median": self.median, "max": self.max })
    }
}

/// Latencies of one round, in microseconds.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Vec<f64>);

impl Latencies {
    pub(crate) fn record(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e6);
    }

    pub(crate) fn push_micros(&mut self, micros: f64) {
        self.0.push(micros);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The usual percentiles, zero where nothing was measured.
    pub(crate) fn percentiles(&mut self) -> [(&'static str, f64); 4] {
        self.0.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let last = self.0.len().saturating_sub(1) as f64;
            self.0.get((last * part) as usize).copied().unwrap_or(0.0)
        };
        [
            ("p50", at(0.5)),
            ("p95", at(0.95)),
            ("p99", at(0.99)),
            ("max", at(1.0)),
        ]
    }
}
