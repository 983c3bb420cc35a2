//! Names of nodes, as policies, voters and connections use them.
//!
//! A [`NodeName`] compares without regard to ASCII case, as PostgreSQL compares the names in
//! `synchronous_standby_names`; it is folded once, where it enters. Nothing here knows what a node
//! is.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// Longest name in bytes, PostgreSQL's limit for an identifier.
pub const NAME_BYTES_MAX: usize = 63;

/// A node's name in lower case: 1 to [`NAME_BYTES_MAX`] bytes, no control characters, not `*`.
///
/// ```
/// use mainstay_replication::protocol::name::NodeName;
/// let name: NodeName = "Berlin".parse().unwrap();
/// assert_eq!(name.as_str(), "berlin");
/// ```
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct NodeName(String);

/// A text that cannot name a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot name a node: {1}")]
pub struct NameError(String, &'static str);

impl NodeName {
    /// The name as text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let why = if text.is_empty() {
            "it is empty"
        } else if text.len() > NAME_BYTES_MAX {
            "it is longer than 63 bytes"
        } else if text == "*" {
            "`*` stands for all voters"
        } else if text.chars().any(char::is_control) || text.trim() != text {
            "it has control characters, or blanks at an end"
        } else {
            return Ok(Self(text.to_ascii_lowercase()));
        };
        Err(NameError(text.chars().take(NAME_BYTES_MAX).collect(), why))
    }
}

impl Borrow<str> for NodeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_fold_case_and_refuse_what_cannot_be_written_in_a_policy() {
        assert_eq!("A".parse::<NodeName>(), "a".parse());
        for bad in ["", "*", " a", "a\n", &"x".repeat(64)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?} was taken");
        }
        let longest = "x".repeat(NAME_BYTES_MAX).parse::<NodeName>().unwrap();
        // A set of names is asked with text.
        let names = std::collections::BTreeSet::from(["a".parse().unwrap(), longest]);
        assert!(names.contains("a") && names.contains("x".repeat(63).as_str()));
        assert!(!names.contains("x"));
    }

    proptest! {
        #[test]
        fn a_name_is_read_back_and_anything_else_refused(text in "\\PC{0,70}|[ *\u{0}-\u{1f}a]{0,3}") {
            if let Ok(name) = text.parse::<NodeName>() {
                prop_assert!((1..=NAME_BYTES_MAX).contains(&name.as_str().len()));
                prop_assert_eq!(name.as_str().parse(), Ok(name.clone()));
                prop_assert!(name.as_str().eq_ignore_ascii_case(&text));
            }
        }
    }
}
