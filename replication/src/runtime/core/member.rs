//! Who this node is, from its name and its data. It knows no peers.

use mainstay_storage::Wal;
use uuid::Uuid;

use crate::cluster::Member;
use crate::error::Result;
use crate::protocol::name::NodeName;

/// This node as others shall know it, reached at `address`.
pub(super) fn of(name: &NodeName, wal: &Wal, address: String) -> Member {
    let identity = wal.identity();
    Member {
        name: name.clone(),
        node_id: identity.node_id,
        incarnation: identity.incarnation,
        address,
        priority: 100,
        votes: true,
    }
}

/// Claims the data for `name`: a copy of another node's files has none of the votes that its
/// original had.
///
/// # Errors
/// Disk errors.
pub(super) fn claim(name: &NodeName, wal: &Wal) -> Result<()> {
    if wal.claim(name.as_str(), Uuid::new_v4())? {
        let dir = wal.dir().display();
        tracing::warn!(
            %name, %dir,
            "these data were another node's: they start a new life, which counts once it has caught \
             up and the primary has logged its vote"
        );
    }
    Ok(())
}
