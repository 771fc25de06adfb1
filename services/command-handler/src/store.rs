//! All SQL of the service: migrations, and the transactions that decide commands.
//!
//! A [`Session`] is one connection. Each of its transactions stores the positions of the commands
//! that it decides, and fails if another handler owns their partitions now.

mod account_cache;
mod dead_versions;

use self::account_cache::AccountCache;
use self::dead_versions::DeadVersions;
use crate::domain::{
    self, Account, Accounts, Change, Changes, CompletedTransfer, CreationOutcome, OpenedAccount,
    TransferOutcome,
};
use crate::error::Error;
use crate::failpoint::{self, Point};
use bank::iban::{self, COMPANY_IBAN, COMPANY_TOKEN, Token};
use bank::money::{Cents, OVERDRAFT_LIMIT};
use bank::reasons::Reason;
use bank::records::{Atype, ConfirmAccountCreation, ConfirmMoneyTransfer};
use bank::timestamp::Timestamp;
use postgres::types::ToSql;
use postgres::{Client, GenericClient, Row, Statement, Transaction};
use service::database::retention::{self, OldRows, Retention};
use service::database::{self, Tid, check_sql};
use service::ownership::{self, Ownership, PositionRows, Positions};
use service::shutdown::Shutdown;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::SystemTime;
use uuid::Uuid;

/// `application_name` in PostgreSQL, and name of the lock for migrations.
const SERVICE: &str = "command-handler";

/// The tables, and what the statements below do with them.
pub const SCHEMA: database::Schema = database::Schema {
    service: SERVICE,
    migrations: &[
        include_str!("../migrations/1-bank.sql"),
        ownership::TABLES,
        include_str!("../migrations/3-tokens.sql"),
        include_str!("../migrations/4-decision-times.sql"),
        include_str!("../migrations/5-ibans.sql"),
    ],
    rights: &[
        ("SELECT, INSERT, UPDATE", "account"),
        ("SELECT, INSERT", "account_iban, account_creation"),
        ("SELECT, INSERT, DELETE", "transfer"),
        ("SELECT", "token_key"),
        ownership::RIGHTS[0],
        ownership::RIGHTS[1],
    ],
};

/// Settings of each connection.
/// - A stopped process (SIGSTOP, a frozen virtual machine) keeps its connection open. The idle
///   timeout ends its transaction, so that another handler can take over. The timeout of the
///   session frees the connection. A running session sends a statement every second.
/// - Every statement finds its rows by key. Directly after the first start the statistics describe
///   empty tables. A plan from these statistics would scan tables that grow by 20,000 rows/s.
const SETTINGS: &str = "-c idle_session_timeout=10s -c idle_in_transaction_session_timeout=10s \
     -c statement_timeout=20s -c lock_timeout=10s -c enable_seqscan=off -c enable_hashjoin=off \
     -c enable_mergejoin=off -c jit=off -c plan_cache_mode=force_generic_plan \
     -c client_min_messages=warning";

/// Migrates the database to the version of this program, or checks its version if the role may not
/// create tables. If several handlers start at the same time, one migrates and the others wait.
///
/// # Errors
/// The database is unavailable or not migrated, or a newer program migrated it.
pub fn migrate(config: &postgres::Config, shutdown: &Shutdown) -> Result<(), Error> {
    let _watch = database::watch(shutdown, "migrate the database");
    Ok(database::migrate(&mut connect(config)?, &SCHEMA)?)
}

/// Starts to delete the outcomes of transfers that are older than the period.
pub fn delete_old_outcomes(config: &postgres::Config, retention: Retention, shutdown: &Shutdown) {
    retention::start(config, SERVICE, retention, vec![old_outcomes()], shutdown);
}

fn old_outcomes() -> OldRows {
    OldRows::by_id("transfer", "id")
}

/// The stored token of the company account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompanyToken {
    /// The token of the talk, which everyone knows.
    WellKnown,
    /// Another token.
    Own,
}

/// Stores `token` as the token of the company account. `None` keeps the stored one, so that a start
/// without the variable does not bring back the well-known token. Stored outcomes do not change.
///
/// # Errors
/// The database is unavailable.
pub fn set_company_token(
    config: &postgres::Config,
    token: Option<Token>,
    shutdown: &Shutdown,
) -> Result<CompanyToken, Error> {
    let _watch = database::watch(shutdown, "store the token of the company account");
    let failed = "store the token of the company account";
    let mut client = connect(config)?;
    if let Some(token) = token {
        let sql = "UPDATE account SET token = $2 WHERE iban = $1 AND token <> $2";
        let changed =
            client.execute(sql, &[&COMPANY_IBAN, &token.as_str()]).map_err(step(failed))?;
        if changed > 0 {
            log::info!(iban = COMPANY_IBAN; "token of the company account replaced");
        }
    }
    let sql = "SELECT FROM account WHERE iban = $1 AND token = $2";
    let well_known =
        client.query_opt(sql, &[&COMPANY_IBAN, &COMPANY_TOKEN]).map_err(step(failed))?;
    Ok(if well_known.is_some() { CompanyToken::WellKnown } else { CompanyToken::Own })
}

/// Adds the name of the failed step to an error of PostgreSQL.
fn step(step: &'static str) -> impl FnOnce(postgres::Error) -> Error {
    move |source| database::step(step)(source).into()
}

fn connect(config: &postgres::Config) -> Result<Client, Error> {
    Ok(database::connect(config, SERVICE, SETTINGS)?)
}

/// A connection that decides commands.
pub struct Session {
    client: Client,
    /// `None` if something else assigns the partitions.
    ownership: Option<Ownership>,
    statements: Statements,
    cache: AccountCache,
    dead_versions: DeadVersions,
    shutdown: Shutdown,
}

/// What one transaction decided.
struct Decided {
    /// The outcomes that were stored before.
    known: HashMap<Uuid, TransferOutcome>,
    /// The result of each command that has a new outcome.
    new: Vec<Option<Result<Changes, Reason>>>,
    /// The first command with each id that is new.
    first: HashMap<Uuid, usize>,
    decided_at: Timestamp,
}

impl Decided {
    /// One outcome for each of the `commands`.
    fn outcomes(self, commands: Vec<ConfirmMoneyTransfer>) -> Vec<TransferOutcome> {
        let mut outcomes: Vec<TransferOutcome> = Vec::with_capacity(commands.len());
        for (command, new) in commands.into_iter().zip(self.new) {
            outcomes.push(match (self.known.get(&command.id), new) {
                (Some(known), _) => known.clone(),
                (None, Some(result)) => TransferOutcome::new(command, result, self.decided_at),
                (None, None) => outcomes[self.first[&command.id]].clone(),
            });
        }
        outcomes
    }
}

impl Session {
    /// Connects. The session owns no partitions, and stores no positions before [`Self::join`].
    ///
    /// # Errors
    /// The database is unavailable.
    pub fn open(config: &postgres::Config, shutdown: &Shutdown) -> Result<Self, Error> {
        let _watch = database::watch(shutdown, "connect");
        let mut client = connect(config)?;
        let statements = Statements::prepare(&mut client)?;
        let (cache, dead_versions) = (AccountCache::default(), DeadVersions::default());
        let shutdown = shutdown.clone();
        Ok(Self { client, ownership: None, statements, cache, dead_versions, shutdown })
    }

    /// Becomes the worker `worker` of `topic`, which has `partitions` partitions.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn join(
        &mut self,
        topic: &'static str,
        worker: Uuid,
        partitions: i32,
    ) -> Result<(), Error> {
        let _watch = database::watch(&self.shutdown, "join the workers of the topic");
        let mut ownership = Ownership::new(&mut self.client, topic, worker)?;
        ownership.join(&mut self.client, partitions)?;
        self.ownership = Some(ownership);
        Ok(())
    }

    /// Calls a method of [`Ownership`] with its connection.
    ///
    /// # Errors
    /// Those of the method.
    ///
    /// # Panics
    /// Before [`Self::join`].
    pub fn owning<R>(
        &mut self,
        call: impl FnOnce(&mut Ownership, &mut Client) -> Result<R, database::Error>,
    ) -> Result<R, Error> {
        let _deadline = database::heartbeat(&self.shutdown, "own partitions");
        let ownership = self.ownership.as_mut().expect("the session has joined");
        Ok(call(ownership, &mut self.client)?)
    }

    /// Decides `commands` in one transaction, and stores `positions` with the outcomes. Returns one
    /// outcome per command, in the same order. A known id gets its stored outcome.
    ///
    /// # Errors
    /// After an error nothing was written.
    pub fn open_accounts(
        &mut self,
        commands: &[ConfirmAccountCreation],
        positions: &Positions,
    ) -> Result<Vec<CreationOutcome>, Error> {
        let ids: Vec<Uuid> = commands.iter().map(|command| command.id).collect();
        let _watch = database::watch(&self.shutdown, "decide a batch");
        let statements = &self.statements;
        let mut transaction = begin(&mut self.client, &mut self.ownership, positions)?;
        let mut outcomes: HashMap<Uuid, CreationOutcome> = transaction
            .query(&statements.creations, &[&ids])
            .map_err(step("find known account commands"))?
            .iter()
            .map(|row| stored_creation(row).map(|outcome| (outcome.id, outcome)))
            .collect::<Result<_, _>>()?;

        let new = first_of_each(commands, |command| command.id, &outcomes);
        if !new.is_empty() {
            let created = create_accounts(&mut transaction, statements, &new)?;
            store_creations(&mut transaction, statements, &created)?;
            outcomes.extend(created.into_iter().map(|outcome| (outcome.id, outcome)));
        }
        failpoint::reach(Point::Commit);
        transaction.commit().map_err(step("commit accounts"))?;
        Ok(commands.iter().map(|command| outcomes[&command.id].clone()).collect())
    }

    /// Decides `commands` in one transaction, and stores `positions` with the outcomes. Returns one
    /// outcome per command, in the same order. A known id gets its stored outcome.
    ///
    /// # Errors
    /// After an error nothing was written.
    pub fn transfer(
        &mut self,
        commands: Vec<ConfirmMoneyTransfer>,
        positions: &Positions,
    ) -> Result<Vec<TransferOutcome>, Error> {
        let _watch = database::watch(&self.shutdown, "decide a batch");
        let visited = self.dead_versions.take();
        if !visited.is_empty() {
            let visit = self.client.execute(&self.statements.visit, &[&visited]);
            visit.map_err(step("visit dead versions"))?;
        }
        let decided = match self.transfer_at_once(&commands, positions)? {
            Some(decided) => decided,
            None => self.transfer_locked(&commands, positions)?,
        };
        Ok(decided.outcomes(commands))
    }

    /// Decides `commands` from accounts in the cache, and stores everything by one statement. It
    /// writes nothing if another handler has changed one of the accounts, or if a command has an
    /// outcome already. Then, and in a pause of the cache, returns `None`.
    fn transfer_at_once(
        &mut self,
        commands: &[ConfirmMoneyTransfer],
        positions: &Positions,
    ) -> Result<Option<Decided>, Error> {
        if !self.cache.begin_batch() {
            return Ok(None);
        }
        let before = self.ownership.as_ref().map(|ownership| ownership.owned().clone());
        let rows = match &mut self.ownership {
            Some(ownership) => ownership.parameters(positions)?,
            None => Some(PositionRows::default()),
        };
        let Some(rows) = rows else { return Ok(None) };
        let Self { client, ownership, statements, cache, .. } = self;
        let ibans = named_ibans(commands.iter());
        let (accounts, places) = cached_accounts(client, statements, cache, &ibans)?;
        let batch = Batch::decide(commands, HashMap::new(), &ibans, accounts, &places);
        failpoint::reach(Point::Commit);
        match batch.store(client, &statements.store_at_once, &rows.parameters()) {
            Ok(row) => {
                let (partitions, places): (Vec<i32>, Vec<Tid>) = (row.get(4), row.get(5));
                if let Some(ownership) = ownership {
                    ownership.set_places(partitions.into_iter().zip(places));
                }
                cache.record_success();
                Ok(Some(self.remember(batch, &row)))
            }
            Err(err) if err.is_failed_check() || err.is_duplicate() => {
                if let (Some(ownership), Some(before)) = (ownership, before) {
                    ownership.restore(before);
                }
                cache.record_conflict();
                Ok(None)
            }
            Err(err) => Err(err.into()),
        }
    }

    /// Decides `commands` in a transaction that locks their accounts.
    fn transfer_locked(
        &mut self,
        commands: &[ConfirmMoneyTransfer],
        positions: &Positions,
    ) -> Result<Decided, Error> {
        let Self { client, ownership, statements, .. } = self;
        let mut transaction = begin(client, ownership, positions)?;
        let known = known_transfers(&mut transaction, statements, commands)?;
        let is_new = |command: &&ConfirmMoneyTransfer| !known.contains_key(&command.id);
        let ibans = named_ibans(commands.iter().filter(is_new));
        let (accounts, places) =
            read_accounts(&mut transaction, &statements.lock_accounts, &ibans)?;
        let batch = Batch::decide(commands, known, &ibans, accounts, &places);
        let row = batch
            .store(&mut transaction, &statements.store_transfers, &[])
            .map_err(|err| if err.is_duplicate() { Error::Claimed } else { err.into() })?;
        failpoint::reach(Point::Commit);
        transaction.commit().map_err(step("commit transfers"))?;
        Ok(self.remember(batch, &row))
    }

    /// Adds the accounts of a batch to the cache, as they are after it. `row` is the result of the
    /// statement that stored it.
    fn remember(&mut self, batch: Batch<'_>, row: &Row) -> Decided {
        let Batch { ibans, mut places, sequences, accounts, known, new, first, .. } = batch;
        let (changed, new_places): (Vec<i64>, Vec<Tid>) = (row.get(1), row.get(2));
        for (number, place) in changed.into_iter().zip(new_places) {
            places[usize::try_from(number - 1).expect("they begin with 1")] = place;
        }
        for (iban, (place, sequence)) in ibans.into_iter().zip(places.into_iter().zip(sequences)) {
            if accounts[iban].sequence != sequence {
                self.dead_versions.record(iban, place);
            }
            self.cache.insert(iban, &accounts[iban], place);
        }
        let decided_at: SystemTime = row.get(0);
        Decided { known, new, first, decided_at: decided_at.into() }
    }

    /// The transaction id of the oldest snapshot that another session keeps, if there is one.
    /// PostgreSQL removes no row version that this snapshot may see.
    ///
    /// # Errors
    /// The connection is lost, or the role may not read the view.
    pub fn oldest_snapshot(&mut self) -> Result<Option<i64>, Error> {
        let _watch = database::watch(&self.shutdown, "find the oldest snapshot");
        let found = self.client.query_opt(OLDEST_SNAPSHOT, &[]);
        let found = found.map_err(step("find the oldest snapshot"))?.map(|row| row.get(0));
        self.dead_versions.look_at_snapshot(found);
        Ok(found)
    }

    /// Stores `positions` without outcomes.
    ///
    /// # Errors
    /// After an error nothing was written.
    pub fn store_positions(&mut self, positions: &Positions) -> Result<(), Error> {
        let _watch = database::watch(&self.shutdown, "store positions");
        let transaction = begin(&mut self.client, &mut self.ownership, positions)?;
        transaction.commit().map_err(step("commit positions"))
    }
}

/// Begins a transaction, whose first effect are `positions`.
fn begin<'a>(
    client: &'a mut Client,
    ownership: &mut Option<Ownership>,
    positions: &Positions,
) -> Result<Transaction<'a>, Error> {
    let mut transaction = client.transaction().map_err(step("begin a transaction"))?;
    if let Some(ownership) = ownership {
        ownership.store(&mut transaction, positions)?;
    }
    Ok(transaction)
}

/// The first command of each id that has no outcome yet.
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

/// Opens an account for each command whose iban is free. The iban follows from the id of the
/// command, the token from the id and the database's key. So a database that was restored from a
/// backup opens the same accounts again.
fn create_accounts(
    transaction: &mut Transaction<'_>,
    statements: &Statements,
    commands: &[&ConfirmAccountCreation],
) -> Result<Vec<CreationOutcome>, Error> {
    let mut ids: BTreeMap<String, Uuid> = BTreeMap::new();
    for command in commands {
        // Of two commands with one iban the first opens the account.
        ids.entry(iban::of_command(command.id)).or_insert(command.id);
    }
    // The order by iban prevents deadlocks between handlers.
    let (ibans, ids): (Vec<String>, Vec<Uuid>) = ids.into_iter().unzip();
    let mut opened: HashMap<Uuid, OpenedAccount> = transaction
        .query(&statements.open_accounts, &[&ibans, &ids, &OVERDRAFT_LIMIT.get()])
        .map_err(step("open accounts"))?
        .iter()
        .map(|row| (row.get(0), OpenedAccount { iban: row.get(1), token: row.get(2) }))
        .collect();
    let outcome = |command: &&ConfirmAccountCreation| {
        let result = opened.remove(&command.id).ok_or(Cow::Borrowed(domain::IBAN_EXISTS));
        CreationOutcome { id: command.id, a_type: command.a_type, result }
    };
    Ok(commands.iter().map(outcome).collect())
}

fn store_creations(
    transaction: &mut Transaction<'_>,
    statements: &Statements,
    rows: &[CreationOutcome],
) -> Result<(), Error> {
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
        .map_err(step("store the outcomes of account commands"))?;
    all_stored(stored, rows.len())
}

/// Returns [`Error::Claimed`] if fewer rows than `expected` were stored. The statement skips an
/// outcome whose command another handler decided first.
fn all_stored(stored: u64, expected: usize) -> Result<(), Error> {
    if usize::try_from(stored) == Ok(expected) { Ok(()) } else { Err(Error::Claimed) }
}

fn known_transfers(
    transaction: &mut Transaction<'_>,
    statements: &Statements,
    commands: &[ConfirmMoneyTransfer],
) -> Result<HashMap<Uuid, TransferOutcome>, Error> {
    let ids: Vec<Uuid> = commands.iter().map(|command| command.id).collect();
    let rows = transaction
        .query(&statements.transfers, &[&ids])
        .map_err(step("find known transfer commands"))?;
    Ok(rows.iter().map(|row| (row.get(0), stored_transfer(row))).collect())
}

/// The ibans that `commands` name. Accounts are locked in this order, which prevents deadlocks
/// between handlers.
fn named_ibans<'a>(commands: impl Iterator<Item = &'a ConfirmMoneyTransfer>) -> Vec<&'a str> {
    let sides = commands.flat_map(|command| [command.from.as_str(), command.to.as_str()]);
    let ibans: BTreeSet<&str> = sides.filter(|side| iban::is_well_formed(side)).collect();
    ibans.into_iter().collect()
}

/// The places of the rows of accounts, by iban.
type Places = HashMap<String, Tid>;

/// Returns the accounts with these ibans that exist. Reads only those that are not in the cache.
fn cached_accounts(
    client: &mut impl GenericClient,
    statements: &Statements,
    cache: &mut AccountCache,
    ibans: &[&str],
) -> Result<(Accounts, Places), Error> {
    let mut accounts = Accounts::with_capacity(ibans.len());
    let mut places = Places::with_capacity(ibans.len());
    let mut missing = Vec::new();
    for &iban in ibans {
        match cache.get(iban) {
            Some((account, place)) => {
                accounts.insert(iban.to_owned(), account);
                places.insert(iban.to_owned(), place);
            }
            None => missing.push(iban),
        }
    }
    if !missing.is_empty() {
        let (read, read_places) = read_accounts(client, &statements.accounts, &missing)?;
        accounts.extend(read);
        places.extend(read_places);
    }
    Ok((accounts, places))
}

fn read_accounts(
    client: &mut impl GenericClient,
    statement: &Statement,
    ibans: &[&str],
) -> Result<(Accounts, Places), Error> {
    let rows = client.query(statement, &[&ibans]).map_err(step("read accounts"))?;
    let account = |row: &Row| Account {
        token: row.get(1),
        balance: Cents::new(row.get(2)),
        limit: Cents::new(row.get(3)),
        sequence: row.get(4),
    };
    Ok(rows.iter().map(|row| ((row.get(0), account(row)), (row.get(0), row.get(5)))).unzip())
}

/// A batch of commands with its decisions.
struct Batch<'a> {
    commands: &'a [ConfirmMoneyTransfer],
    /// The accounts that exist, by column: as they were before the batch.
    ibans: Vec<&'a str>,
    balances: Vec<i64>,
    sequences: Vec<i64>,
    /// Where their rows were.
    places: Vec<Tid>,
    /// The same accounts after the batch.
    accounts: Accounts,
    /// See [`Decided`].
    known: HashMap<Uuid, TransferOutcome>,
    new: Vec<Option<Result<Changes, Reason>>>,
    first: HashMap<Uuid, usize>,
}

impl<'a> Batch<'a> {
    /// Decides the commands that are not `known`, from `accounts`.
    fn decide(
        commands: &'a [ConfirmMoneyTransfer],
        known: HashMap<Uuid, TransferOutcome>,
        ibans: &[&'a str],
        mut accounts: Accounts,
        places: &Places,
    ) -> Self {
        let ibans: Vec<&str> =
            ibans.iter().copied().filter(|iban| accounts.contains_key(*iban)).collect();
        let balances = ibans.iter().map(|iban| accounts[*iban].balance.get()).collect();
        let sequences = ibans.iter().map(|iban| accounts[*iban].sequence).collect();
        let places = ibans.iter().map(|iban| places[*iban]).collect();
        let mut first = HashMap::with_capacity(commands.len());
        let mut decide = |(index, command): (usize, &ConfirmMoneyTransfer)| {
            let decides = !known.contains_key(&command.id)
                && *first.entry(command.id).or_insert(index) == index;
            decides.then(|| domain::transfer(command, &mut accounts))
        };
        let new = commands.iter().enumerate().map(&mut decide).collect();
        Self { commands, ibans, balances, sequences, places, accounts, known, new, first }
    }

    /// Stores the accounts and the new outcomes. `more` are the parameters of the statement after
    /// those of the batch. The time of the decision is read while all changed accounts are locked,
    /// so that it does not decrease with the sequence of an account.
    ///
    /// # Errors
    /// The statement failed, and nothing was written.
    fn store(
        &self,
        client: &mut impl GenericClient,
        statement: &Statement,
        more: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, database::Error> {
        let after: Vec<&Account> = self.ibans.iter().map(|iban| &self.accounts[*iban]).collect();
        let tokens: Vec<&str> = after.iter().map(|account| account.token.as_str()).collect();
        let limits: Vec<i64> = after.iter().map(|account| account.limit.get()).collect();
        let balances: Vec<i64> = after.iter().map(|account| account.balance.get()).collect();
        let sequences: Vec<i64> = after.iter().map(|account| account.sequence).collect();
        let rows: Vec<(&ConfirmMoneyTransfer, &Result<Changes, Reason>)> = self
            .commands
            .iter()
            .zip(&self.new)
            .filter_map(|(command, new)| Some((command, new.as_ref()?)))
            .collect();
        let ids: Vec<Uuid> = rows.iter().map(|(command, _)| command.id).collect();
        let reasons: Vec<Option<&str>> =
            rows.iter().map(|(_, result)| result.err().map(Reason::text)).collect();
        // A rejection stores nothing of its command.
        fn moved<'a, T>(
            rows: &[(&'a ConfirmMoneyTransfer, &Result<Changes, Reason>)],
            field: impl Fn(&'a ConfirmMoneyTransfer) -> T,
        ) -> Vec<Option<T>> {
            rows.iter().map(|(command, result)| result.is_ok().then(|| field(command))).collect()
        }
        let number =
            |side: fn(&Changes) -> Option<Change>, field: fn(Change) -> i64| -> Vec<Option<i64>> {
                rows.iter().map(|(_, result)| side(result.as_ref().ok()?).map(field)).collect()
            };
        let (balance, sequence) =
            (|change: Change| change.balance.get(), |change: Change| change.sequence);
        let amounts = moved(&rows, |command| command.amount.get());
        let senders = moved(&rows, |command| command.from.as_str());
        let receivers = moved(&rows, |command| command.to.as_str());
        let descriptions = moved(&rows, |command| command.description.as_str());
        let from = (number(|it| it.from, balance), number(|it| it.from, sequence));
        let to = (number(|it| it.to, balance), number(|it| it.to, sequence));
        let parameters: [&(dyn ToSql + Sync); BATCH_PARAMETERS] = [
            &self.ibans,
            &tokens,
            &limits,
            &self.balances,
            &self.sequences,
            &balances,
            &sequences,
            &self.places,
            &ids,
            &reasons,
            &amounts,
            &senders,
            &receivers,
            &descriptions,
            &from.0,
            &from.1,
            &to.0,
            &to.1,
        ];
        client
            .query_one(statement, &[&parameters, more].concat())
            .map_err(database::step("store the outcomes of transfers"))
    }
}

fn stored_transfer(row: &Row) -> TransferOutcome {
    let change = |balance: usize, sequence: usize| {
        let balance: Option<i64> = row.get(balance);
        let sequence: Option<i64> = row.get(sequence);
        Some(Change { balance: Cents::new(balance?), sequence: sequence? })
    };
    let reason: Option<String> = row.get(1);
    let result = match reason {
        Some(reason) => Err(Cow::Owned(reason)),
        // Never null: the table's checks require these columns in a row without a reason.
        None => Ok(CompletedTransfer {
            amount: Cents::new(row.get(2)),
            from: row.get(3),
            to: row.get(4),
            description: row.get(5),
            changes: Changes { from: change(6, 7), to: change(8, 9) },
        }),
    };
    let decided_at: Option<SystemTime> = row.get(10);
    TransferOutcome { id: row.get(0), result, decided_at: decided_at.map(Timestamp::from) }
}

fn stored_creation(row: &Row) -> Result<CreationOutcome, Error> {
    let a_type: &str = row.get(1);
    let a_type = match a_type {
        "AUTO" => Atype::Auto,
        "MANUAL" => Atype::Manual,
        other => {
            return Err(database::Error::Foreign(format!(
                "unknown a_type {other:?} in account_creation"
            ))
            .into());
        }
    };
    let reason: Option<String> = row.get(4);
    let result = match reason {
        Some(reason) => Err(Cow::Owned(reason)),
        None => Ok(OpenedAccount { iban: row.get(2), token: row.get(3) }),
    };
    Ok(CreationOutcome { id: row.get(0), a_type, result })
}

const fn a_type_text(a_type: Atype) -> &'static str {
    match a_type {
        Atype::Auto => "AUTO",
        Atype::Manual => "MANUAL",
    }
}

const ACCOUNTS: &str = "SELECT iban, token, balance, overdraft_limit, sequence, ctid
                        FROM account WHERE iban = ANY($1)";

/// The number of parameters of [`Batch::store`], apart from `more`.
const BATCH_PARAMETERS: usize = 18;

/// Stores the accounts and the outcomes of a batch in the transaction that has locked the accounts.
fn store_transfers_sql() -> String {
    transfers_sql("", BY_KEY, "true", "")
}

/// Stores the accounts, the outcomes and the positions of a batch.
fn store_at_once_sql() -> String {
    transfers_sql(
        &ownership::positions_sql(BATCH_PARAMETERS + 1),
        IN_PLACE,
        "(SELECT are_stored FROM positions)",
        ", (SELECT partitions FROM positions), (SELECT places FROM positions)",
    )
}

/// Stores the accounts and the outcomes of a batch if `condition` is true, and fails if an account
/// is not as before. `is_row` finds the row of an account.
///
/// The rows of `named` are in the order of their ibans, so accounts are locked in this order.
///
/// The insert has no ON CONFLICT, which costs one more index search and WAL record per row. It
/// fails with a duplicate key if a command has an outcome already.
fn transfers_sql(with: &str, is_row: &str, condition: &str, columns: &str) -> String {
    let is_as_before = format!(
        "{is_row}
           AND (account.sequence, account.balance, account.overdraft_limit)
               = (named.sequence, named.balance, named.overdraft_limit)
           AND account.token = named.token COLLATE \"C\""
    );
    let check = check_sql(&format!(
        "{condition} AND changed + (SELECT count(*) FROM unchanged) = cardinality($1)"
    ));
    format!(
        "WITH {with}
     named AS (
         SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[],
                              $5::bigint[], $6::bigint[], $7::bigint[], $8::tid[])
             WITH ORDINALITY
             AS named (iban, token, overdraft_limit, balance, sequence,
                       new_balance, new_sequence, place, number)),
     changed AS (
         UPDATE account SET balance = new_balance, sequence = new_sequence FROM named
         WHERE {is_as_before}
           AND new_sequence <> named.sequence AND {condition}
         RETURNING number, account.ctid AS place),
     unchanged AS (
         SELECT 1 FROM account JOIN named ON {is_as_before}
         WHERE new_sequence = named.sequence),
     decision AS (
         SELECT count(*) AS changed, coalesce(array_agg(number), '{{}}') AS numbers,
                coalesce(array_agg(place), '{{}}') AS places,
                date_trunc('milliseconds', clock_timestamp()) AS decided_at
         FROM changed),
     stored AS (
         INSERT INTO transfer (id, reason, amount, from_party, to_party, description,
                               from_balance, from_sequence, to_balance, to_sequence,
                               decided_at)
         SELECT new.*, decided_at
         FROM unnest($9::uuid[], $10::text[], $11::bigint[], $12::text[], $13::text[],
                     $14::text[], $15::bigint[], $16::bigint[], $17::bigint[],
                     $18::bigint[]) AS new, decision)
     SELECT decided_at, numbers, decision.places, {check}{columns}
     FROM decision"
    )
}

/// Finds the row of an account by its key.
const BY_KEY: &str = "account.iban = named.iban COLLATE \"C\"";
/// Finds it by its place. The place may be used by another account now. With `=` instead of IS NOT
/// DISTINCT FROM, PostgreSQL could use the index of the key.
const IN_PLACE: &str = "account.ctid = named.place
           AND account.iban IS NOT DISTINCT FROM named.iban COLLATE \"C\"";

/// A session keeps back what its snapshot may see (`backend_xmin`), and what others must not see
/// before it commits (`backend_xid`). Sessions without a database are those of standbys.
const OLDEST_SNAPSHOT: &str = "SELECT kept::text::bigint
     FROM pg_stat_activity, LATERAL (VALUES (backend_xmin), (backend_xid)) AS ids (kept)
     WHERE (datname = current_database() OR datname IS NULL)
       AND pid <> pg_backend_pid() AND kept IS NOT NULL
     ORDER BY age(kept) DESC LIMIT 1";

/// The prepared statements of a session. Each takes arrays, so a batch needs a constant number of
/// round trips.
struct Statements {
    creations: Statement,
    open_accounts: Statement,
    store_creations: Statement,
    transfers: Statement,
    accounts: Statement,
    lock_accounts: Statement,
    store_transfers: Statement,
    store_at_once: Statement,
    /// Reads accounts only so that PostgreSQL visits their pages.
    visit: Statement,
}

impl Statements {
    fn prepare(client: &mut Client) -> Result<Self, Error> {
        let mut prepare = |sql: &str| client.prepare(sql).map_err(step("prepare the statements"));
        Ok(Self {
            creations: prepare(
                "SELECT creation.id, a_type, iban, account.token, reason
                 FROM account_creation AS creation LEFT JOIN account USING (iban)
                 WHERE creation.id = ANY($1)",
            )?,
            open_accounts: prepare(
                "WITH new AS (
                     SELECT id, iban, token_of(id) AS token
                     FROM unnest($1::text[], $2::uuid[]) AS new (iban, id)),
                 free AS (
                     INSERT INTO account_iban SELECT iban FROM new
                     ON CONFLICT DO NOTHING RETURNING iban),
                 opened AS (
                     INSERT INTO account (iban, token, balance, overdraft_limit)
                     SELECT iban, token, 0, $3 FROM new JOIN free USING (iban))
                 SELECT id, iban, token FROM new JOIN free USING (iban)",
            )?,
            store_creations: prepare(
                "INSERT INTO account_creation (id, a_type, iban, reason)
                 SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[])
                 ON CONFLICT (id) DO NOTHING",
            )?,
            transfers: prepare(
                "SELECT id, reason, amount, from_party, to_party, description,
                        from_balance, from_sequence, to_balance, to_sequence, decided_at
                 FROM transfer WHERE id = ANY($1)",
            )?,
            accounts: prepare(ACCOUNTS)?,
            lock_accounts: prepare(&format!("{ACCOUNTS} ORDER BY iban FOR NO KEY UPDATE"))?,
            store_transfers: prepare(&store_transfers_sql())?,
            store_at_once: prepare(&store_at_once_sql())?,
            visit: prepare("SELECT count(sequence) FROM account WHERE iban = ANY($1)")?,
        })
    }
}

#[cfg(test)]
mod tests;
