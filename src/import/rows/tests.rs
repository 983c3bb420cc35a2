//! Rows of CSV and NDJSON files, and every way such a file can be wrong.

use super::*;

struct Given {
    dir: tempfile::TempDir,
    name: &'static str,
}

fn given(name: &'static str, text: impl AsRef<[u8]>) -> Given {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), text).unwrap();
    Given { dir, name }
}

impl Given {
    fn open(&self, key: &str, delimiter: u8) -> Result<Rows, RowError> {
        let shape = Shape {
            key: Some(key.to_owned()),
            delimiter,
        };
        Rows::open(&self.dir.path().join(self.name), &shape)
    }

    fn read(&self, key: &str, delimiter: u8) -> Result<Vec<(String, String)>, RowError> {
        let mut rows = self.open(key, delimiter)?;
        let mut read = Vec::new();
        while let Some(Row { key, value }) = rows.next()? {
            read.push((key, value));
        }
        Ok(read)
    }

    /// The error, without the directory.
    fn error(&self, key: &str) -> String {
        let error = self.read(key, b',').unwrap_err().to_string();
        let dir = format!("{}/", self.dir.path().display());
        error.strip_prefix(&dir).unwrap_or(&error).to_owned()
    }
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[test]
fn a_csv_row_becomes_an_object_of_strings_in_column_order() {
    let csv = given(
        "t.csv",
        "\u{FEFF}name;id;note\r\n\"a;\"\"b\";7;\r\n\"two\nlines\";8;ü\n",
    );
    let expected = [
        pair("7", r#"{"name":"a;\"b","id":"7","note":""}"#),
        pair("8", r#"{"name":"two\nlines","id":"8","note":"ü"}"#),
    ];
    assert_eq!(csv.read("id", b';').unwrap(), expected);
}

#[test]
fn a_line_of_ndjson_is_kept_as_it_is() {
    let text = "{\"b\": 1.50, \"id\":7}\r\n\n  {\"id\":\"x\",\"a\":null}";
    let expected = [
        pair("7", r#"{"b": 1.50, "id":7}"#),
        pair("x", r#"{"id":"x","a":null}"#),
    ];
    assert_eq!(given("t.jsonl", text).read("id", b',').unwrap(), expected);
    assert_eq!(
        given("no-extension", text).read("id", b',').unwrap(),
        expected
    );
}

#[test]
fn without_a_key_the_first_column_or_field_is_it() {
    let shape = Shape {
        key: None,
        delimiter: b',',
    };
    for (name, text) in [
        ("t.csv", "b,a\n1,2\n"),
        ("t.ndjson", "{\"b\":\"1\",\"a\":2}"),
    ] {
        let given = given(name, text);
        let mut rows = Rows::open(&given.dir.path().join(name), &shape).unwrap();
        assert_eq!(rows.next().unwrap().unwrap().key, "1");
    }
}

#[test]
fn the_delimiter_of_a_file_is_guessed_from_its_header() {
    let headers = [
        ("a,b,c", b','),
        ("a;b, c;d", b';'),
        ("a\tb", b'\t'),
        ("a", b','),
        ("a|b", b'|'),
    ];
    for (header, delimiter) in headers {
        let given = given("t.csv", format!("{header}\n1|2|3|4|5,,,,,,\n"));
        let shape = Shape::guess(&given.dir.path().join("t.csv")).unwrap();
        assert_eq!(shape.delimiter, delimiter, "{header}");
    }
}

#[test]
fn reading_goes_on_where_a_place_was_noted() {
    let csv = "id,n\n1,a\n\"2\",\"b\nb\"\n3,c\n";
    let ndjson = "{\"id\":1}\n{\"id\":2}\n{\"id\":3}\n";
    for given in [given("t.csv", csv), given("t.ndjson", ndjson)] {
        let all = given.read("id", b',').unwrap();
        for count in 0..=all.len() {
            let mut rows = given.open("id", b',').unwrap();
            for _ in 0..count {
                rows.next().unwrap();
            }
            let place = rows.place();
            let mut again = given.open("id", b',').unwrap();
            again.seek(place).unwrap();
            assert_eq!(again.place(), place);
            let rest = std::iter::from_fn(|| again.next().unwrap());
            let rest = rest.map(|row| (row.key, row.value)).collect::<Vec<_>>();
            assert_eq!(rest, all[count..], "{} after {count}", given.name);
        }
    }
}

#[test]
fn a_csv_that_cannot_be_taken_says_where_and_why() {
    let error = |text: &[u8]| given("t.csv", text).error("id");
    assert_eq!(
        error(b"a,b\n1,2\n"),
        "t.csv line 1: there is no column \"id\"; there are: a, b."
    );
    assert_eq!(
        error(b"id;b\n1;2\n"),
        "t.csv line 1: there is no column \"id\"; there are: id;b. Is ',' what separates them? \
         Else give --delimiter"
    );
    assert_eq!(
        error(b"id,b\n1,2\n3\n"),
        "t.csv line 3: the header has 2 columns, this row 1"
    );
    assert_eq!(
        error(b"id,b\n1,2\n3,4,5\n"),
        "t.csv line 3: the header has 2 columns, this row 3"
    );
    assert_eq!(
        error(b"id,b\n1,2\n,4\n"),
        "t.csv line 3: the key, column \"id\", is empty"
    );
    assert_eq!(
        error(b"id,b\n1,ok\xFF\n"),
        "t.csv line 2: column \"b\" is not UTF-8, from its byte 3 on"
    );
    assert_eq!(
        error(b"id,\xFF\n"),
        "t.csv line 1: the header line is not UTF-8"
    );
    assert_eq!(
        error(b"id,id\n"),
        "t.csv line 1: two columns are called \"id\""
    );
    assert_eq!(
        error(b""),
        "t.csv: the file is empty; its first line must name the columns"
    );
}

#[test]
fn ndjson_that_cannot_be_taken_says_where_and_why() {
    let error = |text: &[u8]| given("t.ndjson", text).error("id");
    let after = |line: &[u8]| error(&[b"{\"id\":1}\n".as_slice(), line].concat());
    assert!(after(b"[1]\n").starts_with("t.ndjson line 2: not a JSON object: "));
    assert!(after(b"{\"id\":\n").starts_with("t.ndjson line 2: not a JSON object: EOF"));
    assert_eq!(
        after(b"{\"ID\":1,\"b\":2}\n"),
        "t.ndjson line 2: there is no field \"id\"; there are: ID, b"
    );
    assert_eq!(
        after(b"{\"id\":\"\"}\n"),
        "t.ndjson line 2: the key, column \"id\", is empty"
    );
    assert_eq!(
        after(b"\n{\"\xFF\":1}"),
        "t.ndjson line 3: not UTF-8, from byte 3 of the line on"
    );
    for bad in ["null", "1.5", "true", "[]", "99999999999999999999"] {
        let text = format!("{{\"id\":{bad}}}");
        let expected = "t.ndjson line 2: the key, field \"id\", is neither a string nor a whole \
                        number of 64 bits";
        assert_eq!(after(text.as_bytes()), expected, "{bad}");
    }
}

#[test]
fn a_key_over_the_limit_says_where() {
    let text = format!("id\n{}\n", "x".repeat(mainstay_storage::KEY_MAX + 1));
    let error = given("t.csv", text).error("id");
    assert!(
        error.starts_with("t.csv line 2: the key, column \"id\": key of 65528 bytes"),
        "{error}"
    );
}

#[test]
fn a_missing_file_is_said_to_be_missing() {
    let given = given("t.csv", "");
    let error = Rows::open(
        &given.dir.path().join("u.csv"),
        &Shape {
            key: None,
            delimiter: b',',
        },
    );
    let error = error.err().unwrap().to_string();
    assert!(
        error.ends_with("u.csv: No such file or directory (os error 2)"),
        "{error}"
    );
}
