-- Beside balancedb, which POSTGRES_DB makes.
CREATE DATABASE transactiondb;
CREATE DATABASE registry;
