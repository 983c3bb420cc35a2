//! The `mainstay` binary.

/// With the system's allocator a memtable that is freed holds up writers for tens of milliseconds.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // The allocator would ask for huge pages. The first touch of one waits until all of its 2 MiB
    // are zeroed, 5 ms on some virtual machines, and a commit or a promotion with it. A kernel that
    // knows no huge pages has none to switch off.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    mainstay::cli::run()
}
