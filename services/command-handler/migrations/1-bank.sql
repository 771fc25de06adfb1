-- Version 1: the accounts and the outcome of every command. Amounts are euro cents.
-- Collation "C": account numbers are ASCII, and byte order is the cheapest order there is.

CREATE TABLE account (
    iban            text COLLATE "C" PRIMARY KEY CHECK (length(iban) = 18),
    token           text COLLATE "C" NOT NULL CHECK (length(token) = 20),
    balance         bigint NOT NULL,
    overdraft_limit bigint NOT NULL,
    -- Number of balance changes so far: the sequence of the last balance_changed record.
    sequence        bigint NOT NULL DEFAULT 0 CHECK (sequence >= 0),
    CHECK (balance >= overdraft_limit)
    -- Half of each page stays free, so that an update finds room beside the old version and touches no index.
) WITH (fillfactor = 50);

CREATE TABLE account_creation (
    id     uuid PRIMARY KEY,
    a_type text NOT NULL CHECK (a_type IN ('AUTO', 'MANUAL')),
    -- The account that was opened, or why none was.
    iban   text COLLATE "C" UNIQUE REFERENCES account,
    reason text,
    CHECK ((iban IS NULL) <> (reason IS NULL))
);

-- A row holds all that is needed to answer its command again, equal in every field. A side that is not of this bank has
-- no balance and no sequence; a refused transfer has a reason and nothing else.
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
    CHECK (num_nonnulls(amount, from_party, to_party, description) = CASE WHEN reason IS NULL THEN 4 ELSE 0 END),
    CHECK ((reason IS NULL) = (num_nonnulls(from_sequence, to_sequence) > 0)),
    CHECK ((from_balance IS NULL) = (from_sequence IS NULL)),
    CHECK ((to_balance IS NULL) = (to_sequence IS NULL))
);

-- The company: pays salaries, never runs dry.
INSERT INTO account (iban, token, balance, overdraft_limit)
VALUES ('NL66OPEN0000000000', '00000000000000000000', 100000000000000000, -50000);
