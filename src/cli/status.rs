//! What `mainstay status` shows: the state, then what would happen, then what to do.

use serde::Deserialize;

use super::table::columns;
use crate::{Lsn, units};

/// The parts of a node's status that are shown; what an older node does not say stays empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StatusView {
    name: String,
    role: String,
    timeline: u32,
    status: String,
    lsn: PositionsView,
    standbys: Vec<StandbyView>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PositionsView {
    flushed: String,
    commit: String,
    applied: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StandbyView {
    name: String,
    state: String,
    sync_state: String,
    flush_lsn: String,
    lag_bytes: u64,
    replay_lag_ms: Option<f64>,
    last_contact_ms: Option<f64>,
}

/// The status as text.
pub(crate) fn render(status: &StatusView) -> String {
    let word = if status.status.is_empty() {
        "-"
    } else {
        &status.status
    };
    let head = format!("{}   {word}", status.name);
    let mut text = format!("{head:<56}  timeline {}\n", status.timeline);
    let titles = [
        "NODE",
        "ROLE",
        "STATE",
        "SYNC",
        "LAG",
        "FLUSHED",
        "LAST CONTACT",
    ];
    let dash = || "-".to_owned();
    let own = [
        status.name.clone(),
        status.role.clone(),
        dash(),
        dash(),
        dash(),
        status.lsn.flushed.clone(),
        dash(),
    ];
    let mut rows = vec![titles.map(str::to_owned), own];
    rows.extend(status.standbys.iter().map(StandbyView::row));
    text += &columns("  ", &rows);
    text + &outlook(status)
}

impl StandbyView {
    fn row(&self) -> [String; 7] {
        let lag = units::bytes(self.lag_bytes);
        let lag = match self.replay_lag_ms {
            Some(millis) => format!("{lag:<6} {}", units::millis(millis)),
            None => lag,
        };
        let contact = match self.last_contact_ms {
            None => "never".to_owned(),
            Some(millis) if millis < 1000.0 => "now".to_owned(),
            Some(millis) => format!("{} ago", units::millis(millis)),
        };
        let (state, sync) = (self.state.clone(), self.sync_state.clone());
        [
            self.name.clone(),
            "standby".to_owned(),
            state,
            sync,
            lag,
            self.flush_lsn.clone(),
            contact,
        ]
    }

    fn streams(&self) -> bool {
        self.state == "streaming"
    }

    fn counts(&self) -> bool {
        matches!(self.sync_state.as_str(), "sync" | "quorum")
    }

    fn flushed(&self) -> Lsn {
        self.flush_lsn.parse().unwrap_or(Lsn::ZERO)
    }
}

/// What would happen if this node died now.
fn outlook(status: &StatusView) -> String {
    let name = &status.name;
    if status.role == "standby" {
        let applied = &status.lsn.applied;
        return format!(
            "{name} shows everything up to {applied}. The primary's status shows all nodes.\n"
        );
    }
    let best = status.standbys.iter().filter(|standby| standby.streams());
    let Some(best) = best.max_by_key(|standby| (standby.flushed(), standby.counts())) else {
        return format!("If {name} died now: nobody could take over, no standby is streaming.\n");
    };
    let commit = status.lsn.commit.parse().unwrap_or(Lsn::ZERO);
    let missing = commit.bytes_since(best.flushed());
    let next = &best.name;
    if best.counts() && missing == 0 {
        return format!(
            "If {name} died now: nothing acknowledged would be lost, {next} could be promoted.\n"
        );
    }
    let missing = units::bytes(missing);
    format!(
        "If {name} died now: {next} could be promoted, without the last {missing} it has not \
         confirmed.\n  To wait for a standby at each commit:   mainstay start --sync \"ANY 1 (*)\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn shown(status: Value) -> String {
        render(&serde_json::from_value(status).unwrap())
    }

    fn primary(standbys: Value) -> Value {
        json!({
            "name": "b", "role": "primary", "timeline": 2, "status": "synchronized",
            "lsn": {"flushed": "0/4A012C80", "commit": "0/4A012C80", "applied": "0/4A012C80"},
            "standbys": standbys,
        })
    }

    #[test]
    fn a_primary_with_two_standbys_reads_like_this() {
        let text = shown(primary(json!([
            {"name": "c", "state": "streaming", "sync_state": "quorum", "lag_bytes": 0,
             "flush_lsn": "0/4A012C80", "replay_lag_ms": 0.3, "last_contact_ms": 40},
            {"name": "a", "state": "catchup", "sync_state": "async", "lag_bytes": 18_000_000,
             "flush_lsn": "0/48E00000", "replay_lag_ms": 2100.0, "last_contact_ms": 2500},
        ])));
        let expected = "\
b   synchronized                                          timeline 2
  NODE  ROLE     STATE      SYNC    LAG            FLUSHED     LAST CONTACT
  b     primary  -          -       -              0/4A012C80  -
  c     standby  streaming  quorum  0 B    0.3 ms  0/4A012C80  now
  a     standby  catchup    async   18 MB  2.1 s   0/48E00000  2.5 s ago
If b died now: nothing acknowledged would be lost, c could be promoted.
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_primary_nobody_follows_says_so() {
        let text = shown(primary(json!([])));
        assert!(
            text.ends_with("nobody could take over, no standby is streaming.\n"),
            "{text}"
        );
    }

    #[test]
    fn an_asynchronous_standby_is_promised_nothing() {
        let text = shown(primary(json!([
            {"name": "c", "state": "streaming", "sync_state": "async", "flush_lsn": "0/4A000000"},
        ])));
        assert!(
            text.contains("c could be promoted, without the last 77 KB it has not"),
            "{text}"
        );
        assert!(text.contains("--sync \"ANY 1 (*)\""), "{text}");
    }

    #[test]
    fn a_standby_points_to_the_primary() {
        let text = shown(json!({"name": "c", "role": "standby", "lsn": {"applied": "0/10"}}));
        assert!(
            text.ends_with(
                "c shows everything up to 0/10. The primary's status shows all \
                                nodes.\n"
            ),
            "{text}"
        );
    }
}
