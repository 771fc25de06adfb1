-- Version 2: who has logged in, and which transfers were asked for here.

CREATE TABLE account (
    username     text COLLATE "C" PRIMARY KEY CHECK (length(username) BETWEEN 8 AND 128),
    salt         bytea NOT NULL,
    -- Of the hash: may grow for new users while old ones keep theirs.
    rounds       integer NOT NULL CHECK (rounds >= 600000),
    hash         bytea NOT NULL CHECK (length(hash) = 32),
    -- Id of the command that opens the account: the bank answers it by the same account, however often it is asked.
    creation     uuid NOT NULL UNIQUE,
    iban         text COLLATE "C" UNIQUE,
    token        text COLLATE "C",
    -- Finds a token without comparing it.
    token_digest bytea UNIQUE CHECK (length(token_digest) = 32),
    -- Tries since the last right password, and when the last one began.
    failed_tries integer NOT NULL DEFAULT 0,
    failed_at    timestamptz,
    CHECK (num_nonnulls(iban, token, token_digest) IN (0, 3))
);

CREATE TABLE transfer (
    uuid       uuid PRIMARY KEY,
    -- SHA-256 of all that was asked: the same uuid with other content is refused.
    content    bytea NOT NULL CHECK (length(content) = 32),
    from_party text NOT NULL,
    -- The record as it was sent, which has the token: kept until the bank has answered, to be sent again.
    command    bytea,
    success    boolean,
    reason     text,
    CHECK ((success IS NULL) = (command IS NOT NULL)),
    CHECK ((success IS NOT DISTINCT FROM false) = (reason IS NOT NULL))
);
