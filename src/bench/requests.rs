//! The bodies of transactions that write and remove rows.
//!
//! A value is text that does not repeat itself, so that nothing on its way can make it shorter, and
//! begins with the number of its operation, so that two are rarely the same.

use serde_json::json;

use super::plan::Plan;
use crate::Level;
use crate::scrambled::scrambled;

/// Digits of the number that a value begins with.
const NUMBER_DIGITS: usize = 16;

/// Makes bodies, one after the other.
#[derive(Debug)]
pub(crate) struct Requests<'a> {
    plan: &'a Plan,
    /// An op up to its key.
    put: String,
    delete: String,
    /// What stands behind the ops.
    tail: String,
    value: Vec<u8>,
}

impl<'a> Requests<'a> {
    /// For rows in `table` with values of `size` bytes, committed at `level`, or at the node's.
    pub(crate) fn new(plan: &'a Plan, table: &str, size: usize, level: Option<Level>) -> Self {
        let op = |op: &str| format!(r#"{{"op":"{op}","table":{},"key":""#, json!(table));
        let tail = match level {
            Some(level) => format!(r#"],"level":"{level}"}}"#),
            None => "]}".to_owned(),
        };
        let value = (0_u64..).flat_map(|at| scrambled(plan.seed ^ (at << 32)).to_le_bytes());
        Self {
            plan,
            put: op("put"),
            delete: op("delete"),
            tail,
            value: value.take(size).map(letter).collect(),
        }
    }

    /// A transaction that writes `row` as operation `number`.
    pub(crate) fn put(&mut self, row: u64, number: u64) -> Vec<u8> {
        self.put_all([row], number)
    }

    /// A transaction that writes `rows` as operation `number`.
    pub(crate) fn put_all(&mut self, rows: impl IntoIterator<Item = u64>, number: u64) -> Vec<u8> {
        let digits = format!("{number:0NUMBER_DIGITS$x}");
        let stamped = self.value.iter_mut().zip(digits.bytes());
        stamped.for_each(|(byte, digit)| *byte = digit);
        let end = [br#"","value":""#, self.value.as_slice(), br#""}"#];
        self.body(&self.put, rows, end)
    }

    /// A transaction that removes `rows`.
    pub(crate) fn delete_all(&self, rows: impl IntoIterator<Item = u64>) -> Vec<u8> {
        self.body(&self.delete, rows, [br#""}"#])
    }

    fn body<const N: usize>(
        &self,
        op: &str,
        rows: impl IntoIterator<Item = u64>,
        end: [&[u8]; N],
    ) -> Vec<u8> {
        let mut body = br#"{"ops":["#.to_vec();
        for (at, row) in rows.into_iter().enumerate() {
            if at > 0 {
                body.push(b',');
            }
            body.extend_from_slice(op.as_bytes());
            body.extend_from_slice(self.plan.key(row).as_bytes());
            for part in end {
                body.extend_from_slice(part);
            }
        }
        body.extend_from_slice(self.tail.as_bytes());
        body
    }
}

/// One of 64 characters that JSON takes as they are.
fn letter(random: u8) -> u8 {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    LETTERS[usize::from(random % 64)]
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::bench::plan::Workload;

    const PLAN: Plan = Plan {
        workload: Workload::Put,
        seed: 1,
        keys: 100,
    };

    fn parsed(body: &[u8]) -> Value {
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn a_put_is_a_transaction_of_one_row_at_the_level_asked_for() {
        let level = Some(Level::RemoteApply);
        let mut requests = Requests::new(&PLAN, "a \"table\"", 40, level);
        let body = parsed(&requests.put(7, 0x2A));
        assert_eq!(body["level"], "remote_apply");
        assert_eq!(body["ops"].as_array().map(Vec::len), Some(1));
        let op = &body["ops"][0];
        assert_eq!(
            (&op["op"], &op["table"]),
            (&json!("put"), &json!("a \"table\""))
        );
        assert_eq!(op["key"], "bench-1-00000007");
        let value = op["value"].as_str().unwrap();
        assert!(
            value.len() == 40 && value.starts_with("000000000000002a"),
            "{value}"
        );
        assert_ne!(parsed(&requests.put(7, 0x2B))["ops"][0]["value"], value);
    }

    #[test]
    fn values_have_the_size_asked_for_however_small() {
        for size in [0, 1, 16, 17, 1000] {
            let mut requests = Requests::new(&PLAN, "t", size, None);
            let body = parsed(&requests.put_all([1, 2], 3));
            assert_eq!(
                body.as_object().map(serde_json::Map::len),
                Some(1),
                "no level"
            );
            for op in body["ops"].as_array().unwrap() {
                assert_eq!(op["value"].as_str().map(str::len), Some(size));
            }
        }
    }

    #[test]
    fn rows_are_removed_by_their_keys() {
        let requests = Requests::new(&PLAN, "t", 10, None);
        let expected = json!({ "ops": [
            { "op": "delete", "table": "t", "key": "bench-1-00000004" },
            { "op": "delete", "table": "t", "key": "bench-1-00000099" },
        ]});
        assert_eq!(parsed(&requests.delete_all([4, 99])), expected);
    }
}
