//! What every service of scratchbank shares. No service needs a connection to know a topic or a type.

// The bank's words, without I/O.
pub mod iban;
pub mod money;
pub mod records;
pub mod topology;

// What records look like on the wire.
pub mod avro;
// There is no Kafka without a client of it: the frontend has none.
#[cfg(any(feature = "client-kafka", feature = "client-modern"))]
pub mod kafka;
pub mod registry;

// What a process needs to live among others.
#[cfg(feature = "database")]
pub mod database;
pub mod env;
pub mod health;
pub mod http;
pub mod log;
pub mod service;
pub mod shutdown;
pub mod watchdog;

// With musl's own, two busy threads do less than one: docs/decisions/0009-allocator.md.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: allocator::PerThread = allocator::PerThread;
