//! The nodes that are asked, and which of them the clients take for the primary.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::cli::Failure;
use crate::client::Client;

/// The addresses of a cluster's nodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    addresses: Vec<String>,
    token: Option<String>,
    /// Which of the addresses is asked.
    current: AtomicUsize,
}

/// A connection to the node that is asked.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    nodes: &'a Nodes,
    at: usize,
    client: Client,
}

impl Nodes {
    /// # Panics
    /// Without an address.
    pub(crate) fn new(addresses: Vec<String>, token: Option<String>) -> Self {
        assert!(!addresses.is_empty(), "somebody has to be asked");
        Self {
            addresses,
            token,
            current: AtomicUsize::new(0),
        }
    }

    pub(crate) fn session(&self) -> Session<'_> {
        let at = self.current.load(Ordering::Relaxed);
        Session {
            nodes: self,
            at,
            client: self.client(at),
        }
    }

    /// The address that is asked now.
    pub(crate) fn address(&self) -> &str {
        &self.addresses[self.current.load(Ordering::Relaxed)]
    }

    /// Finds the primary among the nodes, and returns its status.
    ///
    /// # Errors
    /// None of them is it; what the first says, or why it does not.
    pub(crate) fn find_primary(&self) -> Result<Value, Failure> {
        let mut first = None;
        for at in 0..self.addresses.len() {
            let failure = match self.client(at).status() {
                Ok(status) if status["role"] == "primary" => {
                    self.current.store(at, Ordering::Relaxed);
                    return Ok(status);
                }
                Ok(status) => no_primary(&self.addresses[at], &status),
                Err(error) => error.into(),
            };
            first.get_or_insert(failure);
        }
        Err(first.expect("there is an address"))
    }

    fn client(&self, at: usize) -> Client {
        Client::new(&self.addresses[at], self.token.clone())
    }
}

impl Session<'_> {
    /// A client of the node that is asked now; the same one as long as that does not change.
    pub(crate) fn client(&mut self) -> &Client {
        let current = self.nodes.current.load(Ordering::Relaxed);
        if current != self.at {
            self.at = current;
            self.client = self.nodes.client(current);
        }
        &self.client
    }

    /// Lets everybody ask the next node, unless another session has seen to it already.
    pub(crate) fn leave(&self) {
        let next = (self.at + 1) % self.nodes.addresses.len();
        // Where it is another one by now, somebody else was faster.
        let _ = self.nodes.current.compare_exchange(
            self.at,
            next,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }
}

fn no_primary(address: &str, status: &Value) -> Failure {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let (name, role) = (text(&status["name"]), text(&status["role"]));
    let upstream = match status["upstream"]["name"].as_str() {
        Some(upstream) => format!(" It follows {upstream}."),
        None => String::new(),
    };
    Failure::failed(format!(
        "{name} at {address} is no primary, its role is {role}.{upstream}\n  Give the address of \
         the primary's HTTP side, or those of all nodes: --http HOST:PORT,HOST:PORT"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::HttpOptions;
    use crate::http::tests::Serving;

    #[test]
    fn the_primary_is_found_wherever_it_stands_in_the_list() {
        let primary = Serving::primary();
        let standby = Serving::start(Some(&primary), HttpOptions::default());
        let addresses = [&standby, &primary].map(|node| node.address.clone());
        let nodes = Nodes::new(addresses.to_vec(), None);
        assert_eq!(nodes.find_primary().unwrap()["name"], "a");
        assert_eq!(nodes.address(), primary.address);
        let alone = Nodes::new(vec![standby.address.clone()], None);
        let failure = alone.find_primary().unwrap_err();
        for part in ["b at 127.0.0.1:", "its role is standby", "It follows a."] {
            assert!(failure.text().contains(part), "{part}: {failure:?}");
        }
    }

    #[test]
    fn a_node_is_left_once_by_all_who_asked_it() {
        let addresses = ["a:1", "b:2", "c:3"].map(str::to_owned).to_vec();
        let nodes = Nodes::new(addresses, None);
        let mut sessions = [nodes.session(), nodes.session(), nodes.session()];
        for session in &sessions {
            session.leave();
        }
        assert_eq!(nodes.address(), "b:2");
        sessions[0].client();
        sessions[0].leave();
        sessions[1].leave();
        assert_eq!(nodes.address(), "c:3");
        sessions[2].client();
        sessions[2].leave();
        assert_eq!(nodes.address(), "a:1");
    }
}
