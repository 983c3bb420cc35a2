//! `mainstay backup`, `backup verify` and `restore`: base backups in directories.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mainstay_replication::{
    Backup, BackupRequest, Password, WalStreamingConfig, restore_backup, take_backup, verify_backup,
};

use super::{Failure, print};
use crate::config::{Size, read_secret};
use crate::upstream::Upstream;
use crate::{Error, units};

/// Allowed values of `--max-rate`, in kilobytes a second.
const MAX_RATE_KB: std::ops::RangeInclusive<u64> = 32..=1_048_576;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct BackupArgs {
    #[command(subcommand)]
    verb: Option<BackupVerb>,
    #[command(flatten)]
    take: TakeArgs,
}

#[derive(Debug, Subcommand)]
enum BackupVerb {
    /// Check every file of a base backup against its manifest, and every record of its log
    Verify {
        /// The directory of the backup
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
struct TakeArgs {
    /// Where the backup goes: an empty directory, or one that does not exist
    #[arg(required = true)]
    dir: Option<PathBuf>,
    /// The node to take it of: postgres://user@host:port[,host:port], its replication side
    #[arg(long, value_name = "URL", env = "MAINSTAY_FROM", required = true)]
    from: Option<String>,
    /// What the backup is called
    #[arg(long, value_name = "TEXT", env = "MAINSTAY_LABEL", default_value = "")]
    label: String,
    /// At most this much a second [default: as fast as it goes]
    #[arg(long, value_name = "SIZE", env = "MAINSTAY_MAX_RATE")]
    max_rate: Option<Size>,
    /// File whose first line is the password for the node
    #[arg(long, value_name = "FILE", env = "MAINSTAY_UPSTREAM_PASSWORD_FILE")]
    upstream_password_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The directory of the backup, plain or as pg_basebackup's tar archives; it is only read
    backup: PathBuf,
    /// The data directory to make: an empty one, or one that does not exist
    #[arg(long, value_name = "DIR", env = "MAINSTAY_DATA")]
    data: PathBuf,
}

/// Runs `backup` and its verbs.
pub(crate) fn run(args: BackupArgs) -> Result<(), Failure> {
    match args.verb {
        Some(BackupVerb::Verify { dir }) => {
            let found = verify_backup(&dir).map_err(Error::from)?;
            print(format!(
                "{}: every file is as it was",
                summary(&found, &dir)
            ))
        }
        None => take(args.take),
    }
}

fn take(args: TakeArgs) -> Result<(), Failure> {
    let (Some(dir), Some(from)) = (args.dir, args.from) else {
        let text = "say where the backup goes, and --from which node it comes";
        return Err(Failure::usage(text));
    };
    let upstream = Upstream::parse(&from)?;
    let password = args.upstream_password_file.as_deref().map(read_secret);
    let defaults = WalStreamingConfig::default();
    let config = WalStreamingConfig {
        name: "mainstay-backup".to_owned(),
        follow: upstream.addresses,
        follow_user: upstream.user.unwrap_or(defaults.follow_user),
        follow_password: password.transpose()?.map(Password::new),
        ..WalStreamingConfig::default()
    };
    let request = BackupRequest {
        label: args.label,
        max_rate_kb: args.max_rate.map(kilobytes).transpose()?,
    };
    let bar = bar();
    let mut show = |bytes: u64, total: u64| {
        bar.set_length(total.max(bytes));
        bar.set_position(bytes);
    };
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build()?;
    let taken = runtime.block_on(take_backup(&config, &dir, &request, &mut show));
    bar.finish_and_clear();
    let taken = taken.map_err(Error::from)?;
    print(format!("{}: complete", summary(&taken, &dir)))
}

/// Runs `restore`.
pub(crate) fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let restored = restore_backup(&args.backup, &args.data, None).map_err(Error::from)?;
    print(summary(&restored, &args.data))?;
    let data = args.data.display();
    print(format!(
        "it is a standby's directory now: start it with --data {data} --follow URL; where nobody is \
         left to follow, promote it then"
    ))
}

fn summary(backup: &Backup, dir: &Path) -> String {
    let Backup {
        label,
        system_id,
        timeline,
        start,
        end,
        files,
        bytes,
    } = backup;
    let (dir, bytes) = (dir.display(), units::bytes(*bytes));
    format!(
        "{dir}: \"{label}\", cluster {system_id:016x}, timeline {timeline}, log from {start} to \
         {end}, {files} files, {bytes}"
    )
}

fn kilobytes(rate: Size) -> Result<u32, Failure> {
    let allowed = Some(rate.0 >> 10).filter(|kb| MAX_RATE_KB.contains(kb));
    allowed
        .and_then(|kb| u32::try_from(kb).ok())
        .ok_or_else(|| Failure::usage("--max-rate is a size for one second, from 32KiB to 1GiB"))
}

/// A bar for people; nothing where standard error is no terminal.
fn bar() -> ProgressBar {
    let target = match io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style = "  {bar:40} {bytes} of {total_bytes}, {bytes_per_sec}";
    let style = ProgressStyle::with_template(style).expect("the template is correct");
    ProgressBar::with_draw_target(Some(0), target).with_style(style.progress_chars("##-"))
}
