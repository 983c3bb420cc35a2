//! Keys and values as text: in URLs and in JSON.
//!
//! Keys and values are bytes. In a URL every byte that is not a letter, digit or one of `-._~` is
//! percent-encoded; in JSON a field holds the text, and where the bytes are not UTF-8 its twin
//! named `.._base64` holds them instead. Nothing here guesses: what cannot be decoded is an error.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde_json::{Map, Value};

const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// `bytes` as one segment of a URL's path, or a value in its query.
pub(crate) fn url_encode(bytes: &[u8]) -> String {
    match bytes {
        // Some HTTP libraries resolve these two, even percent-encoded ones are not always safe.
        b"." => "%2E".to_owned(),
        b".." => "%2E%2E".to_owned(),
        _ => percent_encode(bytes, ENCODED).to_string(),
    }
}

/// The bytes that `text` of a URL stands for.
///
/// # Errors
/// What is wrong, when a `%` is not followed by two hexadecimal digits.
pub(crate) fn url_decode(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let decoded = after.split_first_chunk::<2>().and_then(|(digits, after)| {
            let digits = std::str::from_utf8(digits).ok()?;
            let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let byte = u8::from_str_radix(digits, 16).ok().filter(|_| plain)?;
            Some((byte, after))
        });
        let Some((byte, after)) = decoded else {
            let at = text.len() - rest.len();
            return Err(format!(
                "the % at byte {at} is not followed by two hexadecimal digits; write %25 for a %"
            ));
        };
        bytes.push(byte);
        rest = after;
    }
    Ok(bytes)
}

/// Adds `bytes` to `object` as `field`, or as `field_base64` when they are not UTF-8.
pub(crate) fn put_json(object: &mut Map<String, Value>, field: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(field.to_owned(), text.into()),
        Err(_) => {
            let text = BASE64_STANDARD.encode(bytes);
            object.insert(format!("{field}_base64"), text.into())
        }
    };
}

/// The bytes of a field given as text, or as base64, but not as both.
///
/// # Errors
/// What is wrong, naming `field`.
pub(crate) fn from_json(
    field: &str,
    text: Option<String>,
    base64: Option<String>,
) -> Result<Vec<u8>, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(base64)) => BASE64_STANDARD
            .decode(base64)
            .map_err(|error| format!("`{field}_base64` is not base64: {error}")),
        (Some(_), Some(_)) => Err(format!("`{field}` and `{field}_base64` are both given")),
        (None, None) => Err(format!("`{field}` (or `{field}_base64`) is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_a_url() {
        let all = (0..=255).collect::<Vec<u8>>();
        let text = url_encode(&all);
        assert!(text.is_ascii() && !text.contains(['/', '?', '#', '+', ' ', '&']));
        assert_eq!(url_decode(&text), Ok(all));
        assert_eq!(url_encode(b"a-b_c.d~e"), "a-b_c.d~e");
        assert_eq!(url_decode(&url_encode(b"..")), Ok(b"..".to_vec()));
        assert_eq!(url_decode("a+b%2Fc"), Ok(b"a+b/c".to_vec()));
    }

    #[test]
    fn a_stray_percent_sign_is_named_with_its_place() {
        for (bad, at) in [
            ("50%", 2),
            ("%", 0),
            ("a%2", 1),
            ("%zz", 0),
            ("%+1", 0),
            ("%é", 0),
        ] {
            let error = url_decode(bad).unwrap_err();
            assert!(
                error.starts_with(&format!("the % at byte {at} ")),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn bytes_that_are_not_text_travel_as_base64() {
        let mut object = Map::new();
        put_json(&mut object, "key", "grün".as_bytes());
        put_json(&mut object, "value", &[0xFF, 0]);
        let json = Value::Object(object).to_string();
        assert_eq!(json, r#"{"key":"grün","value_base64":"/wA="}"#);
        assert_eq!(
            from_json("value", None, Some("/wA=".into())),
            Ok(vec![0xFF, 0])
        );
        assert_eq!(
            from_json("value", Some("x".into()), None),
            Ok(b"x".to_vec())
        );
    }

    #[test]
    fn a_field_given_twice_not_at_all_or_wrongly_is_refused() {
        let some = || Some("!".to_owned());
        let error = from_json("value", some(), some()).unwrap_err();
        assert_eq!(error, "`value` and `value_base64` are both given");
        let error = from_json("key", None, None).unwrap_err();
        assert_eq!(error, "`key` (or `key_base64`) is missing");
        assert!(
            from_json("key", None, some())
                .unwrap_err()
                .starts_with("`key_base64` is not")
        );
    }
}
