-- Version 5: when the bank decided the transfer, in milliseconds. Null if the record lacks this
-- field.

ALTER TABLE transaction ADD COLUMN decided_at timestamptz(3);
