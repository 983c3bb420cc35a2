//! Keys and values as text: in URLs and in JSON.
//!
//! Keys and values are bytes. In a URL every byte that is not a letter, digit or one of `-._~` is
//! percent-encoded; in JSON a field holds the text, and where the bytes are not UTF-8 its twin
//! named `.._base64` holds them instead. Nothing here guesses: what cannot be decoded is an error.

#[cfg(feature = "node")]
mod url;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

#[cfg(feature = "node")]
pub(crate) use url::{url_decode, url_encode};

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
#[cfg(feature = "node")]
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

#[cfg(all(test, feature = "node"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

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

    proptest! {
        #[test]
        fn any_bytes_survive_json(bytes in prop::collection::vec(any::<u8>(), 0..20), text in "\\PC{0,9}") {
            for bytes in [bytes, text.clone().into_bytes()] {
                let mut object = Map::new();
                put_json(&mut object, "value", &bytes);
                let json = Value::Object(object).to_string();
                let read: Map<String, Value> = serde_json::from_str(&json).unwrap();
                let field = |name: &str| Some(read.get(name)?.as_str()?.to_owned());
                prop_assert_eq!(from_json("value", field("value"), field("value_base64")), Ok(bytes));
                for len in 0..json.len() {
                    let cut = serde_json::from_slice::<Map<String, Value>>(&json.as_bytes()[..len]);
                    prop_assert!(cut.is_err());
                }
            }
            let _ = from_json("value", None, Some(text));
        }
    }
}
