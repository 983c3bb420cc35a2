//! What replication tells, as events: words, names and sentences.

use std::time::Duration;

use mainstay_replication::{Peer, ReplicationEvent};
use mainstay_storage::Timeline;

use super::{Draft, EventLog, EventType};
use crate::units;

/// Records in `events` what replication tells the node `me`.
pub(crate) fn recorder(
    events: EventLog,
    me: String,
) -> impl Fn(ReplicationEvent) + Send + Sync + 'static {
    move |event| {
        let draft = of_peer(&event, &me).or_else(|| of_role(&event, &me));
        let draft = draft.or_else(|| of_log(&event, &me));
        if let Some(draft) = draft {
            events.record(draft);
        }
    }
}

/// What is about the other side of a stream.
fn of_peer(event: &ReplicationEvent, me: &str) -> Option<Draft> {
    use ReplicationEvent as Told;
    Some(match event {
        Told::StandbyCreated { standby, address } => {
            let text = format!("standby {standby} was registered");
            let draft = Draft::new(EventType::StandbyCreated, text);
            let draft = draft.primary(me).standby(standby);
            draft.with("address", address.as_str())
        }
        Told::SyncEstablished { peer, lag_bytes } => {
            let text = match peer {
                Peer::Standby(name) => format!("standby {name} has caught up and streams"),
                Peer::Upstream(name) => format!("caught up with {name}"),
            };
            about(EventType::SyncEstablished, text, peer, me).lag(*lag_bytes)
        }
        Told::LagDetected {
            peer,
            lag_bytes,
            lag_time,
            critical,
        } => {
            let lag = format!("{}, {}", units::bytes(*lag_bytes), shown(*lag_time));
            let text = match peer {
                Peer::Standby(name) => format!("standby {name} is behind by {lag}"),
                Peer::Upstream(name) => format!("this node is behind {name} by {lag}"),
            };
            let level = if *critical { "critical" } else { "warning" };
            let draft = about(EventType::LagDetected, text, peer, me).lag(*lag_bytes);
            draft.with("level", level).with("lag_ms", whole(*lag_time))
        }
        Told::Unhealthy { peer, silence } => {
            let (Peer::Standby(name) | Peer::Upstream(name)) = peer;
            let text = format!("{name} was not heard for {}", shown(*silence));
            let draft = about(EventType::ReplicationUnhealthy, text, peer, me);
            draft.with("silence_ms", whole(*silence))
        }
        Told::CannotFollow { why } => {
            let text = format!("this node cannot follow: {why}");
            Draft::new(EventType::ReplicationUnhealthy, text).standby(me)
        }
        _ => return None,
    })
}

/// What is about this node as a primary.
fn of_role(event: &ReplicationEvent, me: &str) -> Option<Draft> {
    use ReplicationEvent as Told;
    let own = |kind, text: String| Draft::new(kind, text).primary(me);
    Some(match event {
        Told::Promoted {
            timeline,
            end,
            previous,
        } => {
            let text = format!("{me} is the primary, on timeline {}", timeline.number);
            let draft = on(own(EventType::Promoted, text), *timeline);
            let draft = draft.with("lsn", end.to_string());
            draft.with("previous_primary", previous.as_str())
        }
        Told::WentOn { timeline } => {
            let number = timeline.number;
            let text = format!("{me} goes on as the primary, on timeline {number}");
            on(own(EventType::Promoted, text), *timeline)
        }
        Told::PolicyMet => {
            let text = "the synchronous policy has its standbys".to_owned();
            own(EventType::PolicyMet, text)
        }
        Told::PolicyUnmet { needed, present } => {
            let text = format!("the synchronous policy needs {needed} standbys, {present} there");
            let draft = own(EventType::PolicyUnmet, text);
            draft.with("needed", *needed).with("present", *present)
        }
        Told::Degraded => {
            let text = "commits do not wait for standbys any more: they are on this node only";
            own(EventType::Degraded, text.to_owned())
        }
        Told::Failing => {
            let text = "the policy is not met: waiting commits end as unknown, writes are refused";
            own(EventType::Failing, text.to_owned())
        }
        Told::Recovered => {
            let text = "the synchronous policy holds again".to_owned();
            own(EventType::Recovered, text)
        }
        Told::Suspended => {
            let text = "a newer timeline was promised elsewhere: commits wait".to_owned();
            own(EventType::Suspended, text)
        }
        Told::Fenced { by, successor } => fenced(*by, successor.as_ref(), me),
        _ => return None,
    })
}

/// What is about whom this node follows, and its log.
fn of_log(event: &ReplicationEvent, me: &str) -> Option<Draft> {
    use ReplicationEvent as Told;
    Some(match event {
        Told::TimelineFollowed { timeline, upstream } => {
            let number = timeline.number;
            let text = format!("this node follows {upstream} on timeline {number}");
            let draft = Draft::new(EventType::PrimaryChanged, text);
            on(draft.primary(upstream).standby(me), *timeline)
        }
        Told::LogCut {
            at,
            bytes,
            saved_to,
        } => {
            let text = format!(
                "{bytes} bytes of log from {at} on, which the primary does not have and nobody \
                 saw, are in {}",
                saved_to.display()
            );
            let draft = Draft::new(EventType::LogCut, text).standby(me);
            let draft = draft.with("at", at.to_string()).with("bytes", *bytes);
            draft.with("saved_to", saved_to.display().to_string())
        }
        Told::WayChosen {
            way,
            reason,
            log_bytes,
            copy_bytes,
        } => {
            let text = format!("{me} goes on by {way}: {reason}");
            let draft = Draft::new(EventType::Resync, text).standby(me);
            let draft = draft.with("way", *way).with("reason", reason.as_str());
            let draft = draft.with("log_bytes", *log_bytes);
            draft.with("copy_bytes", *copy_bytes)
        }
        Told::SlotLost { slot } => {
            let text = format!("slot {slot} held back too much log and was invalidated");
            Draft::new(EventType::SlotLost, text).with("slot", slot.as_str())
        }
        _ => return None,
    })
}

fn fenced(by: Option<Timeline>, successor: Option<&(String, String)>, me: &str) -> Draft {
    let why = match (by, successor) {
        (_, Some((name, address))) => format!("{name} ({address}) is the primary"),
        (Some(by), None) => format!("timeline {} was opened elsewhere", by.number),
        (None, None) => "another node may have taken over".to_owned(),
    };
    let text = format!("{me} takes no writes any more: {why}");
    let mut draft = Draft::new(EventType::Fenced, text);
    if let Some(by) = by {
        draft = on(draft, by);
    }
    match successor {
        Some((name, address)) => draft.primary(name).with("address", address.as_str()),
        None => draft,
    }
}

fn about(kind: EventType, text: String, peer: &Peer, me: &str) -> Draft {
    let draft = Draft::new(kind, text);
    match peer {
        Peer::Standby(name) => draft.primary(me).standby(name),
        Peer::Upstream(name) => draft.primary(name).standby(me),
    }
}

fn on(draft: Draft, timeline: Timeline) -> Draft {
    draft.with("timeline", timeline.number)
}

fn whole(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn shown(time: Duration) -> String {
    units::millis(time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_a_stream_are_named_and_lag_has_its_units() {
        let lag = |peer| ReplicationEvent::LagDetected {
            peer,
            lag_bytes: 18_000_000,
            lag_time: Duration::from_millis(2100),
            critical: false,
        };
        let seen = of_peer(&lag(Peer::Standby("b".to_owned())), "a").unwrap();
        assert_eq!(seen.message, "standby b is behind by 18 MB, 2.1 s");
        assert_eq!(seen.metadata["level"], "warning");
        let felt = of_peer(&lag(Peer::Upstream("a".to_owned())), "b").unwrap();
        assert_eq!(felt.message, "this node is behind a by 18 MB, 2.1 s");
        for draft in [seen, felt] {
            let names = (draft.primary_name.as_deref(), draft.standby_name.as_deref());
            assert_eq!(names, (Some("a"), Some("b")));
            assert_eq!(draft.lag_bytes, Some(18_000_000));
            assert_eq!(draft.metadata["lag_ms"], 2100);
        }
    }

    #[test]
    fn a_fence_says_as_much_as_is_known() {
        let by = Timeline {
            number: 3,
            id: uuid::Uuid::from_u128(1),
        };
        let successor = ("c".to_owned(), "10.0.0.3:5433".to_owned());
        for (by, successor, expected) in [
            (
                Some(by),
                Some(&successor),
                "c (10.0.0.3:5433) is the primary",
            ),
            (Some(by), None, "timeline 3 was opened elsewhere"),
            (None, None, "another node may have taken over"),
        ] {
            let draft = fenced(by, successor, "b");
            let text = format!("b takes no writes any more: {expected}");
            assert_eq!(draft.message, text);
            assert_eq!(draft.primary_name.as_deref(), successor.map(|_| "c"));
        }
    }
}
