//! IDENTIFY_NODE: who this node is, and what a copy of its data would be.

use mainstay_storage::{Identity, Lsn};

use crate::config::Role;
use crate::error::{Error, Result};
use crate::protocol::rebuild::Offer;
use crate::runtime::backup::{STORE, files};
use crate::runtime::client::Client;
use crate::runtime::core::Core;
use crate::wire::command::Command;
use crate::wire::result::ResultSet;
use crate::wire::{Column, Row};

/// Columns of the answer.
const COLUMNS: [&str; 7] = [
    "name",
    "node_id",
    "incarnation",
    "role",
    "address",
    "copy_bytes",
    "commit",
];

/// The answer. It looks at the sizes of files, on a thread that may wait for the disk.
pub(crate) async fn serve(core: &Core) -> ResultSet {
    let identity = core.wal.identity();
    let store = core.wal.dir().join(STORE);
    let stored = tokio::task::spawn_blocking(move || files::bytes_below(&store)).await;
    let commit = core.wal.commit().get();
    let size = core.wal.segment_size();
    let log = commit.bytes_since(size.start_of(size.segment_of(core.wal.control().checkpoint)));
    let bytes = stored.ok().and_then(std::result::Result::ok);
    let bytes = bytes.map(|stored| stored + log);
    let name = core.name.as_str();
    answer(name, identity, core.role(), core.address(), bytes, commit)
}

fn answer(
    name: &str,
    identity: Identity,
    role: Role,
    address: String,
    copy_bytes: Option<u64>,
    commit: Lsn,
) -> ResultSet {
    ResultSet::new(COLUMNS.map(Column::text).to_vec(), "IDENTIFY_NODE").with_row(Row::new([
        Some(name.to_owned()),
        Some(identity.node_id.to_string()),
        Some(identity.incarnation.to_string()),
        Some(role.as_str().to_owned()),
        Some(address),
        copy_bytes.map(|bytes| bytes.to_string()),
        Some(commit.to_string()),
    ]))
}

/// Asks what a copy of that node's data would be; `None` when it does not know.
///
/// # Errors
/// Connection errors, an answer that cannot be read.
pub(crate) async fn offer(client: &mut Client) -> Result<Option<Offer>> {
    let answer = client.rows(&Command::IdentifyNode).await?;
    let row = answer.sets.first().and_then(|set| set.rows.first());
    read(row.ok_or_else(|| client.broken("it did not say who it is"))?)
}

fn read(row: &Row) -> Result<Option<Offer>> {
    let unreadable = || Error::Invalid("the node's answer cannot be read".to_owned());
    let commit = row.text(6).and_then(|text| text.parse::<Lsn>().ok());
    let commit = commit.ok_or_else(unreadable)?;
    let primary = row.text(3) == Some(Role::Primary.as_str());
    let Some(bytes) = row.text(5) else {
        return Ok(None);
    };
    let copy_bytes = bytes.parse().map_err(|_| unreadable())?;
    Ok(Some(Offer {
        primary,
        copy_bytes,
        commit,
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::wire::strict::any_answer;

    proptest! {
        #[test]
        fn what_a_copy_would_be_is_read_as_it_was_answered(
            ids: [u128; 2],
            role in prop::sample::select(vec![Role::Primary, Role::Standby, Role::Fenced]),
            copy_bytes: Option<u64>,
            commit: u64,
        ) {
            let [node_id, incarnation] = ids.map(Uuid::from_u128);
            let (identity, commit) = (Identity { system_id: 1, node_id, incarnation }, Lsn::new(commit));
            let primary = role == Role::Primary;
            let mut answer = answer("a", identity, role, "a:1".into(), copy_bytes, commit);
            let offer = copy_bytes.map(|copy_bytes| Offer { primary, copy_bytes, commit });
            prop_assert_eq!(read(&answer.rows[0]).unwrap(), offer);
            answer.rows[0].0.pop();
            prop_assert!(read(&answer.rows[0]).is_err());
        }

        #[test]
        fn any_answer_is_read_or_refused_but_never_panics(set in any_answer()) {
            for row in &set.rows {
                let _ = read(row);
            }
        }
    }
}
