//! A test of this binary as a process of its own: for what has to be measured or killed by itself
//! and needs more than the program offers. It says lines and is told lines.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::run::wait;

/// Marks the lines of a twin among those of the test harness.
const MARK: &str = "@ ";

/// A running twin. It is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Twin {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Twin {
    /// Runs the ignored test of this path with an environment; its standard error goes to `log`.
    #[track_caller]
    pub(crate) fn start(test: &str, environment: &[(&str, &str)], log: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--ignored"]);
        command.args(["--nocapture", "--test-threads", "1"]);
        command.envs(environment.iter().copied());
        let err = File::options().create(true).append(true).open(log).unwrap();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(err);
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if let Some((_, line)) = line.split_once(MARK) {
                    // When nobody waits any more, nobody needs it.
                    let _ = sender.send(line.to_owned());
                }
            }
        });
        let stdin = child.stdin.take().expect("it is piped");
        let log = log.to_owned();
        Self {
            child,
            stdin,
            lines,
            log,
        }
    }

    /// What follows `word` on its next line, which has to come within that time.
    #[track_caller]
    pub(crate) fn hear(&self, word: &str, within: Duration) -> String {
        let line = self.lines.recv_timeout(within);
        let line = line.unwrap_or_else(|_| panic!("the twin never said {word:?}"));
        let told = line.strip_prefix(word);
        let told = told.unwrap_or_else(|| panic!("{line:?} instead of {word:?}"));
        told.trim().to_owned()
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn until_ended(&mut self) {
        assert!(wait(&mut self.child).is_some(), "the twin does not end");
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        // One that has ended cannot be killed, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let said = std::fs::read(&self.log).unwrap_or_default();
            eprintln!(
                "---- {}\n{}",
                self.log.display(),
                String::from_utf8_lossy(&said)
            );
        }
    }
}

/// Says a line, as a twin.
pub(crate) fn say(line: &str) {
    // The harness may have begun a line of its own.
    println!("\n{MARK}{line}");
}
