//! All SQL of the service.
//!
//! A [`Writer`] is one connection that owns partitions of a topic and stores their records. A
//! [`Store`] is a small pool of connections for the requests of clients. A [`NotificationListener`]
//! receives the transactions that other endpoints store.

mod connection;
mod copy;
mod notifications;
mod pool;
mod queries;
mod writer;

#[cfg(test)]
mod paging_tests;
#[cfg(test)]
pub(crate) mod tests;

pub use connection::{SCHEMA, delete_old_rows, migrate};
pub use notifications::{Notification, NotificationListener, WriterId};
pub use queries::{Database, KnownAccount, Page, Store, StoredTransfer, User};
pub use writer::{PositionedRecord, Projection, Writer};
