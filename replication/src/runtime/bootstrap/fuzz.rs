//! Base backups that somebody else made: label and manifest, the archive, and a whole directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use mainstay_storage::fuzz::Input;
use mainstay_storage::{
    BACKUP_LABEL, Lsn, OsDisk, SegmentSize, Timeline, TimelineHistory, segment_file_name,
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::unpack::unpack;
use crate::runtime::backup::files::Tree;
use crate::runtime::backup::label::Label;
use crate::runtime::backup::manifest::{LogStretch, MANIFEST, Manifest, ManifestWriter};
use crate::runtime::backup::verify::Checked;
use crate::wire::command::{ChecksumAlgorithm, ManifestMode};

/// A label and a manifest, as text.
pub(crate) fn backup_files(data: &[u8]) {
    let mut input = Input::new(data);
    let mended = input.flag();
    let bytes = input.rest();
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(label) = Label::parse(text)
    {
        assert!(label.log_begin() <= label.replay);
        let _ = label.timelines();
        let written = label.to_text();
        let again = Label::parse(&written).expect("our own label");
        assert_eq!((again.to_text(), again.replay), (written, label.replay));
    }
    let bytes = match mended {
        true => with_checksum(bytes),
        false => bytes.to_vec(),
    };
    if let Ok(manifest) = Manifest::parse(&bytes) {
        assert!(manifest.files.len() <= bytes.len());
        for file in &manifest.files {
            let inside = |part: &str| !matches!(part, "" | "." | "..");
            assert!(file.path.split('/').all(inside), "{:?}", file.path);
            assert!(Path::new(&file.path).is_relative());
        }
        let mut changed = bytes.clone();
        let at = input.below(changed.len()).min(changed.len() - 1);
        changed[at] ^= 1;
        assert!(Manifest::parse(&changed).is_err(), "byte {at}");
    }
}

/// Ends a manifest as it would end if that were all of it.
fn with_checksum(text: &[u8]) -> Vec<u8> {
    let body = [text, b"\n],\n"].concat();
    let digits = Sha256::digest(&body)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    let last = format!("\"Manifest-Checksum\": \"{digits}\"}}\n");
    [body, last.into_bytes()].concat()
}

/// A directory for one input, which is empty again for the next.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        // Two targets may run at once.
        static MADE: AtomicU64 = AtomicU64::new(0);
        let (process, made) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let name = format!("mainstay-fuzz-{process}-{made}");
        let path = std::env::temp_dir().join(name);
        clear(&path);
        fs::create_dir_all(&path).expect("a directory for temporary files");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        clear(&self.0);
    }
}

fn clear(path: &Path) {
    if path.exists() {
        fs::remove_dir_all(path).expect("a directory of our own");
    }
}

/// The archive of a base backup: members of any kind and name, or any bytes.
pub(crate) fn backup_archive(data: &[u8]) {
    let mut input = Input::new(data);
    let archive = match input.byte() % 4 {
        0 => input.rest().to_vec(),
        _ => members(&mut input),
    };
    let scratch = Scratch::new();
    let root = scratch.0.join("root");
    let unpacked = unpack(&OsDisk, &root, &archive[..]);
    let around = fs::read_dir(&scratch.0).expect("our own directory");
    let around = around.map(|entry| entry.expect("readable").file_name());
    assert!(
        around.into_iter().all(|name| name == "root"),
        "left the backup"
    );
    let tree = Tree::of(&root, "root");
    if let Ok(tree) = tree {
        let bytes = tree.files.iter().map(|(_, size)| size).sum::<u64>();
        assert!(bytes <= archive.len() as u64, "more than it was sent");
    } else if unpacked.is_ok() {
        // Nothing but files and directories, though they may lie deeper than a backup's.
        assert!(root.is_dir());
    }
}

/// A tar file whose headers have valid checksums.
fn members(input: &mut Input<'_>) -> Vec<u8> {
    let mut archive = Vec::new();
    while !input.is_empty() && archive.len() < 1 << 16 {
        let kind = input.one_of(b"00055\0LKxgS126");
        let mut header = match input.flag() {
            true => tar::Header::new_ustar(),
            false => tar::Header::new_gnu(),
        };
        let name = input.sized();
        let name = &name[..name.len().min(100)];
        let content = input.sized();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(0o600);
        header.set_size(match input.byte() {
            1 => input.u64() >> 1,
            2 => content.len() as u64 + 1,
            _ => content.len() as u64,
        });
        if input.byte() == 1 {
            let patch = input.sized();
            let at = input.below(512 - patch.len().min(511));
            let end = (at + patch.len()).min(512);
            header.as_mut_bytes()[at..end].copy_from_slice(&patch[..end - at]);
        }
        header.set_cksum();
        archive.extend_from_slice(header.as_bytes());
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// A directory that says of itself what it likes, with a manifest that agrees with it.
pub(crate) fn backup(data: &[u8]) {
    let mut input = Input::new(data);
    let scratch = Scratch::new();
    let mut place = || match input.byte() % 4 {
        0 => Lsn::new(input.u64()),
        1 => Lsn::new(u64::MAX - u64::from(input.byte())),
        _ => Lsn::new((1 << 20) + u64::from(input.u32() >> 8)),
    };
    let (replay, copy, history_begin, end) = (place(), place(), place(), place());
    let number = 1 + u32::from(input.byte() % 3);
    let timeline = Timeline {
        number,
        id: Uuid::from_u128(u128::from(number)),
    };
    let mut history = TimelineHistory::new(timeline, history_begin);
    if number > 1 {
        let first = Timeline {
            number: 1,
            id: Uuid::from_u128(1),
        };
        history = TimelineHistory::new(first, history_begin);
        // A fork that lies before the begin leaves it as it is.
        let _ = history.open(timeline, Lsn::new(input.u64()), "fuzzing");
    }
    let label = Label {
        system_id: 42,
        segment_size: SegmentSize::new(1 << (20 + input.byte() % 11)).expect("a size"),
        replay,
        copy,
        timeline,
        history_begin,
        history: history.to_text(),
        begun: i64::from(input.u32()),
        name: "fuzzing".to_owned(),
    };
    let text = label.to_text();
    fs::write(scratch.0.join(BACKUP_LABEL), &text).expect("a small file");
    let log = scratch.0.join("pg_wal");
    fs::create_dir(&log).expect("a new directory");
    let first = label.segment_size.segment_of(label.replay);
    for offset in 0..2 {
        let name = segment_file_name(number, first.saturating_add(offset), label.segment_size);
        fs::write(log.join(name), input.sized()).expect("a small file");
    }
    let mut manifest = ManifestWriter::new(ManifestMode::Yes, ChecksumAlgorithm::None, 0);
    manifest.add(BACKUP_LABEL, text.len() as u64, None);
    let stretch = LogStretch {
        timeline: number,
        start: replay,
        end,
    };
    fs::write(scratch.0.join(MANIFEST), manifest.finish(stretch)).expect("a small file");
    if let Ok(checked) = Checked::of(&scratch.0) {
        assert!(checked.label == label && checked.end == end);
        assert!(end >= copy);
    }
}
