-- Version 1: the accounts and the outcome of every command. Amounts are euro cents.
-- Collation "C" compares bytes, which is enough for ASCII account numbers and costs least.

CREATE TABLE account (
    iban            text COLLATE "C" PRIMARY KEY CHECK (length(iban) = 18),
    token           text COLLATE "C" NOT NULL CHECK (length(token) = 20),
    balance         bigint NOT NULL,
    overdraft_limit bigint NOT NULL,
    -- Number of balance changes so far, and the sequence of the last balance_changed record.
    sequence        bigint NOT NULL DEFAULT 0 CHECK (sequence >= 0),
    CHECK (balance >= overdraft_limit)
    -- Half of each page stays free. An update writes the new row version to the same page (HOT),
    -- so it needs no new index entry.
) WITH (fillfactor = 50);

CREATE TABLE account_creation (
    id     uuid PRIMARY KEY,
    a_type text NOT NULL CHECK (a_type IN ('AUTO', 'MANUAL')),
    -- The opened account, or the reason of the rejection.
    iban   text COLLATE "C" UNIQUE REFERENCES account,
    reason text,
    CHECK ((iban IS NULL) <> (reason IS NULL))
);

-- A row holds the complete outcome: a replayed command gets the same records, equal in every field.
-- A party outside this bank has no balance and no sequence. A rejected transfer has only a reason.
CREATE TABLE transfer (
    id            uuid PRIMARY KEY,
    reason        text,
    amount        bigint CHECK (amount > 0),
    from_party    text COLLATE "C",
    to_party      text COLLATE "C" CHECK (to_party <> from_party),
    description   text COLLATE "C",
    from_balance  bigint,
    from_sequence bigint CHECK (from_sequence > 0),
    to_balance    bigint,
    to_sequence   bigint CHECK (to_sequence > 0),
    CHECK (
        num_nonnulls(amount, from_party, to_party, description)
        = CASE WHEN reason IS NULL THEN 4 ELSE 0 END
    ),
    CHECK ((reason IS NULL) = (num_nonnulls(from_sequence, to_sequence) > 0)),
    CHECK ((from_balance IS NULL) = (from_sequence IS NULL)),
    CHECK ((to_balance IS NULL) = (to_sequence IS NULL))
);

-- The company's account pays the salaries. Its balance is larger than any run can spend.
INSERT INTO account (iban, token, balance, overdraft_limit)
VALUES ('NL66OPEN0000000000', '00000000000000000000', 100000000000000000, -50000);
