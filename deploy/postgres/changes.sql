-- Writes the accounts and the changes of balances in balancedb, for missing-transactions.sql.
-- docs/operations.md has the command. `-v since=2026-01-31` leaves out the transfers before.
\set ON_ERROR_STOP on
\if :{?since}
\else
    \set since -infinity
\endif

COPY (
    SELECT iban, NULL::bigint, NULL::bigint, NULL::bigint, NULL, NULL, NULL::uuid, NULL::timestamptz
    FROM account_creation WHERE iban IS NOT NULL
    UNION ALL
    SELECT from_party, from_sequence, from_balance, -amount, to_party, description, id, decided_at
    FROM transfer
    WHERE from_sequence IS NOT NULL AND coalesce(decided_at, '-infinity') >= :'since'
    UNION ALL
    SELECT to_party, to_sequence, to_balance, amount, from_party, description, id, decided_at
    FROM transfer
    WHERE to_sequence IS NOT NULL AND coalesce(decided_at, '-infinity') >= :'since'
) TO STDOUT;
