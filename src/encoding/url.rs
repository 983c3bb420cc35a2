//! Bytes as part of a URL, percent-encoded.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn any_bytes_survive_a_url_and_any_text_is_read_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..20),
            text in "(%|[0-9a-f]|\\PC){0,12}",
        ) {
            let written = url_encode(&bytes);
            prop_assert_eq!(url_decode(&written), Ok(bytes.clone()));
            for len in 0..written.len() {
                // Cut inside of an escape it is refused, else it is a part.
                let cut = url_decode(&written[..len]);
                prop_assert!(cut.is_ok_and(|cut| bytes.starts_with(&cut)) || written[..len].contains('%'));
            }
            if let Ok(read) = url_decode(&text) {
                prop_assert_eq!(url_decode(&url_encode(&read)), Ok(read));
            }
        }
    }
}
