-- In addition to balancedb, which POSTGRES_DB creates.
CREATE DATABASE transactiondb;
CREATE DATABASE registry;
