-- Version 1: the records of balance_changed. Amounts are euro cents. Collation "C" orders by bytes,
-- which is the cheapest order and correct for account numbers in ASCII.

CREATE TABLE transaction (
    -- The talk's 32-bit id is its lower 31 bits.
    number           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    iban             text COLLATE "C" NOT NULL,
    -- 1, 2, 3 ... per iban; 0 if the record lacks this field.
    sequence         bigint NOT NULL,
    new_balance      bigint NOT NULL,
    changed_by       bigint NOT NULL,
    from_to          text COLLATE "C" NOT NULL,
    description      text COLLATE "C" NOT NULL,
    transfer_id      uuid,
    -- Position of a record without transfer_id: its only identity.
    record_partition integer,
    record_offset    bigint,
    CHECK (num_nonnulls(record_partition, record_offset) = CASE WHEN transfer_id IS NULL THEN 2 ELSE 0 END)
);

-- A record that is read again is a duplicate.
CREATE UNIQUE INDEX transaction_of_transfer ON transaction (transfer_id, iban) WHERE transfer_id IS NOT NULL;
CREATE UNIQUE INDEX transaction_of_record ON transaction (record_partition, record_offset) WHERE transfer_id IS NULL;
-- For the newest transactions of an iban, and the newest one of each iban.
CREATE INDEX transaction_of_iban ON transaction (iban, sequence DESC, number DESC);
