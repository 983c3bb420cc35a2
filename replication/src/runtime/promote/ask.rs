//! Asking other nodes: what they are, and for their promise. What does not answer has failed.

use std::sync::Arc;

use mainstay_storage::{Timeline, TimelineHistory};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::ASK_TIMEOUT;
use crate::error::{Error, Result};
use crate::protocol::name::NodeName;
use crate::protocol::promotion::{CandidateEvent as Event, PromiseRequest, Purpose};
use crate::runtime::client::Client;
use crate::runtime::core::Core;
use crate::runtime::promise;
use crate::wire::command::{Command, PromiseTimeline};

/// A session on the member `name` of this cluster. Addresses are given to other nodes and clusters
/// in time, whose word, and whose promise, says nothing here.
///
/// # Errors
/// Connection errors, also where another node answers.
pub(crate) async fn connect(core: &Core, name: &NodeName, address: Option<&str>) -> Result<Client> {
    let address = address.ok_or_else(|| Error::Invalid("its address is not known".to_owned()))?;
    let mut client = Client::connect(&core.config, address).await?;
    if client.server.name != name.as_str() {
        return Err(client.broken("another node answers there"));
    }
    if client.system_identity().await?.system_id != core.wal.identity().system_id {
        return Err(client.broken("a node of another cluster answers there"));
    }
    Ok(client)
}

pub(super) async fn probe(
    core: Arc<Core>,
    name: NodeName,
    address: Option<String>,
    to: mpsc::Sender<Event>,
) {
    let asked = timeout(ASK_TIMEOUT, async {
        let mut client = connect(&core, &name, address.as_deref()).await?;
        let answer = client.rows(&Command::ProbeTimeline).await?;
        let set = answer
            .sets
            .first()
            .ok_or_else(|| client.broken("it gave no answer"))?;
        promise::read_probe(set)
    });
    let event = match asked.await {
        Ok(Ok(answer)) => Event::ProbeAnswered(name, answer),
        Ok(Err(error)) => {
            tracing::info!(%name, %error, "cannot probe");
            Event::ProbeFailed(name)
        }
        Err(_) => Event::ProbeFailed(name),
    };
    // The attempt may be over.
    let _ = to.send(event).await;
}

pub(super) async fn ask_promise(
    core: Arc<Core>,
    name: NodeName,
    address: Option<String>,
    request: PromiseRequest,
    to: mpsc::Sender<Event>,
) {
    let timeline = request.timeline;
    let asked = timeout(ASK_TIMEOUT, async {
        let mut client = connect(&core, &name, address.as_deref()).await?;
        let command = Command::PromiseTimeline(PromiseTimeline {
            timeline,
            candidate: core.name.as_str().to_owned(),
            address: core.address(),
            continues: match request.purpose {
                Purpose::Restart => timelines(&request.opened),
                _ => Vec::new(),
            },
        });
        let answer = client.rows(&command).await?;
        let set = answer
            .sets
            .first()
            .ok_or_else(|| client.broken("it gave no answer"))?;
        promise::read_promise(set)
    });
    let event = match asked.await {
        Ok(Ok((life, promise))) => Event::PromiseAnswered {
            name,
            timeline,
            life,
            promise,
        },
        Ok(Err(error)) => {
            tracing::info!(%name, %error, "cannot ask for a promise");
            Event::PromiseFailed(name)
        }
        Err(_) => Event::PromiseFailed(name),
    };
    // The attempt may be over.
    let _ = to.send(event).await;
}

fn timelines(history: &TimelineHistory) -> Vec<Timeline> {
    let spans = history.spans().iter();
    spans.map(|span| span.timeline).collect()
}
