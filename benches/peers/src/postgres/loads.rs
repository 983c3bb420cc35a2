//! What PostgreSQL is asked to do, by its own tools where it has some.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Mode, PATIENCE, Postgres};
use crate::measure::{Figures, Latencies};
use crate::process::is_there;
use crate::rig::copies::size_of;

impl Postgres {
    /// Inserts rows of 100 bytes with `pgbench`: transactions a second, and latencies in
    /// microseconds.
    pub(crate) fn inserts(&mut self, mode: Mode, clients: u64, seconds: f64) -> Figures {
        self.set_mode(mode);
        self.sql("truncate rows; checkpoint");
        if mode != Mode::Alone {
            self.until_standby("true");
        }
        let logs = self.root.join("bench");
        let _ = fs::remove_dir_all(&logs);
        self.tool("mkdir").arg(&logs).run();
        let (port, clients) = (self.ports[0].to_string(), clients.to_string());
        let threads = if clients == "1" { "1" } else { "2" };
        // It counts whole seconds.
        let seconds = seconds.ceil().to_string();
        let mut bench = self.tool("pgbench");
        bench.command.current_dir(&logs);
        let out = bench
            .args([
                "-n",
                "-M",
                "prepared",
                "-l",
                "--log-prefix=l",
                "-p",
                &port,
                "-h",
            ])
            .arg(&self.root)
            .args(["-c", &clients, "-j", threads, "-T", &seconds, "-f"])
            .arg(self.root.join("insert.sql"))
            .args(["-U", "postgres", "postgres"])
            .run();
        let tps = out.lines().find_map(|line| line.strip_prefix("tps = "));
        let tps = tps.and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
        let mut all = Latencies::default();
        for entry in fs::read_dir(&logs).expect("it is there") {
            let text = fs::read_to_string(entry.expect("it is there").path());
            for line in text.expect("text").lines() {
                let micros = line.split(' ').nth(2).and_then(|word| word.parse().ok());
                all.push_micros(micros.expect("a latency"));
            }
        }
        let mut figures = Figures::of(tps.expect("pgbench says so"));
        for (name, micros) in all.percentiles() {
            figures = figures.with(name, micros);
        }
        figures
    }

    /// Writes log in messages of 1 MiB, which no table slows down.
    pub(crate) fn write_log(&self, bytes: u64) {
        let count = bytes >> 20;
        self.sql(&format!(
            "do $$ declare s text := repeat('a', 1048500); begin for i in 1..{count} loop \
             perform pg_logical_emit_message(false, 'x', s); end loop; end $$"
        ));
        self.sql("select pg_logical_emit_message(true, 'x', 'end')");
    }

    /// Log until it is flushed on the standby, in MB/s, and the processor seconds a GB of both.
    pub(crate) fn stream(&mut self, bytes: u64) -> Figures {
        self.set_mode(Mode::Async);
        self.until_standby("true");
        self.recycle_log("0");
        let used = self.cpu();
        let begun = Instant::now();
        self.write_log(bytes);
        self.until_flushed();
        let took = begun.elapsed().as_secs_f64();
        let gigabytes = bytes as f64 / 1e9;
        Figures::of(gigabytes * 1e3 / took).with("cpu_s_gb", (self.cpu() - used) / gigabytes)
    }

    /// Log that the standby lacks when it is started, in MB/s from when it has connected.
    pub(crate) fn catch_up(&mut self, bytes: u64) -> Figures {
        self.set_mode(Mode::Async);
        self.until_standby("true");
        self.recycle_log("0");
        self.down(1, "fast");
        self.write_log(bytes);
        let mut client = self.connect(0);
        self.up(1);
        let waited = Instant::now();
        let connected = "select count(*) from pg_stat_replication";
        while client
            .query_one(connected, &[])
            .expect("a query")
            .get::<_, i64>(0)
            == 0
        {
            assert!(waited.elapsed() < PATIENCE, "the standby does not come");
            std::thread::sleep(Duration::from_millis(1));
        }
        let begun = Instant::now();
        self.until_flushed();
        Figures::of(bytes as f64 / begun.elapsed().as_secs_f64() / 1e6)
    }

    /// A copy of the primary's data, synced, in MB/s; there are `bytes` of them at least.
    pub(crate) fn base_backup(&mut self, bytes: u64) -> Figures {
        self.set_mode(Mode::Alone);
        let mut client = self.connect(0);
        let found = client.query_one("select to_regclass('filling') is not null", &[]);
        if !found.expect("a query").get::<_, bool>(0) {
            let rows = bytes / 1060;
            self.sql("create table filling(id bigint, v text)");
            self.sql("alter table filling alter v set storage plain");
            self.sql(&format!(
                "insert into filling select g, repeat('a', 1000) from generate_series(1, {rows}) g"
            ));
        }
        self.sql("checkpoint");
        crate::limits::warm_memory(bytes);
        let begun = Instant::now();
        let copy = self.basebackup("copy", &[]);
        let took = begun.elapsed().as_secs_f64();
        let size = size_of(&copy);
        fs::remove_dir_all(&copy).expect("it is ours");
        Figures::of(size as f64 / took / 1e6)
    }

    fn until_flushed(&self) {
        let mut client = self.connect(0);
        let query = "select count(*) from pg_stat_replication \
                     where flush_lsn >= pg_current_wal_flush_lsn()";
        let begun = Instant::now();
        while client
            .query_one(query, &[])
            .expect("a query")
            .get::<_, i64>(0)
            == 0
        {
            assert!(begun.elapsed() < PATIENCE, "the standby does not come");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// From a commit's answer, with this `synchronous_commit`, to the row's being read on the
    /// standby, at `rate` commits a second, in milliseconds. A reader asks again and again.
    pub(crate) fn visible(&mut self, mode: Mode, waits: &str, rate: f64, seconds: f64) -> Figures {
        self.set_mode(mode);
        self.sql("truncate seen");
        self.until_standby("true");
        let (mut primary, mut standby) = (self.connect(0), self.connect(1));
        primary
            .batch_execute(&format!("set synchronous_commit = {waits}"))
            .expect("a setting");
        let insert = primary
            .prepare("insert into seen values ($1)")
            .expect("a statement");
        let select = standby
            .prepare("select 1 from seen where id = $1")
            .expect("a statement");
        let (begun, mut all, mut number) = (Instant::now(), Latencies::default(), 0_i64);
        while begun.elapsed().as_secs_f64() < seconds {
            primary
                .execute(&insert, &[&number])
                .expect("it is the primary");
            let committed = Instant::now();
            while standby
                .query(&select, &[&number])
                .expect("it is hot")
                .is_empty()
            {}
            all.record(committed.elapsed());
            number += 1;
            let due = Duration::from_secs_f64(number as f64 / rate);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        let mut figures = Figures::default();
        for (name, micros) in all.percentiles() {
            figures = figures.with(&format!("{name}_ms"), micros / 1e3);
        }
        figures.value = figures.get("p50_ms").expect("it is there");
        figures
    }

    /// From the order to promote until the first write, in milliseconds; `killed` first takes the
    /// primary away under load. The standby is made anew before.
    pub(crate) fn take_over(&mut self, killed: bool) -> Figures {
        if self.pid(0).is_none() {
            self.up(0);
        }
        self.make_standby();
        self.set_mode(Mode::Async);
        self.sql("insert into rows(v) values ('x')");
        self.until_standby("true");
        let (mut order, mut writer) = (self.connect(1), self.connect(1));
        let family = self.pid(0).map(crate::process::family).expect("it runs");
        let begun = Instant::now();
        if killed {
            for process in &family {
                let process = process.to_string();
                // One that went with its parent is as dead.
                let _ = Command::new("kill")
                    .args(["-9", &process])
                    .stderr(Stdio::null())
                    .status();
            }
        }
        order
            .batch_execute("select pg_promote(false)")
            .expect("it is the superuser");
        while writer
            .batch_execute("insert into rows(v) values ('x')")
            .is_err()
        {
            assert!(begun.elapsed() < PATIENCE, "it is not promoted");
            std::thread::sleep(Duration::from_micros(500));
        }
        let first = begun.elapsed().as_secs_f64() * 1e3;
        if killed {
            // The server refuses to start again beside what is left of it.
            while family.iter().any(|process| is_there(*process)) {
                assert!(begun.elapsed() < PATIENCE, "they were killed");
                std::thread::sleep(Duration::from_millis(1));
            }
            let left = fs::remove_file(self.dir(0).join("postmaster.pid"));
            left.expect("nobody was there to remove it");
            // Before anybody else is given its port.
            self.up(0);
        }
        Figures::of(first)
    }
}
