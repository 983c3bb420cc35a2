//! Comparing this standby's rows with its primary's, and mending what differs.
//!
//! The comparison itself holds up nothing, so a promotion or another order may come meanwhile and
//! ends it; mending is short, and other orders wait for it.

use std::time::Duration;

use mainstay_replication::{Compared, DifferenceKind, Mended};
use mainstay_storage::table_of_whole_key;
use serde_json::Map;

use super::life::Life;
use super::{Node, record};
use crate::encoding::put_json;
use crate::error::{Error, Result};
use crate::status::{FirstDifference, Repaired, Verified};

impl Node {
    /// Compares all rows of this standby with its primary's, at one position of the log, while both
    /// run. A mismatch marks this standby as broken, durably: it is not promoted then, until it is
    /// mended, verified clean, or gets a new copy. With `repair` the ranges that differ are shipped
    /// from the primary and compared again. Giving up this call ends the verification.
    ///
    /// # Errors
    /// [`Error::Refused`] on a primary, while another verification runs, where the two nodes cannot
    /// be compared, or too much differs to be mended; replication's when the primary cannot be
    /// reached.
    pub async fn verify(&self, repair: bool) -> Result<Verified> {
        let mut closing = self.inner.closing.subscribe();
        tokio::select! {
            verified = self.verify_now(repair) => verified,
            _ = closing.wait_for(|closing| *closing) => Err(Error::Stopped),
        }
    }

    async fn verify_now(&self, repair: bool) -> Result<Verified> {
        let life = self.inner.life();
        let verification = life.replicator.verification().await?;
        let compared = verification.compare().await?;
        let mut verified = self.verified(&life, &compared).await?;
        if compared.findings.is_clean() {
            self.inner.events.record(record::verified(&verified));
            return Ok(verified);
        }
        self.inner.events.record(record::verify_mismatch(&verified));
        if !repair {
            return Ok(verified);
        }
        let bad = compared.findings.bad.clone();
        if !compared.findings.is_complete() {
            return Err(Error::Refused(format!(
                "{} ranges differ, too many to be mended one by one; take all rows anew with \
                 mainstay resync --full",
                compared.findings.bad_ranges
            )));
        }
        let mended = {
            let _unchanged = self.inner.unchanged().await?;
            verification.mend(&bad).await?
        };
        verified.repaired = Some(repaired(&mended));
        self.inner.events.record(record::repaired(&verified));
        let again = verification.again(bad).await?;
        verified.lsn = again.at.to_string();
        verified.seconds = seconds(compared.took + again.took);
        verified.verified = again.findings.is_clean();
        let draft = match verified.verified {
            true => record::verified(&verified),
            false => record::verify_mismatch(&verified),
        };
        self.inner.events.record(draft);
        Ok(verified)
    }

    async fn verified(&self, life: &Life, compared: &Compared) -> Result<Verified> {
        let findings = &compared.findings;
        let (engine, at, first) = (life.engine.clone(), compared.at, findings.first.clone());
        let first = tokio::task::spawn_blocking(move || {
            let Some(first) = first else {
                return Ok::<_, Error>(None);
            };
            let (table, key) = table_of_whole_key(&first.key).unwrap_or((0, &first.key));
            let table = engine.table_name(table, at)?;
            let mut shown = Map::new();
            put_json(&mut shown, "key", key);
            let difference = first.kind.as_str();
            let how = match first.kind {
                DifferenceKind::Missing => "is missing here",
                DifferenceKind::Extra => "is here and not there",
                DifferenceKind::Changed => "has another value here",
            };
            let text = format!("{} {how}", engine.describe(&first.key, at));
            Ok(Some(FirstDifference {
                table,
                key: shown,
                difference,
                text,
            }))
        });
        let first = first.await.map_err(|_| Error::Stopped)?;
        Ok(Verified {
            verified: findings.is_clean(),
            standby_name: self.inner.name.clone(),
            lsn: at.to_string(),
            positions: findings.moves + 1,
            ranges: findings.ranges,
            rows: findings.rows,
            bytes: findings.bytes,
            seconds: seconds(compared.took),
            mismatched_ranges: findings.bad_ranges,
            first_difference: first?,
            repaired: None,
        })
    }
}

fn repaired(mended: &Mended) -> Repaired {
    Repaired {
        lsn: mended.at.to_string(),
        ranges: mended.ranges,
        shipped_rows: mended.shipped_rows,
        shipped_bytes: mended.shipped_bytes,
        rows: mended.mended_rows,
    }
}

/// In thousandths.
fn seconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e3).round() / 1e3
}
