//! The runtime that all services share: configuration, logs, health checks, HTTP, signals, exit
//! codes, PostgreSQL.

mod exit;
mod run;

pub mod cgroup;
#[cfg(feature = "database")]
pub mod database;
pub mod env;
pub mod health;
pub mod http;
pub mod log;
#[cfg(feature = "database")]
pub mod ownership;
pub mod panic_guard;
pub mod shutdown;
pub mod url;
pub mod watchdog;

pub use exit::{BoxError, EXIT_TEMPORARY, EXIT_USAGE, exit};
pub use run::{Service, Start, answer, healthcheck, main, run, wrap};

// The malloc of musl has one lock for all threads: docs/decisions/0009-allocator.md.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: allocator::PerThread = allocator::PerThread;
