//! Loading a file into a table, in batches, so that an interrupted load continues.
//!
//! Each row becomes a JSON object under the text of its key column. Rows go to the node in
//! transactions; each also notes in the table `_mainstay_imports` how far the file is loaded, so
//! that either both happened or neither. The note belongs to the file's contents, key column and
//! delimiter: the same import run again continues, and a finished one does nothing. A row that
//! cannot be taken stops the load, and nothing of its batch is stored.

mod rows;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::cli::{Failure, NodeAddress, print};
use crate::client::{Client, ClientError};
use crate::units;
use rows::{Place, RowError};
pub(crate) use rows::{Rows, Shape};

/// Most rows in one transaction.
const BATCH_ROWS_MAX: usize = 5000;

/// Bytes of a transaction's JSON after which it is sent.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// The table that keeps how far each file is loaded.
const IMPORTS_TABLE: &str = "_mainstay_imports";

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    node: NodeAddress,
    /// The table; it is created if missing
    #[arg(long)]
    table: String,
    /// The column (CSV) or field (NDJSON) whose text is the row's key
    #[arg(long, value_name = "COLUMN")]
    key: String,
    /// What separates the columns of a CSV file: one character, or \t
    #[arg(long, value_name = "CHAR", default_value = ",", value_parser = delimiter)]
    delimiter: u8,
    /// Load the file from its beginning, whatever was loaded before
    #[arg(long)]
    restart: bool,
    /// CSV with a header line, or NDJSON (.ndjson, .jsonl, or a file that begins with {)
    file: PathBuf,
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !b"\"\r\n".contains(byte) => Ok(*byte),
        _ => Err("a delimiter is one ASCII character, or \\t for a tab".to_owned()),
    }
}

/// How far a file is loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    file: String,
    table: String,
    byte: u64,
    line: u64,
    rows: u64,
    done: bool,
}

/// Runs the verb.
pub(crate) fn run(args: &ImportArgs) -> Result<(), Failure> {
    let client = args.node.client()?;
    let shape = Shape {
        key: Some(args.key.clone()),
        delimiter: args.delimiter,
    };
    let mut rows = Rows::open(&args.file, &shape).map_err(Failure::failed)?;
    let fingerprint = fingerprint(&args.file, &shape).map_err(|error| {
        Failure::failed(format!("{}: cannot be read: {error}", args.file.display()))
    })?;
    let note = format!("{}/{fingerprint}", args.table);
    let file = args
        .file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut progress = Progress {
        file,
        table: args.table.clone(),
        ..Progress::default()
    };
    if !args.restart {
        progress = loaded(&client, &note)?.unwrap_or(progress);
    }
    if progress.done {
        let count = units::count(progress.rows);
        return print(format!(
            "{} is loaded already: {count} rows in {}. To load it again: --restart",
            args.file.display(),
            args.table
        ));
    }
    if progress.rows > 0 {
        let place = Place {
            byte: progress.byte,
            line: progress.line,
        };
        rows.seek(place).map_err(Failure::failed)?;
        eprintln!(
            "continuing after {} rows, at line {}",
            units::count(progress.rows),
            place.line
        );
    }
    load(&client, rows, &note, progress)
}

fn loaded(client: &Client, note: &str) -> Result<Option<Progress>, Failure> {
    let Some(value) = client.get(IMPORTS_TABLE, note.as_bytes(), None)? else {
        return Ok(None);
    };
    let progress = serde_json::from_slice(&value).map_err(|error| {
        Failure::failed(format!(
            "the note {note:?} in table {IMPORTS_TABLE} cannot be read: {error}. To load the \
             whole file: --restart"
        ))
    })?;
    Ok(Some(progress))
}

fn load(
    client: &Client,
    mut rows: Rows,
    note: &str,
    mut progress: Progress,
) -> Result<(), Failure> {
    let (began, before) = (Instant::now(), (progress.rows, progress.byte));
    let bar = bar(rows.len());
    while !progress.done {
        let batch = Batch::read(&mut rows, &progress);
        let batch = batch.map_err(|error| stopped(error, &progress))?;
        progress = batch.after.clone();
        client.transaction(batch.body(note)).map_err(interrupted)?;
        bar.set_position(progress.byte);
    }
    bar.finish_and_clear();
    let rows = units::count(progress.rows - before.0);
    let bytes = units::bytes(progress.byte - before.1);
    let seconds = began.elapsed().as_secs_f64();
    print(format!(
        "{rows} rows loaded into {} ({bytes} in {seconds:.1} s)",
        progress.table
    ))
}

/// A bar for people; nothing where standard error is no terminal.
fn bar(bytes: u64) -> ProgressBar {
    let target = match io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style = "  {bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(style).expect("the template is correct");
    ProgressBar::with_draw_target(Some(bytes), target).with_style(style.progress_chars("##-"))
}

fn stopped(error: RowError, before: &Progress) -> Failure {
    let loaded = units::count(before.rows);
    Failure::failed(format!(
        "{error}\n  {loaded} rows before it are loaded, nothing after them. Mend the file and run \
         the same command again."
    ))
}

fn interrupted(error: ClientError) -> Failure {
    let mut failure = Failure::from(error);
    failure.add("\n  Run the same command again: it continues where this one ended.");
    failure
}

/// Rows that are stored together, and how far the file is loaded then.
#[derive(Debug)]
struct Batch {
    ops: String,
    after: Progress,
}

impl Batch {
    fn read(rows: &mut Rows, before: &Progress) -> Result<Self, RowError> {
        let mut batch = Self {
            ops: String::new(),
            after: before.clone(),
        };
        let mut count = 0;
        while count < BATCH_ROWS_MAX && batch.ops.len() < BATCH_BYTES_MAX {
            let Some(row) = rows.next()? else {
                batch.after.done = true;
                break;
            };
            put_op(&mut batch.ops, &before.table, &row.key, &row.value);
            batch.ops.push(',');
            count += 1;
            batch.after.rows += 1;
        }
        let Place { byte, line } = rows.place();
        (batch.after.byte, batch.after.line) = (byte, line);
        Ok(batch)
    }

    fn body(mut self, note: &str) -> Vec<u8> {
        let progress = serde_json::to_string(&self.after).expect("plain fields");
        put_op(&mut self.ops, IMPORTS_TABLE, note, &progress);
        format!("{{\"ops\":[{}]}}", self.ops).into_bytes()
    }
}

/// Appends one put to the text of a transaction.
pub(crate) fn put_op(ops: &mut String, table: &str, key: &str, value: &str) {
    let [table, key, value] = [table, key, value].map(quoted);
    let op = format_args!(r#"{{"op":"put","table":{table},"key":{key},"value":{value}}}"#);
    ops.write_fmt(op).expect("a string takes everything");
}

/// `text` as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always JSON")
}

/// What a file's contents, key column and delimiter are told by.
fn fingerprint(path: &Path, shape: &Shape) -> io::Result<String> {
    let mut hasher = Xxh3::new();
    hasher.update(shape.key.as_deref().unwrap_or_default().as_bytes());
    hasher.update(&[0, shape.delimiter]);
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{:032x}", hasher.digest128())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::Serving;

    #[test]
    fn a_batch_is_a_transaction_that_also_notes_how_far_it_came() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        std::fs::write(&path, "id,name\n1,\"Ada \"\"L\"\"\"\n").unwrap();
        let shape = Shape {
            key: Some("id".into()),
            delimiter: b',',
        };
        let mut rows = Rows::open(&path, &shape).unwrap();
        let before = Progress {
            file: "t.csv".into(),
            table: "t".into(),
            ..Progress::default()
        };
        let batch = Batch::read(&mut rows, &before).unwrap();
        assert!(batch.after.done);
        let body = String::from_utf8(batch.body("t/ff")).unwrap();
        assert_eq!(
            body,
            concat!(
                r#"{"ops":[{"op":"put","table":"t","key":"1","#,
                r#""value":"{\"id\":\"1\",\"name\":\"Ada \\\"L\\\"\"}"},"#,
                r#"{"op":"put","table":"_mainstay_imports","key":"t/ff","#,
                r#""value":"{\"file\":\"t.csv\",\"table\":\"t\",\"byte\":22,\"line\":3,"#,
                r#"\"rows\":1,\"done\":true}"}]}"#
            )
        );
    }

    fn import(serving: &Serving, path: &Path, more: &[&str]) -> Result<(), Failure> {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: ImportArgs,
        }
        let path = path.to_str().unwrap();
        let line = [
            "import",
            "--http",
            &serving.address,
            "--table",
            "t",
            "--key",
            "id",
            path,
        ];
        run(&<Line as clap::Parser>::parse_from([&line, more].concat()).args)
    }

    fn table(serving: &Serving) -> Vec<(String, String)> {
        let rows = serving.client.scan("t", b"", b"", 10_000).unwrap().rows;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        rows.into_iter()
            .map(|(key, value)| (text(key), text(value)))
            .collect()
    }

    #[test]
    fn a_finished_import_does_nothing_and_a_restarted_one_does_it_again() {
        let serving = Serving::primary();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        std::fs::write(&path, "id,n\n1,one\n2,two\n").unwrap();
        import(&serving, &path, &[]).unwrap();
        let both = [
            ("1", r#"{"id":"1","n":"one"}"#),
            ("2", r#"{"id":"2","n":"two"}"#),
        ];
        let both = both.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(table(&serving), both);
        serving.client.delete("t", b"1").unwrap();
        import(&serving, &path, &[]).unwrap();
        assert_eq!(table(&serving), both[1..]);
        import(&serving, &path, &["--restart"]).unwrap();
        assert_eq!(table(&serving), both);
    }

    #[test]
    fn a_bad_row_stops_the_import_and_nothing_of_its_batch_is_stored() {
        let serving = Serving::primary();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        let good = BATCH_ROWS_MAX + 10;
        let mut text = "id,n\n".to_owned();
        for n in 0..good {
            text += &format!("{n:05},x\n");
        }
        std::fs::write(&path, format!("{text}bad\n")).unwrap();
        let failure = import(&serving, &path, &[]).unwrap_err();
        let line = format!(
            "t.csv line {}: the header has 2 columns, this row 1\n",
            good + 2
        );
        assert!(failure.text().contains(&line), "{failure:?}");
        assert!(
            failure.text().contains("5,000 rows before it are loaded"),
            "{failure:?}"
        );
        assert_eq!(table(&serving).len(), BATCH_ROWS_MAX);
    }

    #[test]
    fn an_interrupted_import_continues_where_its_last_transaction_ended() {
        let serving = Serving::primary();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        std::fs::write(&path, "id\n1\n2\n3\n").unwrap();
        let shape = Shape {
            key: Some("id".into()),
            delimiter: b',',
        };
        let note = format!("t/{}", fingerprint(&path, &shape).unwrap());
        let progress = Progress {
            table: "t".into(),
            byte: 5,
            line: 3,
            rows: 1,
            ..Progress::default()
        };
        let progress = serde_json::to_vec(&progress).unwrap();
        serving
            .client
            .put(IMPORTS_TABLE, note.as_bytes(), progress)
            .unwrap();
        import(&serving, &path, &[]).unwrap();
        let keys = table(&serving)
            .into_iter()
            .map(|(key, _)| key)
            .collect::<Vec<_>>();
        assert_eq!(keys, ["2", "3"]);
        let progress = loaded(&serving.client, &note).unwrap().unwrap();
        assert_eq!((progress.rows, progress.done, progress.byte), (3, true, 9));
    }

    #[test]
    fn a_fingerprint_tells_contents_key_and_delimiter_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        let of = |text: &str, key: &str, delimiter: u8| {
            std::fs::write(&path, text).unwrap();
            fingerprint(
                &path,
                &Shape {
                    key: Some(key.into()),
                    delimiter,
                },
            )
            .unwrap()
        };
        let one = of("a\n1\n", "a", b',');
        assert_eq!(one, of("a\n1\n", "a", b','));
        assert_ne!(one, of("a\n2\n", "a", b','));
        assert_ne!(one, of("a\n1\n", "b", b','));
        assert_ne!(one, of("a\n1\n", "a", b';'));
    }

    #[test]
    fn a_delimiter_is_one_character() {
        assert_eq!(delimiter(";"), Ok(b';'));
        assert_eq!(delimiter("\\t"), Ok(b'\t'));
        for bad in ["", ";;", "\"", "\n", "€"] {
            assert!(delimiter(bad).is_err(), "{bad:?} was taken");
        }
    }
}
