//! What a node says about itself to native peers when a session begins.
//!
//! ```text
//! 1;node=ID;name=NAME;timeline=NUMBER;id=ID;begin=X/X
//! ```
//!
//! A name may hold any of these marks and words, so it is what lies between the first `name=` and
//! the last `;timeline=`. Fields of later versions may follow.

use std::fmt;

use mainstay_storage::{Lsn, Timeline};
use uuid::Uuid;

use crate::wire::NATIVE_VERSION;

/// Whom a client is connected with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) node: Uuid,
    pub(crate) name: String,
    pub(crate) timeline: Timeline,
    /// Where the cluster's first timeline begins.
    pub(crate) history_begin: Lsn,
}

impl Server {
    /// Nobody yet.
    pub(crate) const UNKNOWN: Self = Self {
        node: Uuid::nil(),
        name: String::new(),
        timeline: Timeline {
            number: 0,
            id: Uuid::nil(),
        },
        history_begin: Lsn::ZERO,
    };

    /// Reads what [`Display`](fmt::Display) writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once(";node=")?;
        let (node, rest) = rest.split_once(";name=")?;
        let (name, rest) = rest.rsplit_once(";timeline=")?;
        let (number, rest) = rest.split_once(";id=")?;
        let (id, rest) = rest.split_once(";begin=")?;
        let begin = rest.split(';').next()?;
        Some(Self {
            node: node.parse().ok()?,
            name: name.to_owned(),
            timeline: Timeline {
                number: number.parse().ok()?,
                id: id.parse().ok()?,
            },
            history_begin: begin.parse().ok()?,
        })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            node,
            name,
            timeline: Timeline { number, id },
            history_begin: begin,
        } = self;
        write!(
            f,
            "{NATIVE_VERSION};node={node};name={name};timeline={number};id={id};begin={begin}"
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_server() -> impl Strategy<Value = Server> {
        // Names that look like the rest, too.
        let name = "[a-z;= é]{1,9}(;(name|timeline|id|begin|node)=[0-9/]{0,3}){0,3}";
        let numbers = any::<(u128, u32, u128, u64)>();
        (name, numbers).prop_map(|(name, (node, number, id, begin))| Server {
            node: Uuid::from_u128(node),
            name,
            timeline: Timeline {
                number,
                id: Uuid::from_u128(id),
            },
            history_begin: Lsn::new(begin),
        })
    }

    proptest! {
        #[test]
        fn a_node_of_any_name_is_read_as_it_describes_itself(server in any_server()) {
            let text = server.to_string();
            prop_assert_eq!(Server::parse(&text), Some(server.clone()));
            let later = Server::parse(&format!("{text};more=1"));
            prop_assert_eq!(later, Some(server.clone()));
            // Only the last number may be cut without being noticed.
            for (len, _) in text.char_indices() {
                if let Some(cut) = Server::parse(&text[..len]) {
                    let history_begin = server.history_begin;
                    prop_assert_eq!(&Server { history_begin, ..cut }, &server);
                }
            }
        }

        #[test]
        fn any_description_is_read_or_refused_but_never_panics(text in "(;?[a-z]{0,8}=?\\PC{0,9}){0,6}") {
            let _ = Server::parse(&text);
        }
    }
}
