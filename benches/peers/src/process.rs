//! Processes: a node of Mainstay as a child that takes orders, and what any process used.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use serde_json::Value;

/// Clock ticks a second in `/proc/PID/stat`, which Linux fixes for everybody who reads it.
const TICKS: f64 = 100.0;

/// Longest time that an order takes.
const ANSWER_MAX: Duration = Duration::from_secs(300);

/// A node of Mainstay in a process of its own; see `node` for what it understands.
pub(crate) struct Node {
    child: Child,
    orders: ChildStdin,
    /// How long it took to start, in milliseconds, as it says itself.
    pub(crate) ready_ms: f64,
    answers: mpsc::Receiver<String>,
    pub(crate) address: String,
}

impl Node {
    /// Starts a node called `name` in `dir`; `more` are further arguments.
    pub(crate) fn start(dir: &Path, name: &str, more: &[&str]) -> Self {
        let this = std::env::current_exe().expect("it runs");
        let mut command = Command::new(this);
        command.arg("node").arg(dir).arg(name).args(more);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this program can run");
        let orders = child.stdin.take().expect("it is piped");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (tell, answers) = mpsc::channel();
        // It ends with the node, whose output ends then.
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| tell.send(line))
        });
        let mut node = Self {
            child,
            orders,
            answers,
            address: String::new(),
            ready_ms: 0.0,
        };
        let ready = node.answer();
        node.ready_ms = ready["ready_ms"].as_f64().expect("a number");
        node.address = ready["listen"].as_str().expect("an address").to_owned();
        node
    }

    /// Begins what `order` says.
    pub(crate) fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("the node runs");
    }

    /// Waits for the answer to an order.
    pub(crate) fn answer(&mut self) -> Value {
        let answer = self.answers.recv_timeout(ANSWER_MAX);
        let line = answer.expect("the node runs, and answers in time");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    pub(crate) fn ask(&mut self, order: &str) -> Value {
        self.order(order);
        self.answer()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        self.note_use();
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was killed");
    }
}

impl Node {
    /// Adds what it used to what is metered; nothing once it ended.
    fn note_use(&self) {
        let (cpu, peak) = (cpu_seconds(self.pid()), peak_mib(self.pid()));
        if is_there(self.pid()) {
            let mut used = USED.lock().expect("no panic");
            used.cpu_s += cpu;
            used.peak_mib = used.peak_mib.max(peak);
        }
    }
}

/// What nodes used since it was taken last: processor time of all of them, and the most memory that
/// one of them had in use.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) cpu_s: f64,
    pub(crate) peak_mib: f64,
}

static USED: Mutex<Used> = Mutex::new(Used {
    cpu_s: 0.0,
    peak_mib: 0.0,
});

/// What the nodes that have ended used, and begins anew.
pub(crate) fn take_used() -> Used {
    std::mem::take(&mut USED.lock().expect("no panic"))
}

impl Drop for Node {
    fn drop(&mut self) {
        self.note_use();
        // One that was killed already needs no end.
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// Processor seconds that a process and its children used, those included that have ended.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let own = stat(pid).map_or(0.0, |fields| {
        // utime, stime, cutime, cstime.
        fields[11..15].iter().sum::<f64>() / TICKS
    });
    let children = children(pid).into_iter();
    own + children.map(cpu_seconds).sum::<f64>()
}

/// Most memory that a process had in use, in MiB, since the last [`forget_peak`].
pub(crate) fn peak_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}

/// Begins to measure the peak anew.
pub(crate) fn forget_peak(pid: u32) {
    // Where the kernel does not let us, the peak is that of the whole life, an upper bound.
    let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect()
}

/// The numbers behind the command's name.
fn stat(pid: u32) -> Option<Vec<f64>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let fields = rest
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0.0));
    Some(fields.collect())
}

/// A process and everything that it started, itself first.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    for child in children(pid) {
        all.extend(family(child));
    }
    all
}

/// Whether a process runs, or has ended and was not looked after by its parent.
pub(crate) fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
