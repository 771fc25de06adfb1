-- Version 3: tokens that follow from the id of their command.

-- One row: the secret of all tokens. Who can read it can read the tokens as well.
CREATE TABLE token_key (
    key     bytea NOT NULL CHECK (length(key) = 32),
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only)
);

-- SHA-256 of two random UUIDs, with 122 random bits each.
INSERT INTO token_key (key)
VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

-- The token of the account that the command with this id opens: 20 digits. Key and id have fixed
-- lengths, so that SHA-256 needs no HMAC. 60 bits for ten digits leave no bias that matters.
CREATE FUNCTION token_of(id uuid) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT lpad((('x' || substr(hash, 1, 15))::bit(60)::bigint % 10000000000)::text, 10, '0')
        || lpad((('x' || substr(hash, 16, 15))::bit(60)::bigint % 10000000000)::text, 10, '0')
    FROM (SELECT encode(sha256(key || uuid_send(id)), 'hex') AS hash FROM token_key) AS hashed
$$;
