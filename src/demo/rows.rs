//! What the demo stores: rows of a file, or customers and orders that could be.
//!
//! The made-up rows depend on their number alone, so that every run stores the same.

use std::collections::HashSet;
use std::path::Path;

use crate::cli::Failure;
use crate::demo::ROWS_DEFAULT;
use crate::import::{Rows, Shape};
use crate::scrambled::scrambled;

/// Orders for each customer.
const ORDERS_PER_CUSTOMER: u64 = 9;

/// One row to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) table: &'static str,
    pub(crate) key: String,
    pub(crate) value: String,
}

impl Item {
    /// Bytes of key and value.
    pub(crate) fn len(&self) -> u64 {
        (self.key.len() + self.value.len()) as u64
    }
}

/// The rows to load, one after the other.
pub(crate) struct Source {
    file: Option<InputFile>,
    /// What the rows are, for people.
    what: String,
    given: u64,
    wanted: u64,
}

struct InputFile {
    rows: Rows,
    keys: HashSet<String>,
}

impl Source {
    /// Rows of `input`, or made-up ones: `rows` of them. A file with fewer is followed by made-up
    /// ones.
    pub(crate) fn open(input: Option<&Path>, rows: Option<u64>) -> Result<Self, Failure> {
        let Some(path) = input else {
            let what = "customers and orders".to_owned();
            return Ok(Self {
                file: None,
                what,
                given: 0,
                wanted: rows.unwrap_or(ROWS_DEFAULT),
            });
        };
        let shape = Shape::guess(path)
            .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
        let file = Rows::open(path, &shape).map_err(Failure::failed)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let what = format!("rows of {name}");
        let file = Some(InputFile {
            rows: file,
            keys: HashSet::new(),
        });
        Ok(Self {
            file,
            what,
            given: 0,
            wanted: rows.unwrap_or(0),
        })
    }

    /// What the rows are, for people.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// How many there will be, if that is known.
    pub(crate) fn expected(&self) -> Option<u64> {
        (self.wanted > 0).then_some(self.wanted)
    }

    /// The next row to load.
    pub(crate) fn next(&mut self) -> Result<Option<Item>, Failure> {
        if self.wanted > 0 && self.given == self.wanted {
            return Ok(None);
        }
        if let Some(file) = &mut self.file {
            if let Some(item) = file.next()? {
                self.given += 1;
                return Ok(Some(item));
            }
            self.file = None;
        }
        let number = self.given;
        self.given += u64::from(self.given < self.wanted);
        Ok((number < self.wanted).then(|| made_up(number)))
    }
}

impl InputFile {
    fn next(&mut self) -> Result<Option<Item>, Failure> {
        let Some(row) = self.rows.next().map_err(Failure::failed)? else {
            return Ok(None);
        };
        let mut key = row.key;
        if self.keys.contains(&key) {
            // The first column need not be unique, and every row is to be found again.
            let line = self.rows.place().line;
            key += &format!("#{line}");
        }
        self.keys.insert(key.clone());
        Ok(Some(Item {
            table: "input",
            key,
            value: row.value,
        }))
    }
}

/// Row `number` of the made-up ones.
fn made_up(number: u64) -> Item {
    let (customer, place) = (
        number / (ORDERS_PER_CUSTOMER + 1),
        number % (ORDERS_PER_CUSTOMER + 1),
    );
    match place {
        0 => self::customer(customer),
        place => order(customer * ORDERS_PER_CUSTOMER + place - 1, customer),
    }
}

fn customer(number: u64) -> Item {
    const FIRST: [&str; 12] = [
        "Ada", "Grace", "Edsger", "Barbara", "Tony", "Frances", "Niklaus", "Radia", "Dennis",
        "Hedy", "José", "Zoë",
    ];
    const LAST: [&str; 11] = [
        "Almeida", "Becker", "Costa", "Dubois", "Eriksen", "Fischer", "García", "Horváth", "Ito",
        "Jansen", "Kowalski",
    ];
    const CITY: [&str; 10] = [
        "Berlin",
        "Bordeaux",
        "Gdańsk",
        "Göteborg",
        "Kyoto",
        "Lisboa",
        "Montréal",
        "Porto",
        "Utrecht",
        "Zürich",
    ];
    let random = scrambled(number);
    let (first, last) = (pick(&FIRST, random), pick(&LAST, random >> 16));
    let (city, since) = (pick(&CITY, random >> 32), 2009 + (random >> 48) % 17);
    let key = format!("C{number:07}");
    let value =
        format!(r#"{{"id":"{key}","name":"{first} {last}","city":"{city}","since":"{since}"}}"#);
    Item {
        table: "customers",
        key,
        value,
    }
}

/// Order `number`, of a customer.
pub(crate) fn order(number: u64, customer: u64) -> Item {
    const GOODS: [&str; 12] = [
        "coffee grinder",
        "desk lamp",
        "rain jacket",
        "chess set",
        "bicycle bell",
        "teapot",
        "field notebook",
        "wool blanket",
        "bread knife",
        "headphones",
        "garden hose",
        "tent",
    ];
    const STATE: [&str; 5] = ["placed", "packed", "shipped", "delivered", "returned"];
    let random = scrambled(number ^ 0x0DE5);
    let (goods, state) = (pick(&GOODS, random), pick(&STATE, random >> 40));
    let (quantity, cents) = (1 + (random >> 8) % 5, 490 + (random >> 12) % 19_500);
    let (month, day) = (1 + (random >> 30) % 12, 1 + (random >> 34) % 28);
    let minutes = (random >> 44) % 1440;
    let (hour, minute) = (minutes / 60, minutes % 60);
    let total = quantity * cents;
    let key = format!("O{number:012}");
    let value = format!(
        r#"{{"id":"{key}","customer":"C{customer:07}","placed":"2026-{month:02}-{day:02}T{hour:02}:{minute:02}Z","item":"{goods}","quantity":"{quantity}","price":"{}.{:02}","total":"{}.{:02}","state":"{state}"}}"#,
        cents / 100,
        cents % 100,
        total / 100,
        total % 100,
    );
    Item {
        table: "orders",
        key,
        value,
    }
}

fn pick<const N: usize>(from: &[&'static str; N], random: u64) -> &'static str {
    let at = random % N as u64;
    from[usize::try_from(at).expect("below N")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn all(mut source: Source) -> Vec<Item> {
        std::iter::from_fn(|| source.next().unwrap()).collect()
    }

    #[test]
    fn made_up_rows_are_valid_distinct_and_always_the_same() {
        let rows = all(Source::open(None, Some(1000)).unwrap());
        assert_eq!(rows.len(), 1000);
        let mut keys = BTreeMap::new();
        for row in &rows {
            let object = serde_json::from_str::<BTreeMap<String, String>>(&row.value).unwrap();
            assert_eq!(object["id"], row.key);
            assert!(
                keys.insert((row.table, &row.key), ()).is_none(),
                "{}",
                row.key
            );
        }
        let customers = rows.iter().filter(|row| row.table == "customers");
        assert_eq!(customers.count(), 100);
        assert_eq!(
            rows[1].value,
            concat!(
                r#"{"id":"O000000000000","customer":"C0000000","placed":"2026-11-07T22:06Z","#,
                r#""item":"bread knife","quantity":"5","price":"100.47","total":"502.35","#,
                r#""state":"shipped"}"#
            )
        );
        assert_eq!(all(Source::open(None, Some(1000)).unwrap()), rows);
    }

    #[test]
    fn a_file_gives_its_rows_once_each_though_keys_repeat() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        std::fs::write(&path, "k,v\na,1\na,2\nb,3\n").unwrap();
        let keys = |rows: Option<u64>| {
            let rows = all(Source::open(Some(&path), rows).unwrap()).into_iter();
            rows.map(|row| row.key).collect::<Vec<_>>()
        };
        assert_eq!(keys(None), ["a", "a#4", "b"]);
        assert_eq!(keys(Some(2)), ["a", "a#4"]);
        assert_eq!(
            keys(Some(5)).len(),
            5,
            "a short file is followed by made-up rows"
        );
    }
}
