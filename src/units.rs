//! Numbers as people read them.

/// `0 B`, `1.2 KB`, `18 MB`: three digits at most before the unit, one after the point below ten.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut value = to_f64(bytes);
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 9.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `0.3 ms`, `41 ms`, `2.1 s`.
pub(crate) fn millis(millis: f64) -> String {
    match millis {
        under if under < 9.95 => format!("{under:.1} ms"),
        under if under < 999.5 => format!("{under:.0} ms"),
        over => format!("{:.1} s", over / 1000.0),
    }
}

/// `251,380`.
#[cfg(feature = "node")]
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups = groups.map(|group| String::from_utf8_lossy(group).into_owned());
    groups.collect::<Vec<_>>().join(",")
}

/// A count as a float; beyond 2^53 it is the nearest one.
#[allow(clippy::cast_precision_loss, reason = "for people to read")]
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let shown = [
            0,
            999,
            1000,
            1234,
            9_949,
            9_960,
            18_400_000,
            999_499,
            999_600,
            1 << 40,
        ];
        let shown = shown.map(bytes);
        let expected = [
            "0 B", "999 B", "1.0 KB", "1.2 KB", "9.9 KB", "10 KB", "18 MB", "999 KB", "1.0 MB",
        ];
        assert_eq!(shown[..9], expected);
        assert_eq!(shown[9], "1.1 TB");
        assert_eq!(
            [0.04, 0.31, 9.96, 41.2, 2100.0].map(millis),
            ["0.0 ms", "0.3 ms", "10 ms", "41 ms", "2.1 s"]
        );
        assert_eq!(
            [0, 999, 1000, 251_380, 1_000_000].map(count),
            ["0", "999", "1,000", "251,380", "1,000,000"]
        );
    }
}
