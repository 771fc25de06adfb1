//! Limits of records, and of the memory that services use for them, in bytes. The tests below
//! compute that they fit each other and the memory of the containers. docs/limits.md lists them
//! with the other limits of the bank.

/// `max.message.bytes` of all topics but `dead_letter`: the largest batch that a program may write.
pub const BATCH_BYTES_MAX: usize = 256 << 10;
/// `max.message.bytes` of `dead_letter`: the largest record of another topic, the reason, and the
/// headers that describe its origin.
pub const DEAD_LETTER_BATCH_BYTES_MAX: usize = BATCH_BYTES_MAX + (64 << 10);
/// Largest batch header and record header. They count as parts of a batch.
pub const BATCH_OVERHEAD_BYTES: usize = 128;

/// Largest value of a command. A larger one is a dead letter. It has room for a description of
/// 64,000 characters.
pub const COMMAND_BYTES_MAX: usize = 64 << 10;
/// Largest value of `balance_changed`. It has the texts of a command, and numbers and ids.
pub const BALANCE_CHANGED_BYTES_MAX: usize = COMMAND_BYTES_MAX + BATCH_OVERHEAD_BYTES;
/// Largest value of the other outcomes, which have an id, an IBAN, a token or a reason.
pub const OUTCOME_BYTES_MAX: usize = 1 << 10;

/// `partition_max_bytes` of a fetch. A larger batch is still returned. For measurements, see
/// docs/decisions/0008-batch-sizes.md.
pub const FETCH_BYTES: usize = 32 << 10;
/// Limit of a response from a broker. It has room for a fetch from all partitions of a topic.
pub const RESPONSE_BYTES_MAX: usize = 1 << 20;
/// Memory for the records of a fetch: those of a usual fetch from all partitions. The first record
/// may take more.
pub const FETCH_MEMORY: usize = 448 << 10;
/// Memory of the fetched records of a consumer that its caller has not yet handled. Above it, the
/// consumer does not fetch.
pub const FETCHED_AHEAD_MEMORY: usize = 256 << 10;

/// Largest request of a producer, with batches of several partitions. One record may be larger.
pub const PRODUCED_REQUEST_BYTES_MAX: usize = 512 << 10;
/// Queued and in-flight records of a batching producer. One record may be larger.
pub const PRODUCER_QUEUE_BYTES: usize = 1 << 20;

/// Values of the commands and dead letters that the command-handler decides in one transaction. The
/// last one may exceed it.
pub const COMMANDS_BYTES_MAX: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{CONFIRM_MONEY_TRANSFER, DEAD_LETTER, TOPICS, record_bytes_max};

    /// `--memory` of the container of a service that reads topics, except for the endpoint.
    const CONTAINER: usize = 16 << 20;
    /// Memory of an idle service, and of free blocks that the allocator keeps. docs/footprint.md
    /// has measurements.
    const PROGRAM: usize = 4 << 20;
    /// Most topics that a service of this memory reads.
    const CONSUMERS: usize = 2;
    /// Memory of a fetched record apart from key and value, and of the dead letter of a small one.
    const FETCHED_RECORD: usize = 88;
    const DEAD_LETTER_RECORD: usize = 200;
    /// Records of a batch of the handler, and of a request of a producer.
    const TRANSACTION_RECORDS: usize = 1000;
    const REQUEST_RECORDS: usize = 2000;

    #[derive(Clone, Copy, PartialEq)]
    enum Client {
        BuiltIn,
        KafkaCrate,
    }

    /// Memory of one consumer for records of `bytes`, which fill all partitions.
    fn consumer(client: Client, bytes: usize) -> usize {
        let usual = FETCH_BYTES * CONFIRM_MONEY_TRANSFER.partitions as usize;
        // A record takes at least 8 bytes in a batch, apart from key and value.
        let count = |fetched: usize| (fetched / (8 + bytes)).max(1);
        let (response, records) = match client {
            // A broker adds one large batch to a fetch of usual size.
            Client::BuiltIn => (usual + BATCH_BYTES_MAX, count(usual + BATCH_BYTES_MAX)),
            // The adapter fetches a large batch alone. Protocol version 0 has 26 bytes for each
            // message, and the crate has a list of them: 40 bytes each, and half of that again
            // while the list grows.
            Client::KafkaCrate => {
                let records = count(usual.max(BATCH_BYTES_MAX));
                (records * (26 + bytes + 60), records)
            }
        };
        let decoded = records * (FETCHED_RECORD + bytes);
        let one_fetch = decoded.min(FETCH_MEMORY + FETCHED_RECORD + bytes);
        FETCHED_AHEAD_MEMORY + response + one_fetch
    }

    /// Memory of the batches that the handler has read from a topic, and of their outcomes, if the
    /// records have values of `bytes`.
    fn batches(bytes: usize) -> usize {
        let is_command = bytes <= COMMAND_BYTES_MAX;
        let batch = (TRANSACTION_RECORDS * (bytes + DEAD_LETTER_RECORD))
            .min(COMMANDS_BYTES_MAX + bytes + TRANSACTION_RECORDS * DEAD_LETTER_RECORD);
        // One batch is decided, one is queued, one is produced.
        let queued = 3 * batch;
        let statement = if is_command { 2 * batch } else { 0 };
        // A command becomes two changes of balances with its texts. The batch that is produced has
        // one copy of them already.
        let outcomes = if is_command { batch } else { 0 };
        let request = (REQUEST_RECORDS * (bytes + DEAD_LETTER_RECORD))
            .min(PRODUCED_REQUEST_BYTES_MAX.max(bytes));
        // Records, batches and the request itself.
        queued + statement + outcomes + 3 * request
    }

    #[test]
    fn largest_and_smallest_records_fit_into_a_container() {
        for client in [Client::BuiltIn, Client::KafkaCrate] {
            // All sizes of records, a quarter apart, up to the largest one.
            let sizes = (0..BATCH_BYTES_MAX).scan(0, |bytes, _| {
                let size = *bytes;
                *bytes += 1 + *bytes / 4;
                (size < BATCH_BYTES_MAX).then_some(size)
            });
            let sizes = sizes.chain([COMMAND_BYTES_MAX, BATCH_BYTES_MAX]);
            let memory = |bytes: usize| consumer(client, bytes) + batches(bytes);
            let (most, bytes) = sizes.map(|bytes| (memory(bytes), bytes)).max().unwrap();
            let total = PROGRAM + CONSUMERS * most;
            assert!(total <= CONTAINER, "{total} bytes with records of {bytes} bytes");
        }
    }

    #[test]
    fn fetch_from_all_partitions_fits_a_response() {
        for topic in TOPICS {
            let response = FETCH_BYTES * topic.partitions as usize + topic.batch_bytes_max;
            assert!(response < RESPONSE_BYTES_MAX, "{}", topic.name);
        }
    }

    #[test]
    fn record_of_any_topic_fits_a_dead_letter() {
        let largest = TOPICS.iter().filter(|topic| **topic != DEAD_LETTER);
        let largest = largest.map(|topic| record_bytes_max(topic.name)).max().unwrap();
        let left = record_bytes_max(DEAD_LETTER.name) - largest;
        // A reason from the registry has up to 2,000 characters.
        assert!(left >= 32 << 10, "{left}");
    }

    #[test]
    fn outcome_of_the_largest_command_fits_its_topic() {
        // The fields of a change that are not texts of the command: IBAN, three numbers, id.
        const CHANGE_FIELDS: usize = (1 + 18) + 3 * 10 + (1 + 16);
        const { assert!(BALANCE_CHANGED_BYTES_MAX >= COMMAND_BYTES_MAX + CHANGE_FIELDS) };
        for bytes in [COMMAND_BYTES_MAX, BALANCE_CHANGED_BYTES_MAX, OUTCOME_BYTES_MAX] {
            assert!(bytes < BATCH_BYTES_MAX - BATCH_OVERHEAD_BYTES);
        }
    }

    #[test]
    fn topic_has_the_limit_of_the_table() {
        for topic in TOPICS {
            assert_eq!(record_bytes_max(topic.name), topic.batch_bytes_max - BATCH_OVERHEAD_BYTES);
        }
    }
}
