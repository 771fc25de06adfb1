-- Adds the accounts and transactions that transactiondb lacks. Reads the output of changes.sql from
-- the standard input of psql. docs/operations.md has the command.
\set ON_ERROR_STOP on
BEGIN;

CREATE TEMPORARY TABLE change (
    iban        text,
    sequence    bigint,
    new_balance bigint,
    changed_by  bigint,
    from_to     text,
    description text,
    transfer_id uuid,
    decided_at  timestamptz
) ON COMMIT DROP;

\copy change FROM pstdin

INSERT INTO opened_account
SELECT iban FROM change WHERE sequence IS NULL
ON CONFLICT DO NOTHING;

-- The numbers of new transactions ascend with their time.
INSERT INTO transaction (iban, sequence, new_balance, changed_by, from_to, description, transfer_id,
                         decided_at)
SELECT * FROM change WHERE sequence IS NOT NULL
ORDER BY decided_at NULLS FIRST, sequence
ON CONFLICT DO NOTHING;

COMMIT;
