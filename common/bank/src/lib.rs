//! Terms of the bank, without I/O: amounts, account numbers, the records of the topics and the topics themselves.

pub mod iban;
pub mod money;
pub mod records;
pub mod topology;
