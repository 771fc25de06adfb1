-- Version 6: the records of account_creation_confirmed, so that accounts without transactions are
-- known.

CREATE TABLE opened_account (
    iban text COLLATE "C" PRIMARY KEY
);
