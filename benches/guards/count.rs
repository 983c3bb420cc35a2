//! Counting: one case after the other in a process of its own, under callgrind.
//!
//! What surrounds a case must not show in its count: it starts with an empty environment, and only
//! what runs inside `only_this_is_counted` counts, on the thread that runs it. What the system
//! does, the disk for one, is never counted.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Output};

use crate::compare::Counts;

/// Above this size, the default, memory comes fresh from the system. Else the C library chooses a
/// size by what was freed before, and zeroes by instructions what the system would have zeroed.
const MEMORY: &str = "glibc.malloc.mmap_threshold=131072";

/// Counts each of `names`, and says with what.
///
/// # Errors
/// What is missing or failed, as a text.
pub(crate) fn count(names: &[&str]) -> Result<Counts, String> {
    let mut counts = Counts {
        made_with: made_with()?,
        ..Counts::default()
    };
    let dir = std::env::temp_dir().join(format!("mainstay-guards-{:010}", std::process::id()));
    for name in names {
        let counted = under_callgrind(name, &dir);
        // What a case leaves is of no use, and not being able to remove it is no fault of the case.
        let _ = fs::remove_dir_all(&dir);
        let (instructions, processor) = counted.map_err(|error| format!("{name}: {error}"))?;
        counts.instructions.insert((*name).to_owned(), instructions);
        counts.made_with.insert("processor".to_owned(), processor);
    }
    Ok(counts)
}

fn under_callgrind(name: &str, dir: &Path) -> Result<(u64, String), String> {
    let (node, out) = (dir.join("node"), dir.join("counted"));
    fs::create_dir_all(&node).map_err(|error| format!("{}: {error}", node.display()))?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut valgrind = Command::new("valgrind");
    valgrind.env_clear().env("GLIBC_TUNABLES", MEMORY);
    valgrind.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    valgrind.args([
        "--tool=callgrind",
        "--quiet",
        "--toggle-collect=*only_this_is_counted*",
    ]);
    // By names that are as long everywhere.
    valgrind
        .current_dir(dir)
        .arg("--callgrind-out-file=counted");
    valgrind.arg(program).args(["--work", name, "node"]);
    let processor = said(&mut valgrind)?;
    let text = fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    match total.and_then(|total| total.trim().parse().ok()) {
        None | Some(0) => Err("nothing was counted".to_owned()),
        Some(total) => Ok((total, processor)),
    }
}

/// What counts depend on beside the code.
fn made_with() -> Result<BTreeMap<String, String>, String> {
    let mut made_with = BTreeMap::new();
    let rustc = said(Command::new("rustc").arg("-vV"))?;
    for key in ["release", "host"] {
        let prefix = format!("{key}: ");
        let value = rustc.lines().find_map(|line| line.strip_prefix(&prefix));
        let value = value.ok_or_else(|| format!("rustc -vV tells no {key}"))?;
        made_with.insert(format!("rustc {key}"), value.to_owned());
    }
    let valgrind = said(Command::new("valgrind").arg("--version"))?;
    made_with.insert("valgrind".to_owned(), valgrind);
    // Copying, comparing and allocating are its.
    let libc = said(Command::new("getconf").arg("GNU_LIBC_VERSION"));
    made_with.insert("libc".to_owned(), libc.unwrap_or("another".to_owned()));
    Ok(made_with)
}

/// What of the processor code looks for when it runs: checksums and searches have several forms.
/// Under callgrind it is the one that callgrind shows.
#[cfg(target_arch = "x86_64")]
pub(crate) fn processor() -> String {
    let found = [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    let found = found.into_iter().filter(|(_, found)| *found);
    found.map(|(name, _)| name).collect::<Vec<_>>().join(" ")
}

/// As above.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn processor() -> String {
    std::env::consts::ARCH.to_owned()
}

fn said(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output();
    let Output {
        status,
        stdout,
        stderr,
    } = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("{program} is not installed"),
        _ => format!("{program}: {error}"),
    })?;
    if !status.success() {
        return Err(format!(
            "{program}: {status}\n{}",
            String::from_utf8_lossy(&stderr)
        ));
    }
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}
