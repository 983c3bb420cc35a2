//! Running commands, with a deadline and everything they said.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Instant;

use super::{DEADLINE, LOOK_EVERY};

/// What a command ended with.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    /// Panics, with what was said, unless the command succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

/// Runs `mainstay` with `args`.
pub(crate) fn mainstay<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Done {
    run(program(None).args(args))
}

/// The command `mainstay`, in a network namespace if one is given.
pub(crate) fn program(namespace: Option<&str>) -> Command {
    // One that is broken on purpose has a place of its own; see tests/canaries.
    let other = std::env::var_os("MAINSTAY_BINARY");
    let mainstay = other.unwrap_or_else(|| env!("CARGO_BIN_EXE_mainstay").into());
    let mut command = match namespace {
        None => Command::new(mainstay),
        Some(namespace) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace]).arg(mainstay);
            command
        }
    };
    scrub(&mut command);
    command
}

/// Takes settings of somebody's real node away from a command. Which rule a build breaks on purpose
/// is none of them.
pub(crate) fn scrub(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text == "MAINSTAY_CANARY" {
            continue;
        }
        if text.starts_with("MAINSTAY_") || text.starts_with("PG") {
            command.env_remove(&name);
        }
    }
}

/// Runs `command` to its end; it is killed at the deadline.
///
/// # Panics
/// When it cannot be started or does not end in time.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Done {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let out = read(child.stdout.take().expect("it is piped"));
    let err = read(child.stderr.take().expect("it is piped"));
    let ended = wait(&mut child);
    if ended.is_none() {
        // One that ended just now cannot be killed, which is as good.
        let _ = child.kill();
        let _ = child.wait();
    }
    let (out, err) = (out.join().expect("reads"), err.join().expect("reads"));
    let Some(status) = ended else {
        panic!("{command:?} did not end within {DEADLINE:?}; it said {out} {err}");
    };
    Done {
        code: status.code(),
        out,
        err,
    }
}

fn read(mut from: impl std::io::Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth showing.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for a child's end; `None` at the deadline.
pub(super) fn wait(child: &mut Child) -> Option<ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < DEADLINE {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    None
}

/// A command that runs until it is ended, and whose output goes to a file.
#[derive(Debug)]
pub(crate) struct Background {
    child: Child,
    log: PathBuf,
}

impl Background {
    #[track_caller]
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::create(log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        let mut bytes = Vec::new();
        File::open(&self.log)
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        let ended = self.child.try_wait().expect("a child can be waited for");
        ended.is_some()
    }

    /// Asks it to end, as Ctrl-C does, and returns its exit code.
    #[track_caller]
    pub(crate) fn interrupt(&mut self) -> Option<i32> {
        signal("INT", self.child.id());
        match wait(&mut self.child) {
            Some(status) => status.code(),
            None => panic!("it did not end: {}", self.said()),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // One that has ended cannot be killed, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- {}\n{}", self.log.display(), self.said());
        }
    }
}

/// Sends a signal to a child of this process.
#[track_caller]
pub(super) fn signal(name: &str, child: u32) {
    let sent = Command::new("/bin/kill")
        .arg(format!("-{name}"))
        .arg(child.to_string())
        .status();
    assert!(
        sent.is_ok_and(|status| status.success()),
        "cannot send SIG{name}"
    );
}
