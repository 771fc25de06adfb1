-- Creates the databases of the bank and their roles. The passwords are read from the environment:
--
--   BANK_OWNER_PASSWORD=... COMMAND_HANDLER_PASSWORD=... GRAPHQL_ENDPOINT_PASSWORD=... \
--     psql -f deploy/postgres/roles.sql 'host=... user=postgres dbname=postgres'
--
-- A second run changes the passwords. It needs psql 15 or later, and a role that may create
-- databases and roles. compose.yml runs it when PostgreSQL starts for the first time.
--
--   bank_owner        owns the databases: only migrations use it
--   command_handler   runs the command-handler on balancedb
--   graphql_endpoint  runs the graphql-endpoint on transactiondb
--   registry          owns the database of the schema registry, if REGISTRY_PASSWORD is set
--
-- `command-handler --migrate` and `graphql-endpoint --migrate` create the tables. They grant the
-- service's role, which DATABASE_SERVICE_ROLE names, what its statements need.
\set ON_ERROR_STOP on
\getenv bank_owner_password BANK_OWNER_PASSWORD
\getenv command_handler_password COMMAND_HANDLER_PASSWORD
\getenv graphql_endpoint_password GRAPHQL_ENDPOINT_PASSWORD
\getenv registry_password REGISTRY_PASSWORD

SELECT NOT (:{?bank_owner_password} AND :{?command_handler_password}
            AND :{?graphql_endpoint_password}) AS missing \gset
\if :missing
    DO $$ BEGIN
        RAISE 'BANK_OWNER_PASSWORD, COMMAND_HANDLER_PASSWORD or GRAPHQL_ENDPOINT_PASSWORD is not set';
    END $$;
\endif

SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY['bank_owner', 'command_handler', 'graphql_endpoint']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

ALTER ROLE bank_owner PASSWORD :'bank_owner_password';
ALTER ROLE command_handler PASSWORD :'command_handler_password';
ALTER ROLE graphql_endpoint PASSWORD :'graphql_endpoint_password';

-- Who is not a superuser can create a database only for a role that it is a member of.
SELECT 'GRANT bank_owner TO CURRENT_USER'
WHERE NOT (SELECT rolsuper FROM pg_roles WHERE rolname = CURRENT_USER) \gexec

SELECT format('CREATE DATABASE %I OWNER bank_owner', name)
FROM unnest(ARRAY['balancedb', 'transactiondb']) AS name
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) \gexec

-- Each role connects to its own database only.
REVOKE ALL ON DATABASE balancedb, transactiondb FROM PUBLIC;
GRANT CONNECT ON DATABASE balancedb TO command_handler;
GRANT CONNECT ON DATABASE transactiondb TO graphql_endpoint;

\if :{?registry_password}
    SELECT 'CREATE ROLE registry LOGIN'
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'registry') \gexec
    ALTER ROLE registry PASSWORD :'registry_password';
    SELECT 'GRANT registry TO CURRENT_USER'
    WHERE NOT (SELECT rolsuper FROM pg_roles WHERE rolname = CURRENT_USER) \gexec
    SELECT 'CREATE DATABASE registry OWNER registry'
    WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'registry') \gexec
    REVOKE ALL ON DATABASE registry FROM PUBLIC;
\endif

-- PostgreSQL 14 lets every role create tables in the schema public.
\connect balancedb
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT CREATE ON SCHEMA public TO bank_owner;
\connect transactiondb
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT CREATE ON SCHEMA public TO bank_owner;
