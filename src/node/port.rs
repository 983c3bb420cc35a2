//! A node's port stays its own while it turns from one life to the next.
//!
//! Between two lives nobody listens, and whoever connects is refused, as they should be: there is
//! nobody to answer. But the system would give the port to the next that wants any, and the node
//! could not live again.

use mainstay_replication::WalStreamingConfig;
use tokio::net::{TcpSocket, lookup_host};

/// Binds the port that `config` names, or a free one, without listening, and puts it in the
/// config. As long as this is kept, a life can listen there, and nobody else is given the port.
///
/// `None` where that cannot be had; listening then tells why, if it fails as well.
pub(super) async fn keep(config: &mut WalStreamingConfig) -> Option<TcpSocket> {
    // Other systems do not let a life listen where something is bound already.
    if !cfg!(target_os = "linux") {
        return None;
    }
    let configured = config.listen.clone()?;
    let resolved = lookup_host(configured).await.ok()?;
    for address in resolved {
        let socket = match address.is_ipv4() {
            true => TcpSocket::new_v4(),
            false => TcpSocket::new_v6(),
        };
        let bound = socket.and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let address = socket.local_addr()?;
            Ok((socket, address))
        });
        if let Ok((socket, address)) = bound {
            config.listen = Some(address.to_string());
            return Some(socket);
        }
    }
    None
}
