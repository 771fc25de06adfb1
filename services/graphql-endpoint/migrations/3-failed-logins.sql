-- Version 3: failed logins are counted for each user name and client address, so that a client
-- cannot delay the logins of another one. The endpoint deletes a row an hour after the last failure.

CREATE TABLE failed_login (
    username  text COLLATE "C" NOT NULL,
    -- For IPv6 the network with a prefix of 64 bits.
    address   inet NOT NULL,
    -- Logins since the last correct password, and the time of the last one.
    tries     integer NOT NULL,
    failed_at timestamptz NOT NULL,
    PRIMARY KEY (username, address)
);

CREATE INDEX failed_login_by_time ON failed_login (failed_at);

ALTER TABLE account DROP COLUMN failed_tries, DROP COLUMN failed_at;
