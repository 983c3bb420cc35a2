//! Settings from files, flags and both; what is refused, and with which words.

use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Result<Stated, ConfigError> {
    file::parse(Path::new("m.toml"), text)
}

fn error(text: &str) -> String {
    let error = read(text).unwrap_err();
    assert!(matches!(error, ConfigError::File { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn the_sizes_of_the_store_are_read_and_too_small_ones_refused() {
    let stated = read(
        r#"
        [store]
        memtable_size = "1MiB"
        snapshot_age = "2GiB"
        snapshot_memory = "3MiB"
        "#,
    )
    .unwrap();
    let store = stated.store.settle().unwrap();
    assert_eq!(
        (store.memtable_bytes, store.table_bytes),
        (1 << 20, 1 << 20)
    );
    assert_eq!(
        (store.snapshot_age, store.snapshot_bytes),
        (2 << 30, 3 << 20)
    );
    assert_eq!(store.block_cache, crate::LsmOptions::default().block_cache);
    let small = read("store.memtable_size = \"1kB\"")
        .unwrap()
        .store
        .settle();
    assert!(small.unwrap_err().to_string().contains("1MiB is the least"));
}

#[test]
fn a_file_with_every_key_is_read() {
    let stated = read(
        r#"
        cluster.name = "orders"
        node = { name = "a", data_dir = "/srv/a" }
        [replication]
        listen = "127.0.0.1:1"
        advertise = "a:1"
        password_file = "/p"
        max_wal_senders = 3
        heartbeat_timeout = "750ms"
        [http]
        listen = "127.0.0.1:2"
        token_file = "/t"
        [upstream]
        url = "postgres://b:1"
        slot = "a"
        password_file = "/u"
        min_apply_delay = "5m"
        [sync]
        policy = "ANY 1 (b, c)"
        level = "applied"
        timeout = "500ms"
        on_timeout = "degrade"
        [wal]
        segment_size = "1MiB"
        keep_size = 4096
        [slots]
        max_keep_size = "10MB"
        idle_timeout = "10m"
        max_replication_slots = 4
        "#,
    )
    .unwrap();
    assert_eq!(stated.cluster.as_deref(), Some("orders"));
    assert_eq!(stated.data.as_deref(), Some(Path::new("/srv/a")));
    assert_eq!(
        stated.upstream_password_file.as_deref(),
        Some(Path::new("/u"))
    );
    assert_eq!(stated.sync, Some("ANY 1 (b, c)".parse().unwrap()));
    let delay = std::time::Duration::from_secs(300);
    assert_eq!(stated.min_apply_delay, Some(Delay(delay)));
    assert_eq!(stated.level, Some(Level::RemoteApply));
    assert_eq!(stated.on_miss, Some("degrade:500ms".parse().unwrap()));
    assert_eq!(stated.segment_size, Some(Size(1 << 20)));
    assert_eq!(stated.wal_keep_size, Some(Size(4096)));
    assert_eq!(stated.slot_keep_size, Some(Size(10_000_000)));
    assert_eq!(stated.slot_idle_timeout, Some("600s".parse().unwrap()));
    assert_eq!(
        (stated.max_replication_slots, stated.max_wal_senders),
        (Some(4), Some(3))
    );
    let silence = std::time::Duration::from_millis(750);
    assert_eq!(stated.heartbeat_timeout, Some(Delay(silence)));
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    assert_eq!(
        error("[node]\nname = \"a\"\n\n[replication]\nlisen = \"x\"\n"),
        "m.toml line 5: unknown field `lisen`, expected one of `listen`, `advertise`, \
         `password_file`, `max_wal_senders`, `heartbeat_timeout`"
    );
    assert!(error("\n[nod]\n").starts_with("m.toml line 2: unknown field `nod`, expected one of"));
    assert!(error("name = \"a\"").starts_with("m.toml line 1: unknown field `name`"));
}

#[test]
fn a_heartbeat_timeout_that_is_too_short_or_too_long_is_refused() {
    for (text, good) in [
        ("99ms", false),
        ("100ms", true),
        ("60m", true),
        ("61m", false),
    ] {
        let text = format!(
            "node = {{ name = \"a\", data_dir = \"/srv/a\" }}\n\
             [replication]\nheartbeat_timeout = \"{text}\""
        );
        let settled = read(&text).unwrap().settle(None);
        assert_eq!(settled.is_ok(), good, "{text}");
    }
}

#[test]
fn a_wrong_value_is_named_with_its_line() {
    let size = error("[wal]\n\nkeep_size = \"1 gig\"");
    assert!(
        size.starts_with("m.toml line 3: \"1 gig\" is not a size; one looks like"),
        "{size}"
    );
    let policy = error("[sync]\npolicy = \"ANY 3 (a)\"");
    assert!(
        policy.starts_with("m.toml line 2: sync policy \"ANY 3 (a)\""),
        "{policy}"
    );
    assert!(error("[node\n").starts_with("m.toml line 1: "));
    assert!(error("[sync]\nmode = \"all\"").starts_with("m.toml line 2: unknown variant `all`"));
    assert!(error("[wal]\nkeep_size = true").starts_with("m.toml line 2: invalid type"));
}

#[test]
fn the_words_of_the_sync_section_make_a_policy() {
    let policy = |text: &str| {
        read(&format!("[sync]\n{text}"))
            .unwrap()
            .sync
            .unwrap()
            .to_string()
    };
    assert_eq!(policy("mode = \"any\""), "ANY 1 (*)");
    assert_eq!(policy("mode = \"first\"\ncount = 2"), "FIRST 2 (*)");
    assert_eq!(policy("mode = \"off\""), "off");
    let both = error("[sync]\npolicy = \"off\"\nmode = \"any\"");
    assert!(
        both.starts_with("m.toml line 3: sync.policy is \"off\"; sync.mode"),
        "{both}"
    );
    assert!(error("[sync]\ncount = 2").contains("line 2: sync.count counts nothing"));
    assert!(error("[sync]\nmode = \"any\"\ncount = 0").contains("line 3: "));
}

#[test]
fn a_timeout_needs_to_be_told_what_for() {
    let on_miss = |text: &str| read(&format!("[sync]\n{text}")).map(|stated| stated.on_miss);
    assert_eq!(on_miss("on_timeout = \"block\""), Ok(Some(OnMiss::Block)));
    let fail = on_miss("timeout = \"10s\"\non_timeout = \"fail\"");
    assert_eq!(fail, Ok(Some("fail:10s".parse().unwrap())));
    assert!(error("[sync]\ntimeout = \"1s\"").contains("line 2: sync.timeout needs"));
    assert!(error("[sync]\non_timeout = \"fail\"").contains("line 2: sync.timeout is missing"));
    assert!(error("[sync]\non_timeout = \"fail\"\ntimeout = \"soon\"").contains("line 3: "));
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let flags = Stated {
        name: Some("flag".into()),
        ..Stated::default()
    };
    let file = read("[node]\nname = \"file\"\ndata_dir = \"d\"\n").unwrap();
    let settings = flags.or(file).settle(None).unwrap();
    assert_eq!(
        (settings.name.as_str(), settings.http.as_str()),
        ("flag", HTTP_DEFAULT)
    );
    assert_eq!(settings.data, Path::new("d"));
    assert_eq!((settings.sync, settings.on_miss), (None, OnMiss::Block));
}

fn listening_on(listen: &str, http: &str) -> Stated {
    Stated {
        data: Some("d".into()),
        name: Some("a".into()),
        listen: Some(listen.into()),
        http: Some(http.into()),
        ..Stated::default()
    }
}

#[test]
fn without_credentials_only_this_machine_is_listened_to() {
    for open in ["0.0.0.0:5433", "[::]:5433", "192.0.2.1:5433"] {
        let error = listening_on(open, HTTP_DEFAULT).settle(None).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ConfigError::Unsafe(_)), "{text}");
        assert!(
            text.contains("127.0.0.1:5433") && text.contains("--password-file"),
            "{text}"
        );
        let error = listening_on(LISTEN_DEFAULT, open).settle(None).unwrap_err();
        assert!(error.to_string().contains("--token-file"), "{error}");
    }
    assert!(listening_on("[::1]:0", "localhost:0").settle(None).is_ok());
}

#[test]
fn with_credentials_any_address_is_listened_to_and_the_secret_is_a_files_first_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, "s3cret \nrest\n").unwrap();
    let stated = Stated {
        password_file: Some(path.clone()),
        token_file: Some(path.clone()),
        ..listening_on("0.0.0.0:5433", "0.0.0.0:8008")
    };
    let settings = stated.clone().settle(None).unwrap();
    assert_eq!(settings.password.as_deref(), Some("s3cret"));
    assert_eq!(settings.token.as_deref(), Some("s3cret"));
    std::fs::write(&path, "\n").unwrap();
    let error = stated.settle(None).unwrap_err().to_string();
    assert!(
        error.ends_with("its first line is empty; the secret belongs there"),
        "{error}"
    );
}

#[test]
fn what_is_missing_is_asked_for() {
    let nothing = Stated::default().settle(None);
    let Err(ConfigError::Unusable(error)) = nothing else {
        panic!("{nothing:?}");
    };
    assert!(error.contains("--data DIR"), "{error}");
    let error = Stated {
        data: Some("d".into()),
        ..Stated::default()
    };
    assert!(
        error
            .settle(None)
            .unwrap_err()
            .to_string()
            .contains("--name NAME")
    );
    let odd = Stated {
        segment_size: Some(Size(3 << 20)),
        ..listening_on("::1:0", HTTP_DEFAULT)
    };
    assert!(odd.settle(None).is_err());
}

#[test]
fn sizes_are_decimal_or_binary_and_nothing_else() {
    let cases = [
        ("16MiB", 16 << 20),
        ("10MB", 10_000_000),
        ("1 GiB", 1 << 30),
        ("7", 7),
    ];
    for (text, bytes) in cases {
        assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
    }
    for bad in [
        "",
        "MB",
        "1mb",
        "-1",
        "1.5GB",
        "1 m",
        "99999999999TiB",
        "+1kB",
    ] {
        assert!(bad.parse::<Size>().is_err(), "{bad} was taken");
    }
}

proptest! {
    #[test]
    fn every_size_and_time_is_read_as_it_is_written(count: u32, any: u64, millis in 1..600_000_000u64) {
        prop_assert_eq!(any.to_string().parse(), Ok(Size(any)));
        let units = [("kB", 1000), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GB", 1_000_000_000)];
        for (unit, bytes) in units {
            let text = format!("{count}{unit}");
            prop_assert_eq!(text.parse(), Ok(Size(u64::from(count) * bytes)));
            for more in ["x", "1", " ", "B"] {
                let longer = format!("{text}{more}");
                prop_assert!(longer.parse::<Size>().is_err(), "{}", longer);
            }
        }
        let (time, text) = (Duration::from_millis(millis), format!("{millis}ms"));
        prop_assert_eq!(text.parse(), Ok(Delay(time)));
        prop_assert_eq!(text.parse(), Ok(Idle(time)));
        let longer = format!("{text}x");
        prop_assert!(longer.parse::<Delay>().is_err() && longer.parse::<Idle>().is_err());
    }

    #[test]
    fn any_file_is_read_or_refused_but_never_panics(
        text in "((name|data|listen|follow|store|sync|max_lag|[a-z]{1,3})(\\.[a-z_]{1,9})?( = |\n)(\"\\PC{0,6}\"|[0-9]{1,20}|\\[\\]|\\PC)\n){0,4}",
    ) {
        let _ = read(&text);
    }
}
