//! Printing a whole table, one JSON object a line.
//!
//! A value that is itself a JSON object on one line, as `import` stores it, is printed as it is;
//! any other as `{"key":..,"value":..}`. The table is read in pages, each as of its own moment:
//! what is written meanwhile may or may not be there.

use std::io::{self, Write as _};

use clap::Args;
use serde::de::IgnoredAny;

use crate::cli::{Failure, NodeAddress, row};
use crate::http::SCAN_ROWS_DEFAULT;

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    node: NodeAddress,
    /// The table
    #[arg(long)]
    table: String,
}

/// Runs the verb.
pub(crate) fn run(args: &ExportArgs) -> Result<(), Failure> {
    let client = args.node.client()?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut from = Some(Vec::new());
    while let Some(key) = from.take() {
        let page = client.scan(&args.table, b"", &key, SCAN_ROWS_DEFAULT)?;
        for (key, value) in &page.rows {
            write_line(&mut out, key, value)?;
        }
        from = page.next;
    }
    Ok(out.flush()?)
}

fn write_line(out: &mut impl io::Write, key: &[u8], value: &[u8]) -> io::Result<()> {
    if is_object_line(value) {
        out.write_all(value)?;
        return out.write_all(b"\n");
    }
    writeln!(out, "{}", row(key, value))
}

fn is_object_line(value: &[u8]) -> bool {
    value.first() == Some(&b'{')
        && !value.contains(&b'\n')
        && serde_json::from_slice::<IgnoredAny>(value).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: &[u8], value: &[u8]) -> String {
        let mut out = Vec::new();
        write_line(&mut out, key, value).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_object_is_printed_as_it_is_and_anything_else_with_its_key() {
        assert_eq!(
            line(b"1", br#"{"id":"1", "n":1.50}"#),
            "{\"id\":\"1\", \"n\":1.50}\n"
        );
        assert_eq!(line(b"k", b"v"), "{\"key\":\"k\",\"value\":\"v\"}\n");
        assert_eq!(
            line(b"k", b"{oops}"),
            "{\"key\":\"k\",\"value\":\"{oops}\"}\n"
        );
        assert_eq!(line(b"k", b"{\n}"), "{\"key\":\"k\",\"value\":\"{\\n}\"}\n");
        assert_eq!(
            line(b"k", &[0xFF]),
            "{\"key\":\"k\",\"value_base64\":\"/w==\"}\n"
        );
    }
}
