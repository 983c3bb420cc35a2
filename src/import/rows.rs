//! The rows of a CSV or NDJSON file, each as a key and a JSON object.
//!
//! A CSV row becomes an object of strings in the order of its columns. A line of NDJSON is kept as
//! it is. What cannot be taken is an error with its line. A row is bounded; the file is read in
//! pieces and never held.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ErrorKind, Position, ReaderBuilder};
use serde_json::{Map, Value};

/// Longest row of a file, in bytes.
const ROW_BYTES_MAX: u64 = 64 << 20;

/// How much of a header line is looked at to guess a delimiter, in bytes.
const HEADER_BYTES_MAX: u64 = 64 << 10;

/// How a file is to be read.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    /// The column or field that holds the key; `None` is the first one.
    pub(crate) key: Option<String>,
    /// Between the columns of a CSV file.
    pub(crate) delimiter: u8,
}

impl Shape {
    /// A guess from the file's first line: the key is the first column, and columns are separated
    /// by the most frequent of `,`, `;`, tab and `|`.
    pub(crate) fn guess(path: &Path) -> io::Result<Self> {
        let mut header = Vec::new();
        BufReader::new(File::open(path)?.take(HEADER_BYTES_MAX)).read_until(b'\n', &mut header)?;
        let count = |delimiter: &u8| header.iter().filter(|byte| *byte == delimiter).count();
        // Of equally frequent ones the first.
        let delimiter = b"|\t;,".iter().max_by_key(|delimiter| count(delimiter));
        Ok(Self {
            key: None,
            delimiter: delimiter.copied().unwrap_or(b','),
        })
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// 1 byte or more.
    pub(crate) key: String,
    /// A JSON object, on one line.
    pub(crate) value: String,
}

/// A place between two rows.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Bytes before it.
    pub(crate) byte: u64,
    /// Number of the line that follows, from 1.
    pub(crate) line: u64,
}

/// Why a file's rows cannot be read on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {what}", path.display(), if *line == 0 { String::new() } else { format!(" line {line}") })]
pub(crate) struct RowError {
    path: PathBuf,
    /// From 1; 0 for the file as a whole.
    line: u64,
    what: String,
}

/// An open file. After an error it must not be read on.
pub(crate) struct Rows {
    path: PathBuf,
    len: u64,
    format: Format,
}

enum Format {
    Csv(Csv),
    Ndjson(Ndjson),
}

struct Csv {
    reader: csv::Reader<Limited>,
    record: ByteRecord,
    /// The columns' names.
    names: Vec<String>,
    /// The same, each as it begins a field of a JSON object: `"name":`.
    labels: Vec<String>,
    key: usize,
}

struct Ndjson {
    reader: BufReader<File>,
    place: Place,
    line: Vec<u8>,
    key: Option<String>,
}

/// A file of which a row may only read so much: an open quote must not swallow all of it.
struct Limited {
    file: File,
    left: u64,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let what = format!("the row is over {ROW_BYTES_MAX} bytes; is a quote left open?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let read = self.file.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

impl Seek for Limited {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

type What<T> = Result<T, (u64, String)>;

impl Rows {
    /// Opens `path`: NDJSON if its name ends in `.ndjson` or `.jsonl` or it begins with `{`, else
    /// CSV with a header line.
    pub(crate) fn open(path: &Path, shape: &Shape) -> Result<Self, RowError> {
        let failed = |(line, what)| RowError {
            path: path.to_owned(),
            line,
            what,
        };
        let system = |error: io::Error| failed((0, error.to_string()));
        let mut file = File::open(path).map_err(system)?;
        let len = file.metadata().map_err(system)?.len();
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        let mut first = [0];
        let first = file.read(&mut first).map_err(system)? == 1 && first == *b"{";
        file.rewind().map_err(system)?;
        let format = if first || extension == "ndjson" || extension == "jsonl" {
            Format::Ndjson(Ndjson {
                reader: BufReader::new(file),
                place: Place { byte: 0, line: 1 },
                line: Vec::new(),
                key: shape.key.clone(),
            })
        } else {
            Format::Csv(Csv::open(file, shape).map_err(failed)?)
        };
        Ok(Self {
            path: path.to_owned(),
            len,
            format,
        })
    }

    /// Size of the file in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Where the next row begins.
    pub(crate) fn place(&self) -> Place {
        match &self.format {
            Format::Csv(csv) => {
                let position = csv.reader.position();
                Place {
                    byte: position.byte(),
                    line: position.line(),
                }
            }
            Format::Ndjson(ndjson) => ndjson.place,
        }
    }

    /// Goes on at `place`, which [`place`](Self::place) said before of the same file.
    pub(crate) fn seek(&mut self, place: Place) -> Result<(), RowError> {
        let done = match &mut self.format {
            Format::Csv(csv) => {
                let mut position = Position::new();
                position.set_byte(place.byte).set_line(place.line);
                csv.reader.seek(position).map_err(|error| error.to_string())
            }
            Format::Ndjson(ndjson) => {
                ndjson.place = place;
                let sought = ndjson.reader.seek(SeekFrom::Start(place.byte));
                sought.map(drop).map_err(|error| error.to_string())
            }
        };
        done.map_err(|what| RowError {
            path: self.path.clone(),
            line: place.line,
            what,
        })
    }

    /// The next row; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Row>, RowError> {
        let row = match &mut self.format {
            Format::Csv(csv) => csv.next(),
            Format::Ndjson(ndjson) => ndjson.next(),
        };
        row.map_err(|(line, what)| RowError {
            path: self.path.clone(),
            line,
            what,
        })
    }
}

impl Csv {
    fn open(file: File, shape: &Shape) -> What<Self> {
        let limited = Limited {
            file,
            left: ROW_BYTES_MAX,
        };
        let mut reader = ReaderBuilder::new()
            .delimiter(shape.delimiter)
            .from_reader(limited);
        let header = reader
            .byte_headers()
            .map_err(|error| of_csv(&error))?
            .clone();
        let mut names = Vec::<String>::new();
        for name in &header {
            let name = String::from_utf8(name.to_vec());
            let name = name.map_err(|_| (1, "the header line is not UTF-8".to_owned()))?;
            if names.contains(&name) {
                return Err((1, format!("two columns are called {name:?}")));
            }
            names.push(name);
        }
        if names.is_empty() {
            return Err((
                0,
                "the file is empty; its first line must name the columns".to_owned(),
            ));
        }
        let key = match &shape.key {
            None => 0,
            Some(key) => names.iter().position(|name| name == key).ok_or_else(|| {
                let columns = names.join(", ");
                let delimiter = char::from(shape.delimiter);
                let hint = match names.len() {
                    1 => format!(" Is {delimiter:?} what separates them? Else give --delimiter"),
                    _ => String::new(),
                };
                (
                    1,
                    format!("there is no column {key:?}; there are: {columns}.{hint}"),
                )
            })?,
        };
        let label = |name: &String| format!("{}:", super::quoted(name));
        let labels = names.iter().map(label).collect();
        Ok(Self {
            reader,
            record: ByteRecord::new(),
            names,
            labels,
            key,
        })
    }

    fn next(&mut self) -> What<Option<Row>> {
        self.reader.get_mut().left = ROW_BYTES_MAX;
        let before = self.reader.position().line();
        let more = self.reader.read_byte_record(&mut self.record);
        if !more.map_err(|error| of_csv_at(&error, before))? {
            return Ok(None);
        }
        let line = self.record.position().map_or(before, Position::line);
        let mut value = String::with_capacity(2 * self.record.as_slice().len());
        let mut key = "";
        for (at, field) in self.record.iter().enumerate() {
            let field = std::str::from_utf8(field).map_err(|error| {
                let (column, byte) = (&self.names[at], error.valid_up_to() + 1);
                (
                    line,
                    format!("column {column:?} is not UTF-8, from its byte {byte} on"),
                )
            })?;
            value.push(if at == 0 { '{' } else { ',' });
            value += &self.labels[at];
            value += &super::quoted(field);
            if at == self.key {
                key = field;
            }
        }
        value.push('}');
        let key = key.to_owned();
        check_key(&key, &self.names[self.key]).map_err(|what| (line, what))?;
        Ok(Some(Row { key, value }))
    }
}

fn check_key(key: &str, column: &str) -> Result<(), String> {
    if key.is_empty() {
        return Err(format!("the key, column {column:?}, is empty"));
    }
    let checked = mainstay_storage::check_key(key.as_bytes());
    checked.map_err(|error| format!("the key, column {column:?}: {error}"))
}

fn of_csv(error: &csv::Error) -> (u64, String) {
    of_csv_at(error, 1)
}

fn of_csv_at(error: &csv::Error, line: u64) -> (u64, String) {
    match error.kind() {
        ErrorKind::UnequalLengths {
            pos,
            expected_len,
            len,
        } => {
            let line = pos.as_ref().map_or(line, Position::line);
            (
                line,
                format!("the header has {expected_len} columns, this row {len}"),
            )
        }
        ErrorKind::Io(error) => (line, error.to_string()),
        _ => (line, error.to_string()),
    }
}

impl Ndjson {
    fn next(&mut self) -> What<Option<Row>> {
        loop {
            let line = self.place.line;
            self.line.clear();
            let mut limited = (&mut self.reader).take(ROW_BYTES_MAX);
            let read = limited.read_until(b'\n', &mut self.line);
            let read = read.map_err(|error| (line, error.to_string()))? as u64;
            if read == 0 {
                return Ok(None);
            }
            if read == ROW_BYTES_MAX && self.line.last() != Some(&b'\n') {
                return Err((line, format!("the line is over {ROW_BYTES_MAX} bytes")));
            }
            self.place = Place {
                byte: self.place.byte + read,
                line: line + 1,
            };
            let text = std::str::from_utf8(&self.line).map_err(|error| {
                let byte = error.valid_up_to() + 1;
                (line, format!("not UTF-8, from byte {byte} of the line on"))
            })?;
            let text = text.trim_start_matches('\u{FEFF}').trim();
            if !text.is_empty() {
                return self.row(text).map(Some).map_err(|what| (line, what));
            }
        }
    }

    fn row(&self, text: &str) -> Result<Row, String> {
        let object = serde_json::from_str::<Map<String, Value>>(text);
        let object = object.map_err(|error| format!("not a JSON object: {error}"))?;
        let field = match &self.key {
            Some(key) => object.get_key_value(key),
            None => object.iter().next(),
        };
        let Some((name, key)) = field else {
            let wanted = self.key.as_deref().unwrap_or_default();
            let fields = object
                .keys()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            return Err(format!("there is no field {wanted:?}; there are: {fields}"));
        };
        let key = match key {
            Value::String(text) => text.clone(),
            Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
            _ => {
                return Err(format!(
                    "the key, field {name:?}, is neither a string nor a whole number of 64 bits"
                ));
            }
        };
        check_key(&key, name)?;
        Ok(Row {
            key,
            value: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests;
