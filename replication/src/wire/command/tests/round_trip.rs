//! Every command as text and back, and any text at all.

use proptest::prelude::*;

use super::*;

fn any_name() -> impl Strategy<Value = String> {
    "[a-zA-Z\" é]{1,20}"
}

fn any_text() -> impl Strategy<Value = String> {
    "[^\0]{0,20}"
}

fn any_uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn any_slot_kind() -> impl Strategy<Value = SlotKind> {
    let snapshot = prop_oneof![
        Just(SnapshotAction::Export),
        Just(SnapshotAction::Use),
        Just(SnapshotAction::Nothing),
    ];
    prop_oneof![
        any::<bool>().prop_map(|reserve_wal| SlotKind::Physical { reserve_wal }),
        (any_name(), snapshot, any::<bool>(), any::<bool>()).prop_map(
            |(plugin, snapshot, two_phase, failover)| SlotKind::Logical {
                plugin,
                snapshot,
                two_phase,
                failover,
            }
        ),
    ]
}

fn any_backup() -> impl Strategy<Value = BackupOptions> {
    let target = prop_oneof![
        Just(BackupTarget::Legacy),
        Just(BackupTarget::Client),
        Just(BackupTarget::Blackhole),
        any_text().prop_map(BackupTarget::Server),
    ];
    let rate = prop::option::of(MAX_RATE_KB);
    (any_text(), any::<[bool; 8]>(), rate, target, any_text()).prop_map(
        |(label, flags, max_rate_kb, target, detail)| BackupOptions {
            label,
            progress: flags[0],
            fast_checkpoint: flags[1],
            wait: flags[2],
            wal: flags[3],
            max_rate_kb,
            tablespace_map: flags[4],
            verify_checksums: flags[5],
            manifest: if flags[6] {
                ManifestMode::ForceEncode
            } else {
                ManifestMode::No
            },
            manifest_checksums: flags[6].then_some(ChecksumAlgorithm::Crc32c),
            target,
            compression: if flags[7] {
                Compression::Zstd
            } else {
                Compression::None
            },
            compression_detail: flags[7].then_some(detail),
            incremental: flags[0],
        },
    )
}

fn any_promise() -> impl Strategy<Value = Command> {
    let timelines = prop::collection::vec((1..=u32::MAX, any_uuid()), 1..5);
    (timelines, any_text(), any_text()).prop_map(|(timelines, candidate, address)| {
        let timelines = timelines.into_iter();
        let mut all = timelines.map(|(number, id)| Timeline { number, id });
        Command::PromiseTimeline(PromiseTimeline {
            timeline: all.next().unwrap(),
            candidate,
            address,
            continues: all.collect(),
        })
    })
}

fn any_command() -> impl Strategy<Value = Command> {
    let start = (
        prop::option::of(any_name()),
        any::<u64>(),
        prop::option::of((1..=u32::MAX, prop::option::of(any_uuid()))),
    );
    let options = prop::collection::vec((any_name(), prop::option::of(any_text())), 0..4);
    prop_oneof![
        Just(Command::IdentifySystem),
        Just(Command::IdentifyNode),
        Just(Command::ProbeTimeline),
        Just(Command::UploadManifest),
        Just(Command::IsInRecovery),
        "[a-z_]{1,9}(\\.[a-z_]{1,9}){0,2}".prop_map(Command::Show),
        any_name().prop_map(|slot| Command::ReadReplicationSlot { slot }),
        ("[a-z0-9_]{1,63}", any::<bool>(), any_slot_kind()).prop_map(|(slot, temporary, kind)| {
            Command::CreateReplicationSlot {
                slot,
                temporary,
                kind,
            }
        }),
        (any_name(), any::<bool>(), prop::option::of(any::<bool>())).prop_map(
            |(slot, failover, two_phase)| Command::AlterReplicationSlot {
                slot,
                failover: Some(failover),
                two_phase,
            }
        ),
        (any_name(), any::<bool>())
            .prop_map(|(slot, wait)| Command::DropReplicationSlot { slot, wait }),
        start.prop_map(|(slot, start, timeline)| {
            Command::StartReplication(StartReplication {
                slot,
                start: Lsn::new(start),
                timeline: timeline.map(|(number, _)| number),
                timeline_id: timeline.and_then(|(_, id)| id),
            })
        }),
        (any_name(), any::<u64>(), options).prop_map(|(slot, start, options)| {
            Command::StartLogicalReplication {
                slot,
                start: Lsn::new(start),
                options,
            }
        }),
        (1..=u32::MAX).prop_map(|timeline| Command::TimelineHistory { timeline }),
        any_backup().prop_map(Command::BaseBackup),
        any_native_command(),
    ]
}

fn any_verify() -> impl Strategy<Value = VerifyCommand> {
    let key = || prop::option::of(prop::collection::vec(any::<u8>(), 1..20));
    let at = prop_oneof![
        Just(VerifyAt::Newest),
        Just(VerifyAt::Place),
        any::<u64>().prop_map(|lsn| VerifyAt::Lsn(Lsn::new(lsn))),
    ];
    let bytes = |key: Option<Vec<u8>>| key.map(bytes::Bytes::from);
    prop_oneof![
        (1..=u32::MAX, any_uuid(), at).prop_map(|(number, id, at)| {
            let timeline = Timeline { number, id };
            VerifyCommand::Begin { timeline, at }
        }),
        (any::<u64>(), key(), key()).prop_map(move |(rows, after, upto)| {
            let (after, upto) = (bytes(after), bytes(upto));
            VerifyCommand::Ranges { rows, after, upto }
        }),
        (any::<u64>(), key(), key()).prop_map(move |(offset, after, upto)| {
            let (after, upto) = (bytes(after), bytes(upto));
            VerifyCommand::Rows {
                offset,
                after,
                upto,
            }
        }),
    ]
}

fn any_native_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        any_promise(),
        any_verify().prop_map(Command::Verify),
        (
            any_text(),
            any::<bool>(),
            any::<bool>(),
            prop::option::of(any::<u64>())
        )
            .prop_map(|(why, force, without_policy, max_lag)| {
                Command::FailOver(FailOver {
                    why,
                    force,
                    without_policy,
                    max_lag,
                })
            }),
        (1..=u32::MAX, any_uuid(), any::<u64>()).prop_map(|(number, id, end)| {
            Command::TakeOver(TakeOver {
                timeline: Timeline { number, id },
                end: Lsn::new(end),
            })
        }),
        (1..=u32::MAX, any_uuid(), any_text(), any_text()).prop_map(
            |(number, id, primary, address)| {
                Command::TimelineOpened(TimelineOpened {
                    timeline: Timeline { number, id },
                    primary,
                    address,
                })
            }
        ),
        (any_text(), any_uuid(), any_uuid(), any_text()).prop_map(
            |(name, node, incarnation, address)| {
                Command::RegisterStandby(RegisterStandby {
                    name,
                    node,
                    incarnation,
                    address,
                })
            }
        ),
    ]
}

proptest! {
    #[test]
    fn every_command_is_read_back_as_it_was_written(command in any_command()) {
        let text = command.to_string();
        prop_assert_eq!(Command::parse(&text, NATIVE), Ok(command), "{}", text);
    }

    #[test]
    fn no_character_behind_a_command_is_passed_over(command in any_command()) {
        let text = command.to_string();
        for more in ["x", "'", ",", ")", "\0", "é"] {
            let longer = format!("{text}{more}");
            prop_assert_ne!(Command::parse(&longer, NATIVE).ok(), Some(command.clone()), "{}", longer);
        }
        // What is cut is refused, or a command of its own.
        for (len, _) in text.char_indices() {
            let Ok(read) = Command::parse(&text[..len], NATIVE) else { continue };
            let again = Command::parse(&read.to_string(), NATIVE);
            prop_assert_eq!(again, Ok(read), "{}", &text[..len]);
        }
    }

    #[test]
    fn any_text_is_taken_or_refused_but_never_panics(
        word in prop::sample::select(vec![
            "START_REPLICATION", "BASE_BACKUP", "CREATE_REPLICATION_SLOT", "SHOW",
            "ALTER_REPLICATION_SLOT", "TIMELINE_HISTORY", "PROMISE_TIMELINE", "SELECT", "",
            "VERIFY_BEGIN", "VERIFY_RANGES", "VERIFY_ROWS", "FAIL_OVER", "TAKE_OVER",
            "TIMELINE_OPENED", "REGISTER_STANDBY", "DROP_REPLICATION_SLOT", "READ_REPLICATION_SLOT",
        ]),
        rest in prop_oneof![
            "\\PC{0,40}",
            "([ ,;()'\"./]|SLOT|LOGICAL|PHYSICAL|TIMELINE|[0-9A-F]{1,9}|[a-z]{1,3}){0,20}",
        ],
        native: bool,
    ) {
        for mode in [ReplicationMode::None, ReplicationMode::Physical, ReplicationMode::Database] {
            let _ = Command::parse(&format!("{word} {rest}"), Dialect { mode, native });
        }
    }
}
