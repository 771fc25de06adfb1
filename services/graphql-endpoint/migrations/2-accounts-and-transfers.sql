-- Version 2: users, and the transfers that clients have requested.

CREATE TABLE account (
    username     text COLLATE "C" PRIMARY KEY CHECK (length(username) BETWEEN 8 AND 128),
    salt         bytea NOT NULL,
    -- PBKDF2 rounds of the hash: a later version may use more for new users.
    rounds       integer NOT NULL CHECK (rounds >= 600000),
    hash         bytea NOT NULL CHECK (length(hash) = 32),
    -- Id of the command that opens the account. For the same id the bank returns the same account.
    creation     uuid NOT NULL UNIQUE,
    iban         text COLLATE "C" UNIQUE,
    token        text COLLATE "C",
    -- SHA-256 of the token, so that comparison times reveal nothing about it.
    token_digest bytea UNIQUE CHECK (length(token_digest) = 32),
    -- Logins since the last correct password, and the time of the last one.
    failed_tries integer NOT NULL DEFAULT 0,
    failed_at    timestamptz,
    CHECK (num_nonnulls(iban, token, token_digest) IN (0, 3))
);

CREATE TABLE transfer (
    uuid       uuid PRIMARY KEY,
    -- SHA-256 of all other arguments: the same uuid with other content is refused.
    content    bytea NOT NULL CHECK (length(content) = 32),
    from_party text NOT NULL,
    -- Value of the command record, which contains the token. Kept for retries until the outcome.
    command    bytea,
    success    boolean,
    reason     text,
    CHECK ((success IS NULL) = (command IS NOT NULL)),
    CHECK ((success IS NOT DISTINCT FROM false) = (reason IS NOT NULL))
);
