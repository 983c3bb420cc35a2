//! The `mainstay` binary.

/// With the system's allocator a memtable that is freed holds up writers for tens of milliseconds.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    mainstay::cli::run()
}
