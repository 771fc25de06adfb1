-- Version 1: every change of a balance, as told on balance_changed. Amounts are euro cents.
-- Collation "C": account numbers are ASCII, and byte order is the cheapest order there is.

CREATE TABLE transaction (
    -- Grows for ever; the talk's 32-bit id is its lower 31 bits.
    number           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    iban             text COLLATE "C" NOT NULL,
    -- 1, 2, 3 ... per iban; 0 in records of programs older than this field.
    sequence         bigint NOT NULL,
    new_balance      bigint NOT NULL,
    changed_by       bigint NOT NULL,
    from_to          text COLLATE "C" NOT NULL,
    description      text COLLATE "C" NOT NULL,
    transfer_id      uuid,
    -- Where a record without transfer_id stands: that alone tells it from others.
    record_partition integer,
    record_offset    bigint,
    CHECK (num_nonnulls(record_partition, record_offset) = CASE WHEN transfer_id IS NULL THEN 2 ELSE 0 END)
);

-- A record that is read again is no new transaction.
CREATE UNIQUE INDEX transaction_of_transfer ON transaction (transfer_id, iban) WHERE transfer_id IS NOT NULL;
CREATE UNIQUE INDEX transaction_of_record ON transaction (record_partition, record_offset) WHERE transfer_id IS NULL;
-- Newest first, and the newest of each iban.
CREATE INDEX transaction_of_iban ON transaction (iban, sequence DESC, number DESC);
