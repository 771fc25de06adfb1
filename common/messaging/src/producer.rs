//! Producers. [`Sender`] writes records and waits for acks=all. [`Producer`] collects batches from
//! many threads.

mod batching;
mod config;
mod metrics;
mod outgoing;
mod sender;
#[cfg(test)]
mod tests;

pub use batching::{Delivery, Producer};
pub use config::{BATCH_BYTES, LINGER_MS, Mode, PRODUCER_MODE, ProducerConfig};
pub use outgoing::Outgoing;
pub use sender::Sender;
