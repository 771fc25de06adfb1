//! All SQL of the service: migrations, ownership of partitions, and the transactions that decide commands.
//!
//! A [`Session`] is one connection. It holds an advisory lock for each partition it owns and runs the transactions of their
//! commands: losing one is losing the other, so a handler that was taken for dead can't write.

use crate::domain::{self, Account, Accounts, Change, Changes};
use crate::error::Error;
use crate::failpoint::{self, Point};
use bank::iban;
use bank::money::Cents;
use bank::records::{Atype, ConfirmAccountCreation, ConfirmMoneyTransfer};
use bank::topology::Topic;
use postgres::{Client, Row, Statement, Transaction};
use rand::rngs::SmallRng;
use service::database::{self, Ownership};
use service::shutdown::Shutdown;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

/// The migrations, in order; version n is the n-th.
const MIGRATIONS: [&str; 1] = [include_str!("../migrations/1-bank.sql")];

/// Its name in PostgreSQL, and of the lock on the migrations.
const SERVICE: &str = "command-handler";

/// Settings of each connection.
/// - A stopped process (SIGSTOP, a frozen virtual machine) keeps its connection open: the idle time-outs end its session, and
///   with it its locks, so that another handler takes over. A living one says something every second.
/// - Every statement finds its rows by key. Right after the first start the statistics still say "empty", and a plan made
///   then would scan tables that grow by 20,000 rows a second.
const SETTINGS: &str = "-c idle_session_timeout=10s -c idle_in_transaction_session_timeout=10s -c statement_timeout=20s \
     -c lock_timeout=10s -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off \
     -c plan_cache_mode=force_generic_plan -c client_min_messages=warning";

/// Outcome of a command to open an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    /// Id of the command.
    pub id: Uuid,
    /// Who asked.
    pub a_type: Atype,
    /// Iban and token, or why there are none.
    pub result: Result<Opened, Cow<'static, str>>,
}

/// A new account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Its number.
    pub iban: String,
    /// Its secret.
    pub token: String,
}

/// Outcome of a command to move money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Id of the command.
    pub id: Uuid,
    /// What moved, or why nothing did.
    pub result: Result<Moved, Cow<'static, str>>,
}

/// A transfer that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// What moved.
    pub amount: Cents,
    /// Who paid.
    pub from: String,
    /// Who was paid.
    pub to: String,
    /// Text of the command.
    pub description: String,
    /// The accounts after it.
    pub changes: Changes,
}

/// Brings the database to this version. Safe when several handlers start at once: one migrates, the others wait.
///
/// # Errors
/// The database can't be reached, or is of a newer version.
pub fn migrate(config: &postgres::Config, shutdown: &Shutdown) -> Result<(), Error> {
    let _watch = database::watch(shutdown, "migrate the database");
    Ok(database::migrate(&mut connect(config)?, SERVICE, &MIGRATIONS)?)
}

/// Says what failed.
fn step(step: &'static str) -> impl FnOnce(postgres::Error) -> Error {
    move |source| database::step(step)(source).into()
}

fn connect(config: &postgres::Config) -> Result<Client, Error> {
    Ok(database::connect(config, SERVICE, SETTINGS)?)
}

/// A connection that owns partitions of one topic.
pub struct Session {
    /// The connection and what it owns.
    pub ownership: Ownership,
    statements: Statements,
}

impl Session {
    /// Connects and joins the members of `topic`; owns nothing yet.
    ///
    /// # Errors
    /// The database can't be reached.
    pub fn open(
        config: &postgres::Config,
        topic: Topic,
        shutdown: &Shutdown,
    ) -> Result<Self, Error> {
        let _watch = database::watch(shutdown, "connect");
        let mut client = connect(config)?;
        let statements = Statements::prepare(&mut client)?;
        Ok(Self {
            ownership: Ownership::join(client, topic.name, topic.partitions, shutdown)?,
            statements,
        })
    }

    /// Opens accounts: one transaction, one outcome for each command, in order. Known ids get their first outcome again.
    ///
    /// # Errors
    /// Nothing was written.
    pub fn open_accounts(
        &mut self,
        commands: &[ConfirmAccountCreation],
    ) -> Result<Vec<Creation>, Error> {
        let ids: Vec<Uuid> = commands.iter().map(|command| command.id).collect();
        let _watch = self.ownership.watch("decide a batch");
        let (mut transaction, statements) = self.begin()?;
        let mut outcomes: HashMap<Uuid, Creation> = transaction
            .query(&statements.creations, &[&ids])
            .map_err(step("find the accounts asked for before"))?
            .iter()
            .map(creation)
            .map(|creation| creation.map(|creation| (creation.id, creation)))
            .collect::<Result<_, _>>()?;

        let new = first_of_each(commands, |command| command.id, &outcomes);
        if !new.is_empty() {
            let mut rng = rand::make_rng::<SmallRng>();
            let mut offers: BTreeMap<String, String> = BTreeMap::new();
            let mut ibans = Vec::with_capacity(new.len());
            for _ in &new {
                let iban = iban::generate(&mut rng);
                offers.insert(iban.clone(), iban::generate_token().map_err(Error::Random)?);
                ibans.push(iban);
            }
            let (offered, tokens): (Vec<&str>, Vec<&str>) =
                offers.iter().map(|(iban, token)| (iban.as_str(), token.as_str())).unzip();
            let mut opened: BTreeSet<String> = transaction
                .query(
                    &statements.open_accounts,
                    &[&offered, &tokens, &domain::OVERDRAFT_LIMIT.get()],
                )
                .map_err(step("open accounts"))?
                .iter()
                .map(|row| row.get(0))
                .collect();
            for (command, iban) in new.iter().zip(ibans) {
                // Taken out, so that two equal ibans of one batch open one account.
                let result = match opened.take(&iban) {
                    Some(iban) => Ok(Opened { token: offers[&iban].clone(), iban }),
                    None => Err(Cow::Borrowed(domain::IBAN_EXISTS)),
                };
                outcomes.insert(
                    command.id,
                    Creation { id: command.id, a_type: command.a_type, result },
                );
            }
            let rows: Vec<&Creation> = new.iter().map(|command| &outcomes[&command.id]).collect();
            let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
            let a_types: Vec<&str> = rows.iter().map(|row| a_type_text(row.a_type)).collect();
            let ibans: Vec<Option<&str>> = rows
                .iter()
                .map(|row| row.result.as_ref().ok().map(|opened| opened.iban.as_str()))
                .collect();
            let reasons: Vec<Option<&str>> =
                rows.iter().map(|row| row.result.as_ref().err().map(Cow::as_ref)).collect();
            let stored = transaction
                .execute(&statements.store_creations, &[&ids, &a_types, &ibans, &reasons])
                .map_err(step("store the outcomes of accounts"))?;
            all_stored(stored, new.len())?;
        }
        failpoint::reach(Point::Commit);
        transaction.commit().map_err(step("commit accounts"))?;
        Ok(commands.iter().map(|command| outcomes[&command.id].clone()).collect())
    }

    /// Moves money: one transaction, one outcome for each command, in order. Known ids get their first outcome again.
    ///
    /// # Errors
    /// Nothing was written.
    pub fn transfer(
        &mut self,
        commands: Vec<ConfirmMoneyTransfer>,
    ) -> Result<Vec<Transfer>, Error> {
        let ids: Vec<Uuid> = commands.iter().map(|command| command.id).collect();
        let _watch = self.ownership.watch("decide a batch");
        let (mut transaction, statements) = self.begin()?;
        let known: HashMap<Uuid, Transfer> = transaction
            .query(&statements.transfers, &[&ids])
            .map_err(step("find the transfers made before"))?
            .iter()
            .map(|row| {
                let transfer = stored_transfer(row);
                (transfer.id, transfer)
            })
            .collect();

        let new = commands.iter().filter(|command| !known.contains_key(&command.id));
        let mut accounts = lock_accounts(&mut transaction, statements, new)?;
        let mut decided: HashMap<Uuid, usize> = HashMap::with_capacity(commands.len());
        let mut outcomes: Vec<Transfer> = Vec::with_capacity(commands.len());
        for command in commands {
            let outcome = match (known.get(&command.id), decided.get(&command.id)) {
                (Some(outcome), _) => outcome.clone(),
                (None, Some(&first)) => outcomes[first].clone(),
                (None, None) => {
                    decided.insert(command.id, outcomes.len());
                    decide(command, &mut accounts)
                }
            };
            outcomes.push(outcome);
        }
        let rows: Vec<&Transfer> = decided.values().map(|&at| &outcomes[at]).collect();
        store_accounts(&mut transaction, statements, &accounts, &rows)?;
        store_transfers(&mut transaction, statements, &rows)?;
        failpoint::reach(Point::Commit);
        transaction.commit().map_err(step("commit transfers"))?;
        Ok(outcomes)
    }

    fn begin(&mut self) -> Result<(Transaction<'_>, &Statements), Error> {
        let transaction = self.ownership.client().transaction().map_err(step("begin"))?;
        Ok((transaction, &self.statements))
    }
}

/// The commands whose id has no outcome yet, each id once: its first command.
fn first_of_each<'a, C, O>(
    commands: &'a [C],
    id: impl Fn(&C) -> Uuid,
    outcomes: &HashMap<Uuid, O>,
) -> Vec<&'a C> {
    let mut seen = std::collections::HashSet::new();
    commands
        .iter()
        .filter(|command| !outcomes.contains_key(&id(command)) && seen.insert(id(command)))
        .collect()
}

/// An outcome that conflicts with a stored one is left out by the statement: another handler was faster.
fn all_stored(stored: u64, wanted: usize) -> Result<(), Error> {
    if usize::try_from(stored) == Ok(wanted) { Ok(()) } else { Err(Error::Claimed) }
}

/// Locks the accounts that `commands` name, in iban order, so that two handlers never wait for each other in a ring.
fn lock_accounts<'a>(
    transaction: &mut Transaction<'_>,
    statements: &Statements,
    commands: impl Iterator<Item = &'a ConfirmMoneyTransfer>,
) -> Result<Accounts, Error> {
    let sides = commands.flat_map(|command| [command.from.as_str(), command.to.as_str()]);
    let ibans: BTreeSet<&str> = sides.filter(|side| iban::is_well_formed(side)).collect();
    let ibans: Vec<&str> = ibans.into_iter().collect();
    let rows =
        transaction.query(&statements.lock_accounts, &[&ibans]).map_err(step("lock accounts"))?;
    let account = |row: &Row| Account {
        token: row.get(1),
        balance: Cents::new(row.get(2)),
        limit: Cents::new(row.get(3)),
        sequence: row.get(4),
    };
    Ok(rows.iter().map(|row| (row.get(0), account(row))).collect())
}

fn decide(command: ConfirmMoneyTransfer, accounts: &mut Accounts) -> Transfer {
    let result = match domain::transfer(&command, accounts) {
        Ok(changes) => Ok(Moved {
            amount: command.amount,
            from: command.from,
            to: command.to,
            description: command.description,
            changes,
        }),
        Err(rejection) => Err(Cow::Borrowed(rejection.reason())),
    };
    Transfer { id: command.id, result }
}

/// Writes the accounts that `transfers` changed.
fn store_accounts(
    transaction: &mut Transaction<'_>,
    statements: &Statements,
    accounts: &Accounts,
    transfers: &[&Transfer],
) -> Result<(), Error> {
    let moved = transfers.iter().filter_map(|transfer| transfer.result.as_ref().ok());
    let sides = moved.flat_map(|moved| {
        let Changes { from, to } = &moved.changes;
        [from.map(|_| moved.from.as_str()), to.map(|_| moved.to.as_str())]
    });
    let changed: BTreeSet<&str> = sides.flatten().collect();
    let ibans: Vec<&str> = changed.into_iter().collect();
    let balances: Vec<i64> = ibans.iter().map(|iban| accounts[*iban].balance.get()).collect();
    let sequences: Vec<i64> = ibans.iter().map(|iban| accounts[*iban].sequence).collect();
    let stored = transaction
        .execute(&statements.store_accounts, &[&ibans, &balances, &sequences])
        .map_err(step("store balances"))?;
    if usize::try_from(stored) == Ok(ibans.len()) {
        Ok(())
    } else {
        Err(database::Error::Foreign(format!(
            "{stored} of {} locked accounts could be stored",
            ibans.len()
        ))
        .into())
    }
}

fn store_transfers(
    transaction: &mut Transaction<'_>,
    statements: &Statements,
    rows: &[&Transfer],
) -> Result<(), Error> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let reasons: Vec<Option<&str>> =
        rows.iter().map(|row| row.result.as_ref().err().map(Cow::as_ref)).collect();
    let moved: Vec<Option<&Moved>> = rows.iter().map(|row| row.result.as_ref().ok()).collect();
    let amounts: Vec<Option<i64>> =
        moved.iter().map(|moved| Some((*moved)?.amount.get())).collect();
    let text = |field: fn(&Moved) -> &str| -> Vec<Option<&str>> {
        moved.iter().map(|moved| moved.map(field)).collect()
    };
    let number =
        |side: fn(&Changes) -> Option<Change>, field: fn(Change) -> i64| -> Vec<Option<i64>> {
            moved.iter().map(|moved| side(&(*moved)?.changes).map(field)).collect()
        };
    let (balance, sequence) =
        (|change: Change| change.balance.get(), |change: Change| change.sequence);
    transaction
        .execute(
            &statements.store_transfers,
            &[
                &ids,
                &reasons,
                &amounts,
                &text(|moved| &moved.from),
                &text(|moved| &moved.to),
                &text(|moved| &moved.description),
                &number(|changes| changes.from, balance),
                &number(|changes| changes.from, sequence),
                &number(|changes| changes.to, balance),
                &number(|changes| changes.to, sequence),
            ],
        )
        .map(drop)
        .map_err(database::step("store the outcomes of transfers"))
        .map_err(|err| if err.is_duplicate() { Error::Claimed } else { err.into() })
}

fn stored_transfer(row: &Row) -> Transfer {
    let change = |balance: usize, sequence: usize| {
        let balance: Option<i64> = row.get(balance);
        let sequence: Option<i64> = row.get(sequence);
        Some(Change { balance: Cents::new(balance?), sequence: sequence? })
    };
    let reason: Option<String> = row.get(1);
    let result = match reason {
        Some(reason) => Err(Cow::Owned(reason)),
        // Not null: the table's checks say so for a row without a reason.
        None => Ok(Moved {
            amount: Cents::new(row.get(2)),
            from: row.get(3),
            to: row.get(4),
            description: row.get(5),
            changes: Changes { from: change(6, 7), to: change(8, 9) },
        }),
    };
    Transfer { id: row.get(0), result }
}

fn creation(row: &Row) -> Result<Creation, Error> {
    let a_type: &str = row.get(1);
    let a_type = match a_type {
        "AUTO" => Atype::Auto,
        "MANUAL" => Atype::Manual,
        other => {
            return Err(
                database::Error::Foreign(format!("account_creation has a_type {other:?}")).into()
            );
        }
    };
    let reason: Option<String> = row.get(4);
    let result = match reason {
        Some(reason) => Err(Cow::Owned(reason)),
        None => Ok(Opened { iban: row.get(2), token: row.get(3) }),
    };
    Ok(Creation { id: row.get(0), a_type, result })
}

const fn a_type_text(a_type: Atype) -> &'static str {
    match a_type {
        Atype::Auto => "AUTO",
        Atype::Manual => "MANUAL",
    }
}

/// The statements of a session, prepared once. Each takes arrays: a batch costs a constant number of round trips.
struct Statements {
    creations: Statement,
    open_accounts: Statement,
    store_creations: Statement,
    transfers: Statement,
    lock_accounts: Statement,
    store_accounts: Statement,
    store_transfers: Statement,
}

impl Statements {
    fn prepare(client: &mut Client) -> Result<Self, Error> {
        let mut prepare = |sql: &str| client.prepare(sql).map_err(step("prepare the statements"));
        Ok(Self {
            creations: prepare(
                "SELECT creation.id, a_type, iban, account.token, reason
                 FROM account_creation AS creation LEFT JOIN account USING (iban) WHERE creation.id = ANY($1)",
            )?,
            open_accounts: prepare(
                "INSERT INTO account (iban, token, balance, overdraft_limit)
                 SELECT iban, token, 0, $3 FROM unnest($1::text[], $2::text[]) AS new (iban, token)
                 ON CONFLICT (iban) DO NOTHING RETURNING iban",
            )?,
            store_creations: prepare(
                "INSERT INTO account_creation (id, a_type, iban, reason)
                 SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) ON CONFLICT (id) DO NOTHING",
            )?,
            transfers: prepare(
                "SELECT id, reason, amount, from_party, to_party, description,
                        from_balance, from_sequence, to_balance, to_sequence
                 FROM transfer WHERE id = ANY($1)",
            )?,
            lock_accounts: prepare(
                "SELECT iban, token, balance, overdraft_limit, sequence
                 FROM account WHERE iban = ANY($1) ORDER BY iban FOR NO KEY UPDATE",
            )?,
            store_accounts: prepare(
                "UPDATE account SET balance = new.balance, sequence = new.sequence
                 FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS new (iban, balance, sequence)
                 WHERE account.iban = new.iban COLLATE \"C\"",
            )?,
            // Without ON CONFLICT, which costs a search and a log record more for each row: `transfers` has just said that
            // they are new, and where another handler was faster the error says so.
            store_transfers: prepare(
                "INSERT INTO transfer (id, reason, amount, from_party, to_party, description,
                                       from_balance, from_sequence, to_balance, to_sequence)
                 SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[],
                                      $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])",
            )?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bank::iban::{CASH, COMPANY_IBAN, COMPANY_TOKEN};
    use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER};
    use std::thread;

    /// A database of the test's own, migrated, on the server of `BALANCE_DATABASE_URL`; dropped with it.
    struct Database {
        server: postgres::Config,
        config: postgres::Config,
    }

    impl Database {
        fn new() -> Self {
            let url = std::env::var("BALANCE_DATABASE_URL")
                .expect("BALANCE_DATABASE_URL: make test sets it");
            let server: postgres::Config = url.parse().unwrap();
            let name = format!("test_{}", Uuid::new_v4().simple());
            connect(&server).unwrap().batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
            let mut config = server.clone();
            config.dbname(&name);
            migrate(&config, &Shutdown::default()).unwrap();
            Self { server, config }
        }

        fn session(&self, topic: Topic) -> Session {
            Session::open(&self.config, topic, &Shutdown::default()).unwrap()
        }

        /// Opens `count` accounts and gives each `cents` from cash.
        fn accounts(&self, count: usize, cents: i64) -> Vec<Opened> {
            let mut session = self.session(CONFIRM_ACCOUNT_CREATION);
            let commands: Vec<_> = (0..count).map(|_| open(Uuid::new_v4())).collect();
            let opened: Vec<Opened> = session
                .open_accounts(&commands)
                .unwrap()
                .into_iter()
                .map(|outcome| outcome.result.unwrap())
                .collect();
            let deposits: Vec<_> =
                opened.iter().map(|account| order(cents, CASH, "", &account.iban)).collect();
            assert!(
                session
                    .transfer(deposits.clone())
                    .unwrap()
                    .iter()
                    .all(|outcome| outcome.result.is_ok())
            );
            opened
        }

        fn sum(&self) -> i64 {
            let row = connect(&self.config)
                .unwrap()
                .query_one("SELECT sum(balance)::bigint FROM account", &[])
                .unwrap();
            row.get(0)
        }
    }

    impl Drop for Database {
        fn drop(&mut self) {
            let name = self.config.get_dbname().unwrap();
            connect(&self.server)
                .unwrap()
                .batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
                .unwrap();
        }
    }

    const COMPANY_CENTS: i64 = 100_000_000_000_000_000;

    fn open(id: Uuid) -> ConfirmAccountCreation {
        ConfirmAccountCreation { id, a_type: Atype::Manual }
    }

    fn order(amount: i64, from: &str, token: &str, to: &str) -> ConfirmMoneyTransfer {
        ConfirmMoneyTransfer {
            id: Uuid::new_v4(),
            token: token.to_owned(),
            amount: Cents::new(amount),
            from: from.to_owned(),
            to: to.to_owned(),
            description: "rent".to_owned(),
        }
    }

    #[test]
    #[ignore = "needs PostgreSQL: make test-integration"]
    fn handlers_that_start_together_migrate_once() {
        let database = Database::new();
        connect(&database.config)
            .unwrap()
            .batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            .unwrap();
        thread::scope(|scope| {
            let starts: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| migrate(&database.config, &Shutdown::default())))
                .collect();
            for start in starts {
                start.join().unwrap().unwrap();
            }
        });
        assert_eq!(database.sum(), COMPANY_CENTS);
    }

    #[test]
    #[ignore = "needs PostgreSQL: make test-integration"]
    fn a_newer_database_is_left_alone() {
        let database = Database::new();
        connect(&database.config)
            .unwrap()
            .batch_execute("INSERT INTO migration (version) VALUES (99)")
            .unwrap();
        let err = migrate(&database.config, &Shutdown::default()).unwrap_err();
        assert!(!err.is_retryable() && err.to_string().contains("version 99"), "{err}");
    }

    #[test]
    #[ignore = "needs PostgreSQL: make test-integration"]
    fn a_replayed_batch_gets_the_same_outcomes_and_moves_nothing() {
        let database = Database::new();
        let [a, b] = database.accounts(2, 1000).try_into().unwrap();
        let mut session = database.session(CONFIRM_MONEY_TRANSFER);
        let mut batch = vec![
            order(600, &a.iban, &a.token, &b.iban),
            order(51_000, &a.iban, &a.token, &b.iban),
            order(7, &b.iban, &b.token, "Albert Heijn BV"),
            order(5, COMPANY_IBAN, COMPANY_TOKEN, &a.iban),
        ];
        // The same id twice in one batch, the second time with another amount: the first one counts.
        batch.push(ConfirmMoneyTransfer { amount: Cents::new(1), ..batch[0].clone() });
        let first = session.transfer(batch.clone()).unwrap();
        assert_eq!(first[0], first[4]);
        assert_eq!(first[1].result, Err(Cow::Borrowed("insufficient funds")));
        let moved = first[0].result.as_ref().unwrap();
        assert_eq!(moved.changes.from, Some(Change { balance: Cents::new(400), sequence: 2 }));
        assert_eq!(moved.changes.to, Some(Change { balance: Cents::new(1600), sequence: 2 }));
        let sum = database.sum();
        assert_eq!(sum, COMPANY_CENTS + 2000 - 7);
        assert_eq!(session.transfer(batch.clone()).unwrap(), first);
        batch.reverse();
        let mut reversed = session.transfer(batch.clone()).unwrap();
        reversed.reverse();
        assert_eq!(reversed, first);
        assert_eq!(database.sum(), sum);
    }

    #[test]
    #[ignore = "needs PostgreSQL: make test-integration"]
    fn a_replayed_account_is_the_same_account() {
        let database = Database::new();
        let mut session = database.session(CONFIRM_ACCOUNT_CREATION);
        let batch = [open(Uuid::new_v4()), open(Uuid::new_v4())];
        let first = session.open_accounts(&batch).unwrap();
        assert!(first.iter().all(|outcome| outcome.result.is_ok()));
        assert_eq!(session.open_accounts(&batch).unwrap(), first);
        let more = [batch[1].clone(), open(Uuid::new_v4()), batch[0].clone()];
        let outcomes = session.open_accounts(&more).unwrap();
        assert_eq!((&outcomes[0], &outcomes[2]), (&first[1], &first[0]));
    }

    #[test]
    #[ignore = "needs PostgreSQL: make test-integration"]
    fn one_command_at_two_handlers_has_one_outcome() {
        let database = Database::new();
        let [a, b] = database.accounts(2, 100_000).try_into().unwrap();
        for _ in 0..50 {
            let command = order(10, &a.iban, &a.token, &b.iban);
            let outcomes: Vec<Transfer> = thread::scope(|scope| {
                let handler = |command: ConfirmMoneyTransfer| {
                    let mut session = database.session(CONFIRM_MONEY_TRANSFER);
                    move || loop {
                        match session.transfer(vec![command.clone()]) {
                            Ok(mut outcomes) => return outcomes.remove(0),
                            Err(err) => assert!(err.is_retryable(), "{err}"),
                        }
                    }
                };
                let handlers =
                    [scope.spawn(handler(command.clone())), scope.spawn(handler(command.clone()))];
                handlers.into_iter().map(|handler| handler.join().unwrap()).collect()
            });
            assert_eq!(outcomes[0], outcomes[1]);
        }
        let mut session = database.session(CONFIRM_MONEY_TRANSFER);
        let last = session
            .transfer(vec![order(1, &b.iban, &b.token, CASH)])
            .unwrap()
            .remove(0)
            .result
            .unwrap();
        assert_eq!(last.changes.from, Some(Change { balance: Cents::new(100_499), sequence: 52 }));
    }

    #[test]
    #[ignore = "needs PostgreSQL: make test-integration"]
    fn partitions_are_shared_and_taken_over() {
        let database = Database::new();
        let mut first = database.session(CONFIRM_MONEY_TRANSFER);
        assert_eq!(first.ownership.share().unwrap(), 9);
        first.ownership.claim(9).unwrap();
        assert_eq!(first.ownership.owned().len(), 9);
        let mut second = database.session(CONFIRM_MONEY_TRANSFER);
        let share = second.ownership.share().unwrap();
        assert_eq!((share, first.ownership.share().unwrap()), (5, 5));
        second.ownership.claim(share).unwrap();
        assert!(second.ownership.owned().is_empty(), "all are owned");
        first.ownership.release(share).unwrap();
        second.ownership.claim(share).unwrap();
        assert_eq!((first.ownership.owned().len(), second.ownership.owned().len()), (5, 4));
        assert!(first.ownership.owned().is_disjoint(second.ownership.owned()));
        // Another topic is another matter.
        let mut accounts = database.session(CONFIRM_ACCOUNT_CREATION);
        assert_eq!(accounts.ownership.share().unwrap(), 1);
        accounts.ownership.claim(1).unwrap();
        assert_eq!(accounts.ownership.owned().len(), 1);
        // PostgreSQL frees the locks as soon as it sees that the connection is gone.
        drop(first);
        while second.ownership.owned().len() < 9 {
            let share = second.ownership.share().unwrap();
            second.ownership.claim(share).unwrap();
        }
    }

    #[test]
    #[ignore = "needs PostgreSQL: make test-integration"]
    fn the_database_refuses_what_the_bank_forbids() {
        let database = Database::new();
        let [a] = database.accounts(1, 1000).try_into().unwrap();
        let mut client = connect(&database.config).unwrap();
        for (sql, constraint) in [
            ("UPDATE account SET balance = -50001 WHERE sequence = 1", "account_check"),
            ("UPDATE account SET sequence = -1", "account_sequence_check"),
            (
                "INSERT INTO account (iban, token, balance, overdraft_limit) SELECT iban, token, 0, 0 FROM account",
                "account_pkey",
            ),
            ("INSERT INTO transfer (id) SELECT id FROM account_creation", "transfer_check1"),
            (
                "INSERT INTO transfer (id, reason, amount) SELECT id, 'no', 1 FROM account_creation",
                "transfer_check1",
            ),
            (
                "INSERT INTO account_creation (id, a_type, iban) VALUES (gen_random_uuid(), 'AUTO', 'NL00OPEN0000000000')",
                "account_creation_iban_fkey",
            ),
            (
                "INSERT INTO account_creation SELECT gen_random_uuid(), a_type, iban FROM account_creation",
                "account_creation_iban_key",
            ),
            ("DELETE FROM account", "account_creation_iban_fkey"),
        ] {
            let err = client.batch_execute(sql).unwrap_err();
            let err = err.as_db_error().unwrap();
            assert_eq!(err.constraint(), Some(constraint), "{sql}: {err}");
        }
        assert_eq!(a.iban.len(), 18);
    }

    #[test]
    #[ignore = "needs PostgreSQL: make test-integration"]
    fn a_lost_session_is_retryable_and_writes_nothing() {
        let database = Database::new();
        let [a] = database.accounts(1, 1000).try_into().unwrap();
        let mut session = database.session(CONFIRM_MONEY_TRANSFER);
        session.ownership.claim(9).unwrap();
        connect(&database.config)
            .unwrap()
            .batch_execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE pid <> pg_backend_pid() AND datname = current_database()",
            )
            .unwrap();
        let err = session.transfer(vec![order(1, CASH, "", &a.iban)]).unwrap_err();
        assert!(err.is_retryable(), "{err}");
        assert_eq!(database.sum(), COMPANY_CENTS + 1000);
    }
}
