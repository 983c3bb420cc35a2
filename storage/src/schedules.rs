//! Threads that share memory, under schedules that a seed decides.
//!
//! A scenario is a few threads on one [`Signal`](crate::Signal) or one log. Shuttle runs it again
//! and again in one thread of the system, and chooses at every step of a lock, a condition or a
//! counter (`sync.rs`) who goes on. So a wake-up that is lost shows as a deadlock, at once and
//! every time the seed is run, and a wait that ends early shows where it ended. Built by
//! `tests/schedules` alone; but for the simulated disk a log is the real one.

mod closing;
mod log;
mod reading;
mod stage;
mod waiting;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shuttle::scheduler::{
    PctScheduler, RandomScheduler, Scheduler, UncontrolledNondeterminismCheckScheduler,
};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

/// Schedules that one seed decides. The priorities of the second kind need to know from the first
/// of them how long a schedule is.
const SCHEDULES_A_SEED: usize = 20;

/// Schedules that are run twice, to see that nothing else than them decides what happens.
const REPEATED: usize = 5;

/// Seeds for each scenario unless told otherwise.
const SEEDS: u64 = 80;

/// Far more than any scenario takes: who goes on for so long never ends.
const STEPS_MAX: usize = 200_000;

/// The stack of a thread, in bytes; debug builds need some.
const STACK_BYTES: usize = 512 << 10;

/// Runs `scenario` under the schedules of all seeds. Where one fails it says which, and how to run
/// it again.
fn explore(scenario: fn()) {
    stage::prepare();
    let first = number("MAINSTAY_SCHEDULES_SEED", 1);
    let ran = Arc::new(AtomicU64::new(0));
    for seed in first..first + number("MAINSTAY_SCHEDULES_COUNT", SEEDS) {
        let counted = ran.clone();
        let counted = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            scenario();
        };
        let run = || run_seed(seed, SCHEDULES_A_SEED, counted);
        if let Err(why) = catch_unwind(AssertUnwindSafe(run)) {
            let ran = ran.load(Ordering::Relaxed);
            eprintln!("schedule {ran} failed, of seed {seed}");
            eprintln!("    ./tests/schedules --seed {seed}");
            resume_unwind(why);
        }
    }
    println!("{} schedules passed", ran.load(Ordering::Relaxed));
    let repeated = RandomScheduler::new_from_seed(first, REPEATED);
    let twice = UncontrolledNondeterminismCheckScheduler::new(repeated);
    run(twice, scenario);
}

/// Every third seed chooses anew at each step; the others give threads priorities that change at a
/// few places, which finds what needs a certain order of few events among many.
fn run_seed(seed: u64, schedules: usize, scenario: impl Fn() + Send + Sync + 'static) {
    match seed % 3 {
        0 => run(RandomScheduler::new_from_seed(seed, schedules), scenario),
        _ => {
            let depth = usize::try_from(2 + seed / 3 % 3).expect("below five");
            run(
                PctScheduler::new_from_seed(seed, depth, schedules),
                scenario,
            );
        }
    }
}

fn run(scheduler: impl Scheduler + 'static, scenario: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    // A seed is shorter than a schedule.
    config.failure_persistence = FailurePersistence::None;
    config
        .ungraceful_shutdown_config
        .immediately_return_on_panic = true;
    Runner::new(scheduler, config).run(scenario);
}

fn number(variable: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(variable) else {
        return default;
    };
    let number = text.parse();
    number.unwrap_or_else(|_| panic!("{variable} must be a number, not {text}"))
}
