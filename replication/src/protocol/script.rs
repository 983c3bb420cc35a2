//! Golden scripts: commands, and what the room answered when a human last read it.
//!
//! A script is text: `#` lines say what is meant, command lines `name key=value..` follow, then a
//! line `---`, then the recorded answers, then an empty line. `UPDATE_SCRIPTS=1` records anew; the
//! difference is then read, not believed. Exists in tests only.

use std::str::FromStr;
use std::time::Duration;

use mainstay_storage::{Lsn, Timeline};
use uuid::Uuid;

use crate::protocol::level::parse_duration;
use crate::protocol::name::NodeName;
use crate::protocol::vote::Lives;

/// The life of everybody's data where none are lost.
pub(crate) const FIRST_LIFE: Uuid = Uuid::from_u128(1);

/// All of these, in it.
pub(crate) fn first_lives(names: impl IntoIterator<Item = NodeName>) -> Lives {
    names.into_iter().map(|name| (name, FIRST_LIFE)).collect()
}

/// One command line.
pub(crate) struct Command {
    line: String,
}

impl Command {
    pub(crate) fn name(&self) -> &str {
        self.line.split(' ').next().unwrap()
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        let mut words = self.line.split(' ').skip(1);
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    pub(crate) fn has(&self, word: &str) -> bool {
        self.line.split(' ').skip(1).any(|found| found == word)
    }

    pub(crate) fn get<T: FromStr>(&self, key: &str) -> Option<T> {
        let parse = |text: &str| match text.parse() {
            Ok(value) => value,
            Err(_) => panic!("{key} in {:?}", self.line),
        };
        self.text(key).map(parse)
    }

    pub(crate) fn lsn(&self, key: &str) -> Lsn {
        self.get(key).unwrap_or_default()
    }

    pub(crate) fn duration(&self, key: &str) -> Duration {
        let text = self.text(key).unwrap_or("0s");
        parse_duration(text).unwrap_or_else(|| panic!("{key} in {:?}", self.line))
    }

    pub(crate) fn timeline(&self, key: &str) -> Option<Timeline> {
        self.text(key).map(timeline)
    }
}

/// Reads `2:b`, the short form of a timeline: number and id in hexadecimal.
pub(crate) fn timeline(text: &str) -> Timeline {
    let (number, id) = text.split_once(':').expect("a timeline looks like 2:b");
    Timeline {
        number: number.parse().unwrap(),
        id: Uuid::from_u128(u128::from_str_radix(id, 16).unwrap()),
    }
}

/// Replaces timelines in debug output by their short form.
pub(crate) fn shorten(debug: &str) -> String {
    let mut parts = debug.split("Timeline { number: ");
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        let (number, rest) = part.split_once(", id: ").unwrap();
        let (id, rest) = rest.split_once(" }").unwrap();
        let id = id.parse::<Uuid>().unwrap().as_u128();
        text += &format!("{number}:{id:x}{rest}");
    }
    text
}

/// The script `text` with each answer replaced by what `answer` says now.
pub(crate) fn play(text: &str, mut answer: impl FnMut(&Command) -> Vec<String>) -> String {
    let mut played = String::new();
    let mut answers = Vec::new();
    let mut recorded = false;
    for line in text.lines().chain([""]) {
        match line {
            "" => {
                if recorded || !answers.is_empty() {
                    if !recorded {
                        played += "---\n";
                    }
                    answers
                        .drain(..)
                        .for_each(|line: String| played += &format!("{line}\n"));
                }
                recorded = false;
                played += "\n";
            }
            "---" => {
                recorded = true;
                played += "---\n";
            }
            _ if recorded => {}
            _ => {
                played += &format!("{line}\n");
                if !line.starts_with('#') {
                    let command = Command {
                        line: line.to_owned(),
                    };
                    let lines = answer(&command);
                    answers.extend(lines.iter().map(|line| shorten(line)));
                }
            }
        }
    }
    played.trim_end().to_owned() + "\n"
}

/// Compares `played` with the recording, or records it when `UPDATE_SCRIPTS` is set.
pub(crate) fn compare(file: &str, recorded: &str, played: &str) {
    if recorded == played {
        return;
    }
    if std::env::var_os("UPDATE_SCRIPTS").is_some() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/protocol/scripts/");
        std::fs::write(format!("{folder}{file}"), played).unwrap();
        return;
    }
    let pairs = recorded.lines().zip(played.lines()).enumerate();
    let differs = pairs.into_iter().find(|(_, (old, new))| old != new);
    let shorter = recorded.lines().count().min(played.lines().count());
    let (at, (old, new)) = differs.unwrap_or((shorter, ("end", "end, or more")));
    panic!(
        "{file}:{} differs; UPDATE_SCRIPTS=1 records anew\n  recorded: {old}\n  now:      {new}",
        at + 1
    );
}

/// Plays a script of the `scripts` folder against a closure.
macro_rules! run {
    ($file:literal, $answer:expr) => {{
        let recorded = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/protocol/scripts/",
            $file
        ));
        let played = $crate::protocol::script::play(recorded, $answer);
        $crate::protocol::script::compare($file, recorded, &played);
    }};
}
pub(crate) use run;
