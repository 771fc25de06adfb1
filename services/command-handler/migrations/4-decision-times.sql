-- Version 4: when a transfer was decided, by the clock of this database, in milliseconds. Null for
-- transfers that were decided before this version.

ALTER TABLE transfer ADD COLUMN decided_at timestamptz(3);
