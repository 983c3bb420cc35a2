//! What the parser takes, what it refuses and with which words.

mod round_trip;

use super::*;

const PHYSICAL: Dialect = Dialect {
    mode: ReplicationMode::Physical,
    native: false,
};
const NATIVE: Dialect = Dialect {
    mode: ReplicationMode::Physical,
    native: true,
};
const DATABASE: Dialect = Dialect {
    mode: ReplicationMode::Database,
    native: false,
};
const PLAIN: Dialect = Dialect {
    mode: ReplicationMode::None,
    native: false,
};
const ID: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

fn taken(text: &str) -> Command {
    Command::parse(text, PHYSICAL).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> (String, String) {
    let error = Command::parse(text, PHYSICAL).expect_err(text);
    let goes_on = matches!(error, WireError::Refused { .. }) && !error.closes();
    assert!(goes_on, "{text}: {error:?}");
    (error.sqlstate().to_owned(), error.to_string())
}

fn sql(text: &str) -> Command {
    Command::Sql(text.to_owned())
}

fn physical_slot(reserve_wal: bool, temporary: bool) -> Command {
    Command::CreateReplicationSlot {
        slot: "s".to_owned(),
        temporary,
        kind: SlotKind::Physical { reserve_wal },
    }
}

#[test]
fn commands_may_end_in_a_semicolon_and_hold_any_blanks() {
    for text in [
        "IDENTIFY_SYSTEM",
        "IDENTIFY_SYSTEM;",
        " \n\tIDENTIFY_SYSTEM \r ; ",
    ] {
        assert_eq!(taken(text), Command::IdentifySystem);
    }
    for text in [
        "IDENTIFY_SYSTEM extra",
        "IDENTIFY_SYSTEM;;",
        "SHOW",
        "SHOW;",
    ] {
        assert_eq!(refused(text), ("42601".into(), "syntax error".into()));
    }
}

#[test]
fn only_upper_case_words_are_commands() {
    for text in [
        "identify_system",
        "Identify_System",
        "FOO",
        "'IDENTIFY_SYSTEM'",
    ] {
        assert_eq!(taken(text), sql(text));
    }
    assert_eq!(
        Command::parse("IDENTIFY_SYSTEM", PLAIN),
        Ok(sql("IDENTIFY_SYSTEM"))
    );
}

#[test]
fn show_takes_dotted_names_in_lower_case() {
    assert_eq!(
        taken("SHOW Mainstay . Role;"),
        Command::Show("mainstay.role".into())
    );
    for dialect in [PLAIN, DATABASE] {
        let show = Command::parse("show  Transaction_Read_Only ;", dialect);
        assert_eq!(show, Ok(Command::Show("transaction_read_only".into())));
    }
    assert_eq!(taken("show x"), sql("show x"));
    // As the replication grammar has it, whose keyword is the one in upper case.
    for text in ["show 4x", "show a..b", "show $x", "show "] {
        let command = Command::parse(text, DATABASE);
        assert!(!matches!(command, Ok(Command::Show(_))), "{text}");
    }
    let long = "x".repeat(100);
    for keyword in ["show", "SHOW"] {
        let show = Command::parse(&format!("{keyword} {long}"), DATABASE);
        assert_eq!(show, Ok(Command::Show(long[..63].into())));
    }
}

#[test]
fn what_no_setting_can_be_named_is_refused_in_quotes_too() {
    for text in [
        "SHOW \"a b\"",
        "SHOW \"\"\"\"",
        "SHOW a.\"4\"",
        "SHOW \"a..b\"",
    ] {
        let refused = Command::parse(text, NATIVE);
        assert!(
            matches!(
                refused,
                Err(WireError::Refused {
                    sqlstate: "42704",
                    ..
                })
            ),
            "{text}: {refused:?}"
        );
    }
    assert_eq!(taken("SHOW \"a.b\""), Command::Show("a.b".into()));
}

#[test]
fn the_name_of_a_setting_has_no_case_even_in_quotes() {
    for text in ["SHOW \"A\"", "SHOW a", "SHOW A", "SHOW \"a\""] {
        let command = taken(text);
        assert_eq!(command, Command::Show("a".into()), "{text}");
        assert_eq!(taken(&command.to_string()), command, "{text}");
    }
}

#[test]
fn slots_are_created_in_the_old_and_the_new_syntax() {
    for (text, reserve, temporary) in [
        ("CREATE_REPLICATION_SLOT s PHYSICAL", false, false),
        (
            "CREATE_REPLICATION_SLOT S PHYSICAL RESERVE_WAL;",
            true,
            false,
        ),
        (
            "CREATE_REPLICATION_SLOT \"s\" TEMPORARY PHYSICAL ( RESERVE_WAL)",
            true,
            true,
        ),
        (
            "CREATE_REPLICATION_SLOT s PHYSICAL (reserve_wal false)",
            false,
            false,
        ),
        (
            "CREATE_REPLICATION_SLOT s PHYSICAL (RESERVE_WAL 'on')",
            true,
            false,
        ),
    ] {
        assert_eq!(taken(text), physical_slot(reserve, temporary), "{text}");
    }
    let logical = |snapshot, two_phase, failover| Command::CreateReplicationSlot {
        slot: "s".to_owned(),
        temporary: false,
        kind: SlotKind::Logical {
            plugin: "pgoutput".to_owned(),
            snapshot,
            two_phase,
            failover,
        },
    };
    for (options, slot) in [
        ("", logical(SnapshotAction::Export, false, false)),
        (
            "  NOEXPORT_SNAPSHOT",
            logical(SnapshotAction::Nothing, false, false),
        ),
        (
            " USE_SNAPSHOT TWO_PHASE",
            logical(SnapshotAction::Use, true, false),
        ),
        (
            " (SNAPSHOT 'nothing')",
            logical(SnapshotAction::Nothing, false, false),
        ),
        (
            " (FAILOVER, TWO_PHASE, SNAPSHOT 'use')",
            logical(SnapshotAction::Use, true, true),
        ),
    ] {
        let text = format!("CREATE_REPLICATION_SLOT s LOGICAL \"pgoutput\"{options}");
        assert_eq!(taken(&text), slot, "{text}");
    }
}

#[test]
fn slot_options_that_do_not_fit_are_refused() {
    let conflict = (
        "42601".to_owned(),
        "conflicting or redundant options".to_owned(),
    );
    for options in [
        "PHYSICAL (TWO_PHASE)",
        "PHYSICAL (SNAPSHOT 'use')",
        "LOGICAL p (RESERVE_WAL)",
        "PHYSICAL (RESERVE_WAL, RESERVE_WAL false)",
        "LOGICAL p USE_SNAPSHOT EXPORT_SNAPSHOT",
    ] {
        let text = format!("CREATE_REPLICATION_SLOT s {options}");
        assert_eq!(refused(&text), conflict, "{text}");
    }
    for options in [
        "PHYSICAL (RESERVE_WAL 2)",
        "LOGICAL p (SNAPSHOT 'x')",
        "LOGICAL p (SNAPSHOT)",
    ] {
        let text = format!("CREATE_REPLICATION_SLOT s {options}");
        assert_eq!(refused(&text).0, "42601", "{text}");
    }
    assert_eq!(refused("CREATE_REPLICATION_SLOT WAL PHYSICAL").0, "42601");
    assert_eq!(refused("CREATE_REPLICATION_SLOT s PHYSICAL ()").0, "42601");
}

#[test]
fn slot_names_are_lower_case_letters_digits_and_underscores() {
    for bad in ["\"Bad Name\"", "\"\"", "\"a/b\"", "\"..\"", "é"] {
        let text = format!("CREATE_REPLICATION_SLOT {bad} PHYSICAL");
        assert_eq!(refused(&text).0, "42602", "{text}");
    }
    assert!(check_slot_name(&"a".repeat(NAME_MAX)).is_ok());
    assert!(check_slot_name(&"a".repeat(NAME_MAX + 1)).is_err());
}

#[test]
fn slots_are_read_altered_and_dropped() {
    let slot = "s".to_owned();
    assert_eq!(
        taken("READ_REPLICATION_SLOT s;"),
        Command::ReadReplicationSlot { slot: slot.clone() }
    );
    assert_eq!(
        taken("ALTER_REPLICATION_SLOT \"s\" ( FAILOVER false );"),
        Command::AlterReplicationSlot {
            slot: slot.clone(),
            failover: Some(false),
            two_phase: None,
        }
    );
    assert_eq!(
        taken("DROP_REPLICATION_SLOT s WAIT"),
        Command::DropReplicationSlot { slot, wait: true }
    );
    assert_eq!(refused("DROP_REPLICATION_SLOT s NOWAIT").0, "42601");
    assert_eq!(refused("ALTER_REPLICATION_SLOT s (X)").0, "XX000");
}

#[test]
fn streams_start_at_a_position_on_a_timeline() {
    let start = |slot: Option<&str>, timeline| {
        Command::StartReplication(StartReplication {
            slot: slot.map(str::to_owned),
            start: Lsn::new(0x50_0000),
            timeline,
            timeline_id: None,
        })
    };
    assert_eq!(taken("START_REPLICATION 0/500000"), start(None, None));
    assert_eq!(
        taken("START_REPLICATION SLOT \"s\" PHYSICAL 0/500000 TIMELINE 2;"),
        start(Some("s"), Some(2))
    );
    for (text, why) in [
        ("START_REPLICATION", "syntax error"),
        ("START_REPLICATION 0/0 TIMELINE 0", "invalid timeline 0"),
        (
            "START_REPLICATION 0/0 TIMELINE 4294967296",
            "invalid timeline 4294967296",
        ),
        ("START_REPLICATION 0/0 TIMELINE", "syntax error"),
        (
            "START_REPLICATION 123456789/0",
            "invalid streaming start location",
        ),
        ("START_REPLICATION LOGICAL 0/0", "syntax error"),
        ("TIMELINE_HISTORY 0", "invalid timeline 0"),
    ] {
        assert_eq!(refused(text), ("42601".into(), why.into()), "{text}");
    }
}

#[test]
fn logical_streams_carry_plugin_options() {
    let text = "START_REPLICATION SLOT \"sub\" LOGICAL 0/0 (proto_version '4', \"binary\", \
                publication_names '\"p\"')";
    let Command::StartLogicalReplication { slot, options, .. } = taken(text) else {
        panic!("not logical");
    };
    assert_eq!(slot, "sub");
    let option = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
    assert_eq!(
        options,
        [
            option("proto_version", Some("4")),
            option("binary", None),
            option("publication_names", Some("\"p\"")),
        ]
    );
    let many = vec!["a '1'"; OPTIONS_MAX + 1].join(", ");
    let text = format!("START_REPLICATION SLOT s LOGICAL 0/0 ({many})");
    assert_eq!(refused(&text).0, "42601");
}

#[test]
fn native_words_are_commands_only_to_native_peers() {
    let address = "'a b' 'host:5433'";
    let words = [
        "PROBE_TIMELINE".to_owned(),
        "IDENTIFY_NODE".to_owned(),
        format!("PROMISE_TIMELINE 3 '{ID}' {address}"),
        format!("REGISTER_STANDBY 'x' '{ID}' '{ID}' 'h:1'"),
        format!("TAKE_OVER 3 '{ID}' 1/A0"),
        format!("TIMELINE_OPENED 3 '{ID}' {address}"),
        format!("VERIFY_BEGIN 3 '{ID}' 1/A0"),
        "VERIFY_RANGES 256 '' '00ff'".to_owned(),
        "VERIFY_ROWS 0 '00ff' ''".to_owned(),
    ];
    for text in &words {
        assert_eq!(taken(text), sql(text));
        let command = Command::parse(text, NATIVE).unwrap();
        assert!(!matches!(command, Command::Sql(_)), "{text}");
    }
    let id = ID.parse().unwrap();
    assert_eq!(
        Command::parse(&words[2], NATIVE),
        Ok(Command::PromiseTimeline(PromiseTimeline {
            timeline: Timeline { number: 3, id },
            candidate: "a b".to_owned(),
            address: "host:5433".to_owned(),
            continues: Vec::new(),
        }))
    );
    let restart = format!("{} (1 '{ID}', 2 '{ID}')", words[2]);
    let Ok(Command::PromiseTimeline(promise)) = Command::parse(&restart, NATIVE) else {
        panic!("{restart}");
    };
    let continues = [1, 2].map(|number| Timeline { number, id });
    assert_eq!(promise.continues, continues);
    let start = format!("START_REPLICATION 0/0 TIMELINE 2 (timeline_id '{ID}')");
    assert_eq!(refused(&start), ("42601".into(), "syntax error".into()));
    assert_eq!(
        Command::parse(&start, NATIVE),
        Ok(Command::StartReplication(StartReplication {
            slot: None,
            start: Lsn::ZERO,
            timeline: Some(2),
            timeline_id: Some(id),
        }))
    );
    for bad in [
        "START_REPLICATION 0/0 TIMELINE 2 (timeline_id 'x')".to_owned(),
        "START_REPLICATION 0/0 TIMELINE 2 (other 'x')".to_owned(),
        format!("START_REPLICATION 0/0 (timeline_id '{ID}')"),
        format!("PROMISE_TIMELINE 0 '{ID}' {address}"),
        format!("PROMISE_TIMELINE 2 '{ID}' {address} ()"),
        format!("PROMISE_TIMELINE 2 '{ID}' {address} (1 '{ID}'"),
        format!("PROMISE_TIMELINE 2 '{ID}' {address} (1 '{ID}' 2 '{ID}')"),
        format!("PROMISE_TIMELINE 2 '{ID}' {address} (0 '{ID}')"),
        format!("PROMISE_TIMELINE 1 '{}' {address}", ID.replace('-', "")),
        "IDENTIFY_NODE 1".to_owned(),
        format!("VERIFY_BEGIN 3 '{ID}' here"),
        "VERIFY_RANGES 256 ''".to_owned(),
        "VERIFY_RANGES 256 '' '0'".to_owned(),
        "VERIFY_RANGES 256 '' '0g'".to_owned(),
        "VERIFY_RANGES 256 '' 'éa'".to_owned(),
        format!("VERIFY_ROWS 0 '' '{}'", "00".repeat(65_536)),
    ] {
        let error = Command::parse(&bad, NATIVE).expect_err(&bad);
        assert_eq!(error.sqlstate(), "42601", "{bad}");
    }
}

#[test]
fn base_backup_options_are_read_in_both_syntaxes() {
    let new = "BASE_BACKUP ( LABEL 'it''s mine',  PROGRESS,  CHECKPOINT 'fast',  WAIT 0,  \
               MAX_RATE 32, TABLESPACE_MAP, VERIFY_CHECKSUMS 0, WAL,  MANIFEST 'yes',  \
               MANIFEST_CHECKSUMS 'sha256')";
    let old = "BASE_BACKUP LABEL 'it''s mine' PROGRESS FAST NOWAIT MAX_RATE 32 TABLESPACE_MAP \
               NOVERIFY_CHECKSUMS WAL MANIFEST 'yes' MANIFEST_CHECKSUMS 'SHA256';";
    let options = BackupOptions {
        label: "it's mine".to_owned(),
        progress: true,
        fast_checkpoint: true,
        wait: false,
        wal: true,
        max_rate_kb: Some(32),
        tablespace_map: true,
        verify_checksums: false,
        manifest: ManifestMode::Yes,
        manifest_checksums: Some(ChecksumAlgorithm::Sha256),
        ..BackupOptions::default()
    };
    assert_eq!(taken(new), Command::BaseBackup(options.clone()));
    assert_eq!(taken(old), Command::BaseBackup(options));
    assert_eq!(
        taken("BASE_BACKUP"),
        Command::BaseBackup(BackupOptions::default())
    );
}

#[test]
fn base_backup_options_that_cannot_be_meant_are_refused() {
    for (options, code) in [
        ("LABEL", "42601"),
        ("MAX_RATE 31", "22003"),
        ("MAX_RATE 1048577", "22003"),
        ("MAX_RATE 'fast'", "42601"),
        ("COMPRESSION_DETAIL '5'", "42601"),
        ("TARGET_DETAIL 'x'", "42601"),
        ("TARGET 'server'", "42601"),
        ("TARGET 'blackhole', TARGET_DETAIL 'x'", "42601"),
        ("WAIT 2", "42601"),
        ("MANIFEST_CHECKSUMS 'md5', MANIFEST 'yes'", "42601"),
    ] {
        let text = format!("BASE_BACKUP ({options})");
        assert_eq!(refused(&text).0, code, "{text}");
    }
    assert_eq!(refused("BASE_BACKUP FAST FAST").0, "42601");
    assert_eq!(refused("BASE_BACKUP SLOT").0, "42601");
}

#[test]
fn fixed_statements_are_known_whatever_their_blanks_and_case() {
    for (text, command) in [
        (
            "SELECT pg_catalog.set_config('search_path', '', false);",
            Command::ClearSearchPath,
        ),
        ("select  PG_IS_IN_RECOVERY ( ) ;", Command::IsInRecovery),
        (
            "SELECT pg_catalog . pg_is_in_recovery()",
            Command::IsInRecovery,
        ),
        ("SELECT 1", Command::SelectOne),
        ("", Command::Empty),
        (" ; ", Command::Empty),
    ] {
        for dialect in [PLAIN, DATABASE] {
            assert_eq!(Command::parse(text, dialect), Ok(command.clone()), "{text}");
        }
    }
    for text in [
        "SELECT pg_catalog.set_config('SEARCH_PATH', '', false)",
        "SELECT pg_catalog.set_config('search_path', ' ', false)",
        "SELECT 1; SELECT 1",
        "SELECT1",
        "SHOW a b",
    ] {
        assert_eq!(Command::parse(text, PLAIN), Ok(sql(text)), "{text}");
    }
}

#[test]
fn a_physical_session_answers_one_statement_only() {
    let recovery = "SELECT pg_catalog.pg_is_in_recovery()";
    assert_eq!(taken(recovery), Command::IsInRecovery);
    for text in [
        "",
        "SELECT 1",
        "SELECT pg_catalog.set_config('search_path', '', false)",
    ] {
        assert_eq!(taken(text), sql(text));
    }
}
