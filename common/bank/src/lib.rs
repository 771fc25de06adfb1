//! The domain types of the bank, without I/O: amounts, account numbers, records and topics.

pub mod iban;
pub mod ids;
pub mod limits;
pub mod money;
pub mod reasons;
pub mod records;
pub mod timestamp;
pub mod topology;
