//! IDENTIFY_NODE: who this node is, and what a copy of its data would be.

use mainstay_storage::Lsn;

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
    let bytes = bytes.map(|stored| (stored + log).to_string());
    ResultSet::new(COLUMNS.map(Column::text).to_vec(), "IDENTIFY_NODE").with_row(Row::new([
        Some(core.name.as_str().to_owned()),
        Some(identity.node_id.to_string()),
        Some(identity.incarnation.to_string()),
        Some(core.role().as_str().to_owned()),
        Some(core.address()),
        bytes,
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
    let row = row.ok_or_else(|| client.broken("it did not say who it is"))?;
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
