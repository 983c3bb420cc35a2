//! Times of day as people and files write them: RFC 3339, in UTC, to the microsecond.

use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, SubsecRound as _, Utc};

/// Now, as exactly as it is written.
pub(crate) fn now() -> SystemTime {
    Utc::now().trunc_subsecs(6).into()
}

/// `2026-03-14T15:09:26.535897Z`.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    DateTime::<Utc>::from(at).to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Reads a time with any offset.
///
/// # Errors
/// What is expected instead.
pub(crate) fn parse(text: &str) -> Result<SystemTime, String> {
    let parsed = DateTime::parse_from_rfc3339(text);
    parsed.map(SystemTime::from).map_err(|error| {
        format!("{text:?} is no time of RFC 3339 such as 2026-03-14T15:09:26Z: {error}")
    })
}

/// For fields of structs, with `#[serde(with = "crate::moment::text")]`.
pub(crate) mod text {
    use std::time::SystemTime;

    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::rfc3339(*at))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        super::parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_reads_as_it_was_written() {
        let at = now();
        assert_eq!(parse(&rfc3339(at)), Ok(at));
        let epoch = rfc3339(SystemTime::UNIX_EPOCH);
        assert_eq!(epoch, "1970-01-01T00:00:00.000000Z");
        assert_eq!(
            parse("1970-01-01T02:00:00+02:00"),
            Ok(SystemTime::UNIX_EPOCH)
        );
        for bad in [
            "",
            "now",
            "2026-03-14",
            "2026-03-14T15:09",
            "2026-13-14T15:09:26Z",
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains("RFC 3339"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn every_microsecond_is_read_back(micros in 0..253_402_300_800_000_000u64, text in "\\PC{0,30}") {
            let at = SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
            let written = rfc3339(at);
            prop_assert_eq!(parse(&written), Ok(at));
            for len in 0..written.len() {
                prop_assert!(parse(&written[..len]).is_err(), "{}", &written[..len]);
            }
            let longer = format!("{written}x");
            prop_assert!(parse(&longer).is_err());
            let _ = parse(&text);
        }
    }
}
