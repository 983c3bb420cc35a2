//! What PostgreSQL 15 and its tools really said, replayed through this room.
//!
//! `goldens/*.txt` hold recorded sessions. Every message in them must be read and written back to
//! the byte, every command must be taken or refused as PostgreSQL did it, and every answer must be
//! rebuilt from its meaning alone.

use bytes::{Bytes, BytesMut};

use crate::wire::command::{Command, Dialect};
use crate::wire::replication::{ReceiverMessage, SenderMessage};
use crate::wire::result::{
    self, Answer, BackupBound, Collector, CopyKind, CreatedSlot, HistoryFile, NextTimeline,
    Progress, SlotPosition, SystemIdentity,
};
use crate::wire::scram::{ScramClient, mechanisms};
use crate::wire::{
    Authentication, BackendDecoder, BackendMessage, ErrorFields, FirstPacket, FrontendDecoder,
    FrontendMessage, FrontendPhase, ReplicationMode, SaslInitialResponse, StartupDecoder,
    StartupMessage, WireError,
};

const ALL: [(&str, &str); 8] = [
    ("startup", include_str!("goldens/startup.txt")),
    ("commands", include_str!("goldens/commands.txt")),
    ("start_errors", include_str!("goldens/start_errors.txt")),
    (
        "timeline_switch",
        include_str!("goldens/timeline_switch.txt"),
    ),
    ("receivewal", include_str!("goldens/receivewal.txt")),
    ("shutdown", include_str!("goldens/shutdown.txt")),
    ("walreceiver", include_str!("goldens/walreceiver.txt")),
    ("backup_options", include_str!("goldens/backup_options.txt")),
];

const PHYSICAL: Dialect = Dialect {
    mode: ReplicationMode::Physical,
    native: false,
};

/// One line of a recorded session.
#[derive(Debug, Clone)]
enum Step {
    /// What was done at that moment.
    Note(&'static str),
    Startup(Bytes),
    Client(Bytes),
    Server(Bytes),
}

fn golden(name: &str) -> Vec<Step> {
    let (_, text) = ALL.iter().find(|(it, _)| *it == name).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("# "));
    lines.map(step).collect()
}

fn step(line: &'static str) -> Step {
    let (kind, rest) = line.split_once(' ').unwrap();
    match kind {
        "##" => Step::Note(rest),
        ">>" => Step::Startup(unhex(rest)),
        ">" => Step::Client(unhex(rest)),
        "<" => Step::Server(unhex(rest)),
        _ => panic!("a golden holds {line:?}"),
    }
}

/// Hexadecimal bytes; `+n` stands for n bytes that were not kept and are taken for zeros.
fn unhex(text: &str) -> Bytes {
    let (hex, missing) = text.split_once('+').unwrap_or((text, "0"));
    let digits = hex.as_bytes().chunks_exact(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16));
    let mut bytes: Vec<u8> = bytes.collect::<Result<_, _>>().unwrap();
    bytes.resize(bytes.len() + missing.parse::<usize>().unwrap(), 0);
    Bytes::from(bytes)
}

fn bytes_of(encode: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    encode(&mut out);
    out.freeze()
}

fn server_message(bytes: &Bytes) -> BackendMessage {
    let mut buf = BytesMut::from(&bytes[..]);
    let frame = BackendDecoder::new().next(&mut buf).unwrap().unwrap();
    assert!(buf.is_empty());
    BackendMessage::decode(frame).unwrap()
}

fn client_message(bytes: &Bytes) -> FrontendMessage {
    let phase = match bytes[0] {
        b'p' => FrontendPhase::Authentication,
        b'd' | b'c' => FrontendPhase::Streaming { native: false },
        _ => FrontendPhase::Command,
    };
    let mut buf = BytesMut::from(&bytes[..]);
    let frame = FrontendDecoder::new(phase).next(&mut buf);
    let frame = frame.unwrap().unwrap();
    assert!(buf.is_empty());
    FrontendMessage::decode(frame).unwrap()
}

fn startup(bytes: &Bytes) -> Result<StartupMessage, WireError> {
    match StartupDecoder::new().next(&mut BytesMut::from(&bytes[..]))? {
        Some(FirstPacket::Startup(message)) => Ok(message),
        other => panic!("the session begins with {other:?}"),
    }
}

/// The messages of the server in `name` behind the note that begins with `note`, to the next.
fn server_after(name: &str, note: &str) -> Vec<BackendMessage> {
    let steps = golden(name).into_iter();
    let behind = |step: &Step| !matches!(step, Step::Note(it) if it.starts_with(note));
    let part = steps.skip_while(behind).skip(1);
    let part = part.take_while(|step| !matches!(step, Step::Note(_)));
    let messages = part.filter_map(|step| match step {
        Step::Server(bytes) => Some(server_message(&bytes)),
        _ => None,
    });
    messages.collect()
}

#[test]
fn every_recorded_message_is_read_and_written_back_to_the_byte() {
    for (name, _) in ALL {
        for step in golden(name) {
            match step {
                Step::Note(_) => {}
                Step::Startup(bytes) => {
                    if let Ok(message) = startup(&bytes) {
                        assert_eq!(bytes_of(|out| message.encode(out)), bytes, "{name}");
                    }
                }
                Step::Client(bytes) => {
                    let message = client_message(&bytes);
                    assert_eq!(bytes_of(|out| message.encode(out)), bytes, "{name}");
                }
                Step::Server(bytes) => {
                    let message = server_message(&bytes);
                    assert_eq!(bytes_of(|out| message.encode(out)), bytes, "{name}");
                }
            }
        }
    }
}

#[test]
fn recorded_sessions_survive_being_cut_anywhere() {
    for (name, _) in ALL {
        let messages: Vec<Bytes> = golden(name)
            .into_iter()
            .filter_map(|step| match step {
                Step::Server(bytes) => Some(bytes),
                _ => None,
            })
            .collect();
        for piece in [1usize, 7, 4096] {
            let whole: Vec<u8> = messages.concat();
            let mut buf = BytesMut::new();
            let mut frames = 0;
            for piece in whole.chunks(piece) {
                buf.extend_from_slice(piece);
                while BackendDecoder::new().next(&mut buf).unwrap().is_some() {
                    frames += 1;
                }
            }
            assert_eq!((frames, buf.len()), (messages.len(), 0), "{name}");
        }
    }
}

#[test]
fn every_recorded_streaming_payload_is_read_and_written_back_to_the_byte() {
    let mut kinds = std::collections::BTreeMap::new();
    for name in ["timeline_switch", "receivewal", "shutdown", "walreceiver"] {
        for step in golden(name) {
            match step {
                Step::Client(bytes) if bytes[0] == b'd' => {
                    let message = ReceiverMessage::decode(bytes.slice(5..), false).unwrap();
                    assert_eq!(bytes_of(|out| message.encode(out)), bytes);
                    *kinds.entry(char::from(bytes[5])).or_insert(0) += 1;
                }
                Step::Server(bytes) if bytes[0] == b'd' => {
                    let message = SenderMessage::decode(bytes.slice(5..), false).unwrap();
                    assert_eq!(bytes_of(|out| message.encode(out)), bytes);
                    *kinds.entry(char::from(bytes[5])).or_insert(0) += 1;
                }
                _ => {}
            }
        }
    }
    assert_eq!(String::from_iter(kinds.keys()), "hkrw");
}

#[test]
fn a_recorded_keepalive_says_what_the_tool_said_it_says() {
    let payload = unhex("6b000000002e000170000303b8906a093501");
    let message = SenderMessage::decode(payload, false).unwrap();
    let pg_us: i64 = 848_516_161_866_037;
    let expected = SenderMessage::Keepalive {
        end: "0/2E000170".parse().unwrap(),
        time_us: pg_us + 946_684_800_000_000,
        reply_requested: true,
    };
    assert_eq!(message, expected);
}

/// The answer to the query at `at`, and its bytes up to ReadyForQuery or the copy.
fn answer(steps: &[Step], at: usize) -> (Answer, Bytes, Option<CopyKind>) {
    let mut collector = Collector::new();
    let mut bytes = Vec::new();
    for step in &steps[at + 1..] {
        let Step::Server(message) = step else {
            break;
        };
        match collector.take(server_message(message)).unwrap() {
            Progress::Done(answer, _) => return (answer, Bytes::from(bytes), None),
            Progress::Copy(kind, _, answer) => return (answer, Bytes::from(bytes), Some(kind)),
            Progress::More => bytes.extend_from_slice(message),
        }
    }
    (Answer::default(), Bytes::from(bytes), None)
}

/// Every query of a physical session with its answer.
fn exchanges(name: &str) -> Vec<(String, Answer, Bytes)> {
    let steps = golden(name);
    let mut exchanges = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let Step::Client(bytes) = step else {
            continue;
        };
        if let FrontendMessage::Query(text) = client_message(bytes) {
            let (mut answer, bytes, copy) = answer(&steps, at);
            if copy.is_none() && answer == Answer::default() {
                answer.error = steps[at + 1..].first().and_then(recorded_error);
            }
            exchanges.push((text, answer, bytes));
        }
    }
    exchanges
}

/// An error whose ReadyForQuery was not kept.
fn recorded_error(step: &Step) -> Option<ErrorFields> {
    match step {
        Step::Server(bytes) => match server_message(bytes) {
            BackendMessage::ErrorResponse(error) => Some(error),
            _ => None,
        },
        _ => None,
    }
}

/// What of an error is ours to repeat.
fn told(error: &ErrorFields) -> ErrorFields {
    ErrorFields {
        others: Vec::new(),
        ..error.clone()
    }
}

#[test]
fn every_recorded_command_is_taken_or_refused_as_postgresql_does() {
    let (mut taken, mut refused, mut sql) = (0, 0, 0);
    for name in [
        "commands",
        "start_errors",
        "timeline_switch",
        "receivewal",
        "shutdown",
        "walreceiver",
        "backup_options",
    ] {
        for (text, answer, _) in exchanges(name) {
            let error = answer.error.as_ref().map(told);
            match Command::parse(&text, PHYSICAL) {
                Ok(Command::Sql(_)) => {
                    let code = error.map(|error| error.sqlstate.into_owned());
                    assert_eq!(code.as_deref(), Some("0A000"), "{text}");
                    sql += 1;
                }
                Ok(_) => {
                    // Only what depends on the state of the server may still be refused.
                    let code = error.as_ref().map_or("", |error| &*error.sqlstate);
                    let of_state = ["", "42704", "42710", "58P01", "XX000"].contains(&code);
                    assert!(of_state, "{text}: {error:?}");
                    taken += 1;
                }
                Err(ours) => {
                    assert_eq!(Some(ours.report()), error, "{text}");
                    refused += 1;
                }
            }
        }
    }
    assert!(
        taken > 60 && refused >= 15 && sql >= 4,
        "{taken} {refused} {sql}"
    );
}

#[test]
fn every_recorded_answer_is_rebuilt_from_its_meaning() {
    let mut rebuilt = std::collections::BTreeSet::new();
    for name in [
        "startup",
        "commands",
        "start_errors",
        "timeline_switch",
        "receivewal",
    ] {
        for (text, answer, recorded) in exchanges(name) {
            let (None, Some(set)) = (&answer.error, answer.sets.first()) else {
                continue;
            };
            let result = match Command::parse(&text, PHYSICAL).unwrap() {
                Command::IdentifySystem => SystemIdentity::read(set).unwrap().result(),
                Command::Show(name) => result::show(&name, &result::read_show(set).unwrap()),
                Command::ReadReplicationSlot { .. } => {
                    SlotPosition::result(SlotPosition::read(set).unwrap())
                }
                Command::CreateReplicationSlot { .. } => CreatedSlot::read(set).unwrap().result(),
                Command::TimelineHistory { .. } => HistoryFile::read(set).unwrap().result(),
                Command::StartReplication(_) => {
                    let next = NextTimeline::read(set).unwrap();
                    let ours = bytes_of(|out| result::encode_stream_end(Some(next), out));
                    assert_eq!(ours, recorded, "{text}");
                    rebuilt.insert("START_REPLICATION");
                    continue;
                }
                Command::DropReplicationSlot { .. } => {
                    let tag = set.tag.as_deref().unwrap();
                    assert_eq!(bytes_of(|out| result::encode_complete(tag, out)), recorded);
                    continue;
                }
                Command::Sql(_) => {
                    let ours = bytes_of(|out| result::select_one().encode(out));
                    assert_eq!(ours, recorded, "{text}");
                    continue;
                }
                other => panic!("no answer to {other:?} was recorded"),
            };
            assert_eq!(bytes_of(|out| result.encode(out)), recorded, "{text}");
            rebuilt.insert(text.split([' ', ';']).next().unwrap().to_owned().leak());
        }
    }
    assert_eq!(
        Vec::from_iter(rebuilt),
        [
            "CREATE_REPLICATION_SLOT",
            "IDENTIFY_SYSTEM",
            "READ_REPLICATION_SLOT",
            "SHOW",
            "START_REPLICATION",
            "TIMELINE_HISTORY",
        ]
    );
}

#[test]
fn the_bounds_of_a_backup_are_written_as_recorded() {
    let bound = BackupBound {
        position: "0/14000028".parse().unwrap(),
        timeline: 1,
    };
    let recorded = "540000003500027265637074720000000000000000000019ffff000000000000\
        746c690000000000000000000014ffff000000000000\
        440000001900020000000a302f31343030303032380000000131430000000b53454c45435400";
    assert_eq!(bytes_of(|out| bound.result().encode(out)), unhex(recorded));
    let rows = [
        result::BackupTablespace {
            oid: Some(16395),
            location: Some("/srv/ts1".to_owned()),
            size_kb: Some(9),
        },
        result::BackupTablespace {
            size_kb: Some(22956),
            ..Default::default()
        },
    ];
    let recorded = "5400000054000373\
        70636f6964000000000000000000001a00040000000000007370636c6f636174696f6e\
        0000000000000000000019ffff00000000000073697a65000000000000000000001400080000000000\
        0044000000200003000000053136333935000000082f7372762f747331000000013944000000170003\
        ffffffffffffffff000000053232393536430000000b53454c45435400";
    let ours = bytes_of(|out| result::BackupTablespace::result(&rows).encode(out));
    assert_eq!(ours, unhex(recorded));
}

#[test]
fn the_recorded_login_passes_our_client() {
    let steps = golden("startup");
    let passwords: Vec<_> = steps.iter().filter_map(password).collect();
    let challenges: Vec<_> = steps.iter().filter_map(challenge).collect();
    let first = SaslInitialResponse::decode(&passwords[0]).unwrap();
    assert_eq!(first.mechanism, "SCRAM-SHA-256");
    let data = first.data.clone().unwrap();
    let nonce = std::str::from_utf8(&data[8..]).unwrap().to_owned();
    let client = ScramClient::new(&mechanisms(false), "pencil", nonce, None).unwrap();
    assert_eq!(client.first(), first);
    let (client, answer) = client.answer(&challenges[0]).unwrap();
    assert_eq!(answer.as_bytes(), passwords[1].expose());
    client.verify(&challenges[1]).unwrap();
}

fn password(step: &Step) -> Option<crate::wire::Secret> {
    match step {
        Step::Client(bytes) => match client_message(bytes) {
            FrontendMessage::Password(body) => Some(body),
            _ => None,
        },
        _ => None,
    }
}

fn challenge(step: &Step) -> Option<Bytes> {
    match step {
        Step::Server(bytes) => match server_message(bytes) {
            BackendMessage::Authentication(
                Authentication::SaslContinue(bytes) | Authentication::SaslFinal(bytes),
            ) => Some(bytes),
            _ => None,
        },
        _ => None,
    }
}

#[test]
fn sessions_begin_as_recorded() {
    let modes: Vec<_> = golden("startup")
        .iter()
        .filter_map(|step| match step {
            Step::Startup(bytes) => Some(startup(bytes)),
            _ => None,
        })
        .collect();
    let first = modes[0].as_ref().unwrap();
    assert_eq!((first.user.as_str(), first.database()), ("scr", "postgres"));
    assert_eq!(first.replication, ReplicationMode::Physical);
    assert_eq!(first.application_name(), "psql");
    assert_eq!(
        modes[5].as_ref().unwrap().replication,
        ReplicationMode::Database
    );
    let banana = modes[8].as_ref().unwrap_err().report();
    let recorded = server_after("startup", "replication=banana");
    let [BackendMessage::ErrorResponse(error)] = &recorded[..] else {
        panic!("recorded {recorded:?}");
    };
    assert_eq!(banana, told(error));
}

/// The type letters of `messages`, data left out.
fn letters(messages: &[BackendMessage]) -> String {
    let bytes = messages.iter().map(|it| bytes_of(|out| it.encode(out))[0]);
    bytes.filter(|&tag| tag != b'd').map(char::from).collect()
}

#[test]
fn streams_end_as_recorded() {
    let promotion = server_after("timeline_switch", "standby: pg_promote()");
    assert_eq!(letters(&promotion), "cTDCCSZTDCZW");
    let stop = server_after("receivewal", "client: SIGINT");
    assert_eq!(letters(&stop), "cCCZ");
    let end = bytes_of(|out| result::encode_stream_end(None, out));
    let recorded: Vec<_> = stop[1..3]
        .iter()
        .map(|it| bytes_of(|out| it.encode(out)))
        .collect();
    assert_eq!(end, recorded.concat());
    let shutdown = server_after("shutdown", "server: pg_ctl stop -m fast");
    assert_eq!(letters(&shutdown), "C");
    assert_eq!(
        shutdown.last(),
        Some(&BackendMessage::CommandComplete("COPY 0".to_owned()))
    );
}
