-- Version 5: ibans are unique by a table of their own, and the index of account is not unique.
--
-- An update that moves a row to another page inserts it into each index. A unique index then visits
-- all versions of the row. While an old snapshot keeps them, each update of a busy account would be
-- slower than the one before.

CREATE TABLE account_iban (
    iban text COLLATE "C" PRIMARY KEY CHECK (length(iban) = 18)
);

INSERT INTO account_iban SELECT iban FROM account;

ALTER TABLE account_creation
    DROP CONSTRAINT account_creation_iban_fkey,
    ADD CONSTRAINT account_creation_iban_fkey FOREIGN KEY (iban) REFERENCES account_iban;

-- The column stays NOT NULL.
ALTER TABLE account DROP CONSTRAINT account_pkey;

CREATE INDEX account_by_iban ON account (iban);
