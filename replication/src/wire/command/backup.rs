//! Options of BASE_BACKUP.
//!
//! Every option of PostgreSQL 15 to 18 is read and checked as PostgreSQL checks it, whether or
//! not this node does anything with it; what is not done here is refused later, by name.

use super::option::{RawOption, refused};
use crate::wire::startup::parse_bool;
use crate::wire::{Result, WireError, sqlstate};

/// Allowed values of MAX_RATE, in kilobytes a second.
pub const MAX_RATE_KB: std::ops::RangeInclusive<u32> = 32..=1_048_576;

/// What kind of backup is wanted. [`BackupOptions::default`] is `BASE_BACKUP` without options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupOptions {
    /// Label for the backup.
    pub label: String,
    /// Whether sizes are estimated and progress is reported.
    pub progress: bool,
    /// Whether the checkpoint at the start is made at once instead of spread.
    pub fast_checkpoint: bool,
    /// Whether the end waits for the log to be archived.
    pub wait: bool,
    /// Whether the log needed to restore is part of the backup.
    pub wal: bool,
    /// Most kilobytes to send a second, within [`MAX_RATE_KB`].
    pub max_rate_kb: Option<u32>,
    /// Whether the tablespaces are listed in a file instead of as links.
    pub tablespace_map: bool,
    /// Whether checksums are verified while reading.
    pub verify_checksums: bool,
    /// Whether a manifest is sent.
    pub manifest: ManifestMode,
    /// The checksums in the manifest, if the client chose.
    pub manifest_checksums: Option<ChecksumAlgorithm>,
    /// Where the backup goes; also decides the framing.
    pub target: BackupTarget,
    /// Compression by the server.
    pub compression: Compression,
    /// Level and other details of the compression.
    pub compression_detail: Option<String>,
    /// Whether the backup is relative to an uploaded manifest.
    pub incremental: bool,
}

/// Whether a manifest is sent.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum ManifestMode {
    /// None.
    No,
    /// With file names as text where possible.
    Yes,
    /// With all file names in hexadecimal.
    ForceEncode,
}

/// Checksums of files in a manifest.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say all")]
pub enum ChecksumAlgorithm {
    None,
    Crc32c,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// Where the backup goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupTarget {
    /// Not said: to the client, in the framing of servers before version 15.
    Legacy,
    /// To the client.
    Client,
    /// Into a directory of the server.
    Server(String),
    /// Nowhere.
    Blackhole,
}

/// Compression by the server.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say all")]
pub enum Compression {
    None,
    Gzip,
    Lz4,
    Zstd,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            label: "base backup".to_owned(),
            progress: false,
            fast_checkpoint: false,
            wait: true,
            wal: false,
            max_rate_kb: None,
            tablespace_map: false,
            verify_checksums: true,
            manifest: ManifestMode::No,
            manifest_checksums: None,
            target: BackupTarget::Legacy,
            compression: Compression::None,
            compression_detail: None,
            incremental: false,
        }
    }
}

impl BackupOptions {
    pub(super) fn from_raw(raw: &[RawOption]) -> Result<Self> {
        let mut options = Self::default();
        let (mut target, mut target_detail) = (None, None);
        for (at, option) in raw.iter().enumerate() {
            let name = option.name.as_str();
            if raw[..at].iter().any(|earlier| earlier.name == name) {
                return Err(refused(format!("duplicate option \"{name}\"")));
            }
            match name {
                "target" => target = Some(option.text()?),
                "target_detail" => target_detail = Some(option.text()?),
                _ => options.set(name, option)?,
            }
        }
        options.target = backup_target(target, target_detail)?;
        if options.manifest == ManifestMode::No && options.manifest_checksums.is_some() {
            let text = "manifest checksums require a backup manifest";
            return Err(refused(text.to_owned()));
        }
        if options.compression == Compression::None && options.compression_detail.is_some() {
            let text = "compression detail cannot be specified unless compression is enabled";
            return Err(refused(text.to_owned()));
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, option: &RawOption) -> Result<()> {
        match name {
            "label" => self.label = option.text()?,
            "progress" => self.progress = option.boolean()?,
            "checkpoint" => self.fast_checkpoint = checkpoint(&option.text()?)?,
            "wait" => self.wait = option.boolean()?,
            "wal" => self.wal = option.boolean()?,
            "incremental" => self.incremental = option.boolean()?,
            "max_rate" => self.max_rate_kb = Some(max_rate(option.number()?)?),
            "tablespace_map" => self.tablespace_map = option.boolean()?,
            "verify_checksums" => self.verify_checksums = option.boolean()?,
            "manifest" => self.manifest = ManifestMode::parse(&option.text()?)?,
            "manifest_checksums" => {
                self.manifest_checksums = Some(ChecksumAlgorithm::parse(&option.text()?)?);
            }
            "compression" => self.compression = Compression::parse(&option.text()?)?,
            "compression_detail" => self.compression_detail = Some(option.text()?),
            _ => {
                let message = format!("unrecognized base backup option: \"{name}\"");
                return Err(refused(message));
            }
        }
        Ok(())
    }
}

fn checkpoint(kind: &str) -> Result<bool> {
    match kind.to_ascii_lowercase().as_str() {
        "fast" => Ok(true),
        "spread" => Ok(false),
        _ => Err(refused(format!("unrecognized checkpoint type: \"{kind}\""))),
    }
}

fn max_rate(rate: u64) -> Result<u32> {
    let allowed = u32::try_from(rate).ok();
    let allowed = allowed.filter(|rate| MAX_RATE_KB.contains(rate));
    allowed.ok_or_else(|| {
        let (least, most) = (MAX_RATE_KB.start(), MAX_RATE_KB.end());
        let message = format!(
            "{rate} is outside the valid range for parameter \"MAX_RATE\" ({least} .. {most})"
        );
        WireError::refused(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, message)
    })
}

fn backup_target(target: Option<String>, detail: Option<String>) -> Result<BackupTarget> {
    match (target.as_deref(), detail) {
        (None, None) => Ok(BackupTarget::Legacy),
        (None, Some(_)) => {
            let text = "target detail cannot be used without target";
            Err(refused(text.to_owned()))
        }
        (Some("client"), None) => Ok(BackupTarget::Client),
        (Some("blackhole"), None) => Ok(BackupTarget::Blackhole),
        (Some(target @ ("client" | "blackhole")), Some(_)) => Err(refused(format!(
            "target \"{target}\" does not accept a target detail"
        ))),
        (Some("server"), Some(path)) => Ok(BackupTarget::Server(path)),
        (Some("server"), None) => {
            let text = "target \"server\" requires a target detail";
            Err(refused(text.to_owned()))
        }
        (Some(target), _) => {
            let message = format!("unrecognized target: \"{target}\"");
            Err(WireError::refused(sqlstate::FEATURE_NOT_SUPPORTED, message))
        }
    }
}

impl ManifestMode {
    fn parse(text: &str) -> Result<Self> {
        match parse_bool(text) {
            Some(true) => Ok(Self::Yes),
            Some(false) => Ok(Self::No),
            None if text.eq_ignore_ascii_case("force-encode") => Ok(Self::ForceEncode),
            None => Err(refused(format!("unrecognized manifest option: \"{text}\""))),
        }
    }
}

impl ChecksumAlgorithm {
    const ALL: [Self; 6] = [
        Self::None,
        Self::Crc32c,
        Self::Sha224,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
    ];

    /// The name in commands and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Crc32c => "CRC32C",
            Self::Sha224 => "SHA224",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut all = Self::ALL.into_iter();
        let found = all.find(|it| it.as_str().eq_ignore_ascii_case(text));
        found.ok_or_else(|| refused(format!("unrecognized checksum algorithm: \"{text}\"")))
    }
}

impl Compression {
    const ALL: [Self; 4] = [Self::None, Self::Gzip, Self::Lz4, Self::Zstd];

    /// The name in commands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|it| it.as_str() == text);
        found.ok_or_else(|| refused(format!("unrecognized compression algorithm: \"{text}\"")))
    }
}
