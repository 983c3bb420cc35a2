//! Members of a cluster: the program, and a process that embeds a node and takes, beside HTTP,
//! transactions that read before they write, which HTTP does not offer.
//!
//! On a port of its own, each line asks for a transaction and is answered by a line:
//!
//! ```text
//! get KEY MARK            done VALUE LSN          - stands for nothing
//! set KEY OLD NEW MARK    done true|false LSN     puts NEW if KEY holds OLD
//!                         unknown                 it may be there and may not
//!                         refused                 nothing was done
//! ```
//!
//! Either writes to MARK, so that what it read is validated when it commits, and is as of its LSN.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mainstay::http::HttpOptions;
use mainstay::{CONFLICT_RETRIES_MAX, Error, Node as Embedded, SegmentSize};
use serde_json::{Value, json};

use super::clients::TABLE;
use crate::support::{DEADLINE, Http, Node, Start, Twin, say};

const POLICY: &str = "ANY 1 (*)";

/// A node that is killed and started again on the same ports.
pub(super) trait Member {
    fn http(&self) -> &Http;
    fn address(&self) -> String;
    fn url(&self) -> String;
    /// Where it takes transactions that read, if it does.
    fn transactions(&self) -> Option<String>;
    fn kill(&mut self);
    /// Starts it again after it was killed, as a standby of the node at `url`.
    fn start_again(&mut self, url: &str);
}

impl Member for Node {
    fn http(&self) -> &Http {
        &self.http
    }

    fn address(&self) -> String {
        self.http_address.clone()
    }

    fn url(&self) -> String {
        Self::url(self)
    }

    fn transactions(&self) -> Option<String> {
        None
    }

    fn kill(&mut self) {
        Self::kill(self);
    }

    fn start_again(&mut self, url: &str) {
        *self = self.same_ports().arg("--follow", url).start();
    }
}

/// Starts the program as a member; without a `url` to follow, as the first primary.
pub(super) fn shipped(dir: &Path, name: &str, url: Option<&str>) -> Box<dyn Member> {
    let start = Start::new(dir, name).arg("--sync", POLICY);
    let start = start.arg("--segment-size", "1MiB");
    let start = match url {
        Some(url) => start.arg("--follow", url),
        None => start,
    };
    Box::new(start.start())
}

/// A process that embeds a node.
struct Process {
    twin: Twin,
    dir: PathBuf,
    name: String,
    http: Http,
    /// Its addresses: of replication, of HTTP, and where it takes transactions.
    replication: String,
    address: String,
    transactions: String,
}

/// As [`shipped`], with transactions that read.
pub(super) fn embedding(dir: &Path, name: &str, url: Option<&str>) -> Box<dyn Member> {
    let any = "127.0.0.1:0";
    Box::new(Process::start(dir, name, url, any, any))
}

impl Process {
    fn start(dir: &Path, name: &str, url: Option<&str>, replication: &str, address: &str) -> Self {
        let data = dir.join(name);
        let environment = [
            ("MAINSTAY_TEST_DIR", data.to_str().expect("it is text")),
            ("MAINSTAY_TEST_NAME", name),
            ("MAINSTAY_TEST_FOLLOW", url.unwrap_or_default()),
            ("MAINSTAY_TEST_LISTEN", replication),
            ("MAINSTAY_TEST_HTTP", address),
        ];
        let log = dir.join(format!("{name}.log"));
        let twin = Twin::start("linear::member::a_member_of_its_own", &environment, &log);
        let ready = twin.hear("ready", DEADLINE);
        let ready = serde_json::from_str::<Value>(&ready).unwrap();
        let text = |field: &str| ready[field].as_str().expect("it is said").to_owned();
        Self {
            twin,
            dir: dir.to_owned(),
            name: name.to_owned(),
            http: Http::new(&text("http")),
            replication: text("replication"),
            address: text("http"),
            transactions: text("transactions"),
        }
    }
}

impl Member for Process {
    fn http(&self) -> &Http {
        &self.http
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    fn url(&self) -> String {
        format!("postgres://mainstay@{}", self.replication)
    }

    fn transactions(&self) -> Option<String> {
        Some(self.transactions.clone())
    }

    fn kill(&mut self) {
        self.twin.kill();
    }

    fn start_again(&mut self, url: &str) {
        let (replication, address) = (self.replication.clone(), self.address.clone());
        let (dir, name) = (self.dir.clone(), self.name.clone());
        *self = Self::start(&dir, &name, Some(url), &replication, &address);
    }
}

/// A client's connection to where a member takes transactions.
#[derive(Debug)]
pub(super) struct Line(BufReader<TcpStream>);

impl Line {
    pub(super) fn to(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Asks for a transaction. An error means that nobody knows what became of it.
    pub(super) fn ask(&mut self, transaction: &str) -> io::Result<String> {
        self.0
            .get_mut()
            .write_all(format!("{transaction}\n").as_bytes())?;
        let mut answer = String::new();
        self.0.read_line(&mut answer)?;
        match answer.strip_suffix('\n') {
            Some(answer) => Ok(answer.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn transact(node: &Embedded, asked: &str) -> Result<String, Error> {
    let words = asked.split(' ').collect::<Vec<_>>();
    let mut retries = 0;
    loop {
        let mut tx = node.begin()?;
        let held = tx.get(TABLE, words[1].as_bytes())?;
        let held = held.as_deref().unwrap_or(b"-");
        let (said, mark) = match words[..] {
            ["get", _, mark] => (String::from_utf8_lossy(held).into_owned(), mark),
            ["set", key, old, new, mark] => {
                let swaps = held == old.as_bytes();
                if swaps {
                    tx.put(TABLE, key.as_bytes(), new.as_bytes())?;
                }
                (swaps.to_string(), mark)
            }
            _ => panic!("no transaction: {asked}"),
        };
        tx.put(TABLE, mark.as_bytes(), b"0")?;
        match tx.commit_blocking() {
            Err(error) if error.is_conflict() && retries < CONFLICT_RETRIES_MAX => retries += 1,
            committed => return Ok(format!("done {said} {}", committed?.lsn)),
        }
    }
}

/// Answers one client as long as it asks.
fn answer(node: &Embedded, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut to = stream.try_clone()?;
    for asked in BufReader::new(stream).lines() {
        let answer = match transact(node, &asked?) {
            Ok(answer) => answer,
            Err(Error::Unknown { .. }) => "unknown".to_owned(),
            Err(_) => "refused".to_owned(),
        };
        to.write_all(format!("{answer}\n").as_bytes())?;
    }
    Ok(())
}

#[test]
#[ignore = "no test: what the processes of other tests run"]
fn a_member_of_its_own() {
    let Some(dir) = std::env::var_os("MAINSTAY_TEST_DIR") else {
        return;
    };
    let text = |name: &str| std::env::var(name).unwrap();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().build().unwrap().block_on(async {
        let builder = Embedded::builder(dir).name(text("MAINSTAY_TEST_NAME"));
        let builder = builder.listen(text("MAINSTAY_TEST_LISTEN"));
        let builder = builder
            .sync(POLICY.parse().unwrap())
            .segment_size(SegmentSize::MIN);
        let builder = match text("MAINSTAY_TEST_FOLLOW") {
            url if url.is_empty() => builder,
            url => builder.follow(url),
        };
        let node = builder.start().await.unwrap();
        let http = tokio::net::TcpListener::bind(text("MAINSTAY_TEST_HTTP"));
        let http = http.await.unwrap();
        let transactions = TcpListener::bind("127.0.0.1:0").unwrap();
        let ready = json!({
            "replication": node.listen_addr().expect("it listens").to_string(),
            "http": http.local_addr().unwrap().to_string(),
            "transactions": transactions.local_addr().unwrap().to_string(),
        });
        say(&format!("ready {ready}"));
        let served = node.clone();
        std::thread::spawn(move || {
            for stream in transactions.incoming() {
                let node = served.clone();
                // A client that is gone needs no answer.
                std::thread::spawn(move || stream.and_then(|stream| answer(&node, stream)));
            }
        });
        let ended = async {
            let read = || io::copy(&mut io::stdin(), &mut io::sink());
            // Whatever ends it, whoever started this process is gone.
            let _ = tokio::task::spawn_blocking(read).await;
        };
        let (options, stop) = (HttpOptions::default(), Arc::default());
        let serving = mainstay::http::serve(node.clone(), http, options, stop, ended);
        serving.await.unwrap();
        node.stop().await.unwrap();
    });
}
