-- Version 7: clients can replace the token of their account. The bank knows its own token only.

-- The bank's token of an account whose `token` was replaced, else null.
ALTER TABLE account ADD COLUMN bank_token text COLLATE "C";
ALTER TABLE account ADD CHECK (bank_token IS NULL OR token IS NOT NULL);
