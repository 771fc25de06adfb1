//! Tests of the transactions against a PostgreSQL server.

use super::*;
use bank::iban::{CASH, COMPANY_IBAN, COMPANY_TOKEN};
use bank::ids;
use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, Topic};
use service::ownership::Progress;
use std::thread;
use std::time::{Duration, Instant};

/// A migrated database of one test, on the server of `BALANCE_DATABASE_URL`. Dropping it drops the
/// database.
struct Database {
    server: postgres::Config,
    owner: postgres::Config,
    /// The role of the running service, with the rights that `--migrate` grants.
    config: postgres::Config,
}

/// A password with the characters that URLs, SQL and shells treat specially.
const PASSWORD: &str = r#"p@ss/w%40rd#1 ?&=:'"\$x"#;

impl Database {
    fn new() -> Self {
        let url = std::env::var("BALANCE_DATABASE_URL")
            .expect("BALANCE_DATABASE_URL is set by make test-integration");
        let server: postgres::Config = url.parse().unwrap();
        let name = format!("test_{}", Uuid::new_v4().simple());
        let mut owner = server.clone();
        owner.dbname(&name);
        let mut client = connect(&server).unwrap();
        client.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        let password = PASSWORD.replace('\'', "''");
        client
            .batch_execute(&format!(
                "CREATE ROLE {name} LOGIN PASSWORD '{password}'; GRANT {name} TO CURRENT_USER"
            ))
            .unwrap();
        let config = service_config(&url, &name);
        let database = Self { server, owner, config };
        database.migrate();
        database
    }

    fn migrate(&self) {
        let role = self.config.get_user().unwrap();
        database::migrate_as_owner(&mut connect(&self.owner).unwrap(), &SCHEMA, role).unwrap();
    }

    fn drop_tables(&self) {
        connect(&self.owner)
            .unwrap()
            .batch_execute(
                "DROP SCHEMA public CASCADE; CREATE SCHEMA public;
                 GRANT USAGE ON SCHEMA public TO PUBLIC",
            )
            .unwrap();
    }

    fn session(&self, topic: Topic) -> Session {
        let mut session = Session::open(&self.config, &Shutdown::default()).unwrap();
        session.join(topic.name, Uuid::new_v4(), topic.partitions).unwrap();
        session
    }

    /// Opens `count` accounts and deposits `cents` in each.
    fn accounts(&self, count: usize, cents: i64) -> Vec<OpenedAccount> {
        let mut session = self.session(CONFIRM_ACCOUNT_CREATION);
        let commands: Vec<_> = (0..count).map(|_| open(Uuid::new_v4())).collect();
        let opened: Vec<OpenedAccount> = session
            .open_accounts(&commands, &Positions::default())
            .unwrap()
            .into_iter()
            .map(|outcome| outcome.result.unwrap())
            .collect();
        let deposits: Vec<_> =
            opened.iter().map(|account| order(cents, CASH, "", &account.iban)).collect();
        assert!(
            session
                .transfer(deposits.clone(), &Positions::default())
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
        connect(&self.server).unwrap().batch_execute(&format!("DROP ROLE {name}")).unwrap();
    }
}

/// The configuration of the service for database and role `name` on the server of `url`.
fn service_config(url: &str, name: &str) -> postgres::Config {
    let address = url.rsplit_once('@').unwrap().1.split_once('/').unwrap().0;
    let lookup = |variable: &str| match variable {
        "DATABASE_URL" => Some(format!("postgres://{name}@{address}/{name}")),
        "DATABASE_PASSWORD" => Some(PASSWORD.to_owned()),
        _ => None,
    };
    database::config(&service::env::Env::new(&lookup)).unwrap()
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
fn concurrent_starts_migrate_once() {
    let database = Database::new();
    database.drop_tables();
    thread::scope(|scope| {
        let starts: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| migrate(&database.owner, &Shutdown::default())))
            .collect();
        for start in starts {
            start.join().unwrap().unwrap();
        }
    });
    database.migrate();
    assert_eq!(database.sum(), COMPANY_CENTS);
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn service_role_waits_for_the_migration() {
    let database = Database::new();
    let as_service = || migrate(&database.config, &Shutdown::default());
    as_service().unwrap();
    database.drop_tables();
    let err = as_service().unwrap_err();
    assert!(err.is_retryable(), "{err}");
    assert_eq!(
        err.to_string(),
        "the database has version 0, this program needs 5, and its role may not create tables: \
         run `command-handler --migrate` as the owner"
    );
    database.migrate();
    as_service().unwrap();
}

/// The other tests decide commands with this role, so it has the rights that it needs.
#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn service_role_has_no_other_rights() {
    let database = Database::new();
    database.accounts(1, 1000);
    // A right of an earlier version is revoked.
    let role = database.config.get_user().unwrap();
    connect(&database.owner)
        .unwrap()
        .batch_execute(&format!("GRANT DELETE ON account TO {role}"))
        .unwrap();
    database.migrate();
    let mut client = connect(&database.config).unwrap();
    for sql in [
        "DELETE FROM account",
        "TRUNCATE account",
        "ALTER TABLE account DROP COLUMN token",
        "UPDATE transfer SET reason = 'no'",
        "DELETE FROM account_creation",
        "UPDATE account_creation SET iban = NULL",
        "INSERT INTO migration (version) VALUES (99)",
        "DROP TABLE transfer",
        "CREATE TABLE other (id integer)",
        "CREATE ROLE other",
    ] {
        let err = client.batch_execute(sql).unwrap_err();
        assert_eq!(err.code(), Some(&postgres::error::SqlState::INSUFFICIENT_PRIVILEGE), "{sql}");
    }
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn newer_database_version_is_rejected() {
    let database = Database::new();
    connect(&database.owner)
        .unwrap()
        .batch_execute("INSERT INTO migration (version) VALUES (99)")
        .unwrap();
    let err = migrate(&database.config, &Shutdown::default()).unwrap_err();
    assert!(!err.is_retryable() && err.to_string().contains("version 99"), "{err}");
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn replayed_batch_returns_the_stored_outcomes() {
    let database = Database::new();
    let [a, b] = database.accounts(2, 1000).try_into().unwrap();
    let mut session = database.session(CONFIRM_MONEY_TRANSFER);
    let mut batch = vec![
        order(600, &a.iban, &a.token, &b.iban),
        order(51_000, &a.iban, &a.token, &b.iban),
        order(7, &b.iban, &b.token, "Albert Heijn BV"),
        order(5, COMPANY_IBAN, COMPANY_TOKEN, &a.iban),
    ];
    // The batch has one id twice, with different amounts. The first command decides.
    batch.push(ConfirmMoneyTransfer { amount: Cents::new(1), ..batch[0].clone() });
    let first = session.transfer(batch.clone(), &Positions::default()).unwrap();
    assert_eq!(first[0], first[4]);
    assert!(first.iter().all(|outcome| outcome.decided_at.is_some()));
    assert_eq!(first[1].result, Err(Cow::Borrowed("insufficient funds")));
    let moved = first[0].result.as_ref().unwrap();
    assert_eq!(moved.changes.from, Some(Change { balance: Cents::new(400), sequence: 2 }));
    assert_eq!(moved.changes.to, Some(Change { balance: Cents::new(1600), sequence: 2 }));
    let sum = database.sum();
    assert_eq!(sum, COMPANY_CENTS + 2000 - 7);
    assert_eq!(session.transfer(batch.clone(), &Positions::default()).unwrap(), first);
    batch.reverse();
    let mut reversed = session.transfer(batch.clone(), &Positions::default()).unwrap();
    reversed.reverse();
    assert_eq!(reversed, first);
    assert_eq!(database.sum(), sum);
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn replayed_creation_returns_the_same_account() {
    let database = Database::new();
    let mut session = database.session(CONFIRM_ACCOUNT_CREATION);
    let batch = [open(Uuid::new_v4()), open(Uuid::new_v4())];
    let first = session.open_accounts(&batch, &Positions::default()).unwrap();
    assert!(first.iter().all(|outcome| outcome.result.is_ok()));
    assert_eq!(session.open_accounts(&batch, &Positions::default()).unwrap(), first);
    let more = [batch[1].clone(), open(Uuid::new_v4()), batch[0].clone()];
    let outcomes = session.open_accounts(&more, &Positions::default()).unwrap();
    assert_eq!((&outcomes[0], &outcomes[2]), (&first[1], &first[0]));
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn command_at_two_handlers_has_one_outcome() {
    let database = Database::new();
    let [a, b] = database.accounts(2, 100_000).try_into().unwrap();
    for _ in 0..50 {
        let command = order(10, &a.iban, &a.token, &b.iban);
        let outcomes: Vec<TransferOutcome> = thread::scope(|scope| {
            let handler = |command: ConfirmMoneyTransfer| {
                let mut session = database.session(CONFIRM_MONEY_TRANSFER);
                move || loop {
                    match session.transfer(vec![command.clone()], &Positions::default()) {
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
        .transfer(vec![order(1, &b.iban, &b.token, CASH)], &Positions::default())
        .unwrap()
        .remove(0)
        .result
        .unwrap();
    assert_eq!(last.changes.from, Some(Change { balance: Cents::new(100_499), sequence: 52 }));
}

/// Also what changes no sequence: the token and the limit.
#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn decision_follows_the_row_not_the_cache() {
    let database = Database::new();
    let [a, b] = database.accounts(2, 1000).try_into().unwrap();
    let mut owner = connect(&database.owner).unwrap();
    let mut session = database.session(CONFIRM_MONEY_TRANSFER);
    let transfer = |session: &mut Session, amount| {
        let command = order(amount, &a.iban, &a.token, &b.iban);
        let outcome = session.transfer(vec![command], &Positions::default()).unwrap().remove(0);
        outcome.result.map(|moved| moved.changes.from.unwrap().balance.get())
    };
    let mut after = |sql: &str, amount| {
        // The session reads the account, and then the row changes.
        session.cache = AccountCache::default();
        transfer(&mut session, 1).unwrap();
        let before = session.cache.get(&a.iban);
        assert!(before.is_some() && session.cache.begin_batch());
        owner.batch_execute(sql).unwrap();
        let outcome = transfer(&mut session, amount);
        assert_ne!(session.cache.get(&a.iban), before);
        assert!(!session.cache.begin_batch(), "the difference was not noticed");
        outcome
    };
    let insufficient = Err(Cow::Borrowed("insufficient funds"));
    let spent = "UPDATE account SET balance = balance - 900, sequence = sequence + 1";
    assert_eq!(after(spent, 98), Ok(1));
    assert_eq!(after(spent, 49_101), insufficient);
    let received = "UPDATE account SET balance = balance + 900, sequence = sequence + 1";
    assert_eq!(after(received, 49_500), Ok(-49_501));
    assert_eq!(after("UPDATE account SET balance = 5, sequence = 9", 50_006), insufficient);
    assert_eq!(after("UPDATE account SET overdraft_limit = -60000", 60_000), Ok(-59_996));
    assert_eq!(
        after("UPDATE account SET balance = 5, overdraft_limit = -50000", 50_006),
        insufficient
    );
    let invalid = Err(Cow::Borrowed("invalid token"));
    assert_eq!(after("UPDATE account SET token = '99999999999999999999'", 1), invalid);
}

/// Two sessions share their accounts, and each relies on its cache. The changes of each account are
/// a chain without gaps, and the outcomes are those of the stored rows.
#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn sessions_with_shared_accounts_lose_no_change() {
    const BATCHES: usize = 60;
    let database = Database::new();
    let accounts = database.accounts(4, 20_000);
    let outcomes: Vec<TransferOutcome> = thread::scope(|scope| {
        let handler = |seed: usize| {
            let (mut session, accounts) = (database.session(CONFIRM_MONEY_TRANSFER), &accounts);
            move || {
                let mut outcomes = Vec::new();
                for batch in 0..BATCHES {
                    let command = |number: usize| {
                        let step = seed + 7 * batch + number;
                        let (from, to) =
                            (&accounts[step % 4], &accounts[(step + 1 + step / 4) % 4]);
                        order((step % 5_000) as i64, &from.iban, &from.token, &to.iban)
                    };
                    let commands = (0..1 + batch % 9).map(command).collect();
                    // As the handler does: a batch with an error is decided again.
                    session.cache.record_success();
                    outcomes.extend(session.transfer(commands, &Positions::default()).unwrap());
                }
                outcomes
            }
        };
        let handlers = [0, 1].map(|seed| scope.spawn(handler(seed)));
        handlers.into_iter().flat_map(|handler| handler.join().unwrap()).collect()
    });
    let mut changes: BTreeMap<(&str, i64), (i64, i64)> = BTreeMap::new();
    for moved in outcomes.iter().filter_map(|outcome| outcome.result.as_ref().ok()) {
        let sides = [(&moved.from, moved.changes.from, -1), (&moved.to, moved.changes.to, 1)];
        for (iban, change, sign) in sides {
            let Change { balance, sequence } = change.unwrap();
            let change = (sign * moved.amount.get(), balance.get());
            assert_eq!(changes.insert((iban, sequence), change), None, "a sequence twice");
        }
    }
    for account in &accounts {
        let mut balance = 20_000;
        let of_account =
            changes.range((account.iban.as_str(), 0)..=(account.iban.as_str(), i64::MAX));
        for (next, ((_, sequence), (changed_by, new_balance))) in (2..).zip(of_account) {
            balance += changed_by;
            assert_eq!((*sequence, *new_balance), (next, balance));
        }
        let sql = "SELECT balance FROM account WHERE iban = $1";
        let row = connect(&database.owner).unwrap().query_one(sql, &[&account.iban]).unwrap();
        assert_eq!(row.get::<_, i64>(0), balance);
    }
    assert!(changes.len() > BATCHES);
    assert_eq!(database.sum(), COMPANY_CENTS + 4 * 20_000);
}

/// Otherwise a later change of an account could have an earlier time.
#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn time_is_read_after_the_accounts_are_locked() {
    let database = Database::new();
    let [account] = database.accounts(1, 100).try_into().unwrap();
    let command = order(1, &account.iban, &account.token, CASH);
    let mut session = database.session(CONFIRM_MONEY_TRANSFER);
    let [mut other, mut watcher] = [(); 2].map(|()| connect(&database.owner).unwrap());
    let mut lock = other.transaction().unwrap();
    lock.execute("SELECT FROM account WHERE iban = $1 FOR UPDATE", &[&account.iban]).unwrap();
    thread::scope(|scope| {
        let decided = scope.spawn(|| session.transfer(vec![command], &Positions::default()));
        let waiting = "SELECT FROM pg_stat_activity
                       WHERE wait_event_type = 'Lock' AND datname = current_database()";
        let deadline = Instant::now() + Duration::from_secs(10);
        while watcher.query_opt(waiting, &[]).unwrap().is_none() {
            assert!(Instant::now() < deadline, "the transfer waits for no lock");
            thread::sleep(Duration::from_millis(5));
        }
        let sql = "SELECT clock_timestamp()";
        let locked_until: SystemTime = watcher.query_one(sql, &[]).unwrap().get(0);
        lock.rollback().unwrap();
        let outcomes = decided.join().unwrap().unwrap();
        assert!(outcomes[0].decided_at.unwrap() >= locked_until.into());
    });
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn configured_company_token_replaces_the_stored_one() {
    const OWN: &str = "31415926535897932384";
    const NEXT: &str = "27182818284590452353";
    let database = Database::new();
    let [a] = database.accounts(1, 100).try_into().unwrap();
    let set = |token: Option<&str>| {
        let token = token.map(|text| text.parse().unwrap());
        set_company_token(&database.config, token, &Shutdown::default()).unwrap()
    };
    let mut session = database.session(CONFIRM_MONEY_TRANSFER);
    let mut refusals = |tokens: [&str; 3]| {
        let commands = tokens.map(|token| order(1, COMPANY_IBAN, token, &a.iban));
        let outcomes = session.transfer(commands.to_vec(), &Positions::default()).unwrap();
        outcomes.into_iter().map(|outcome| outcome.result.err()).collect::<Vec<_>>()
    };
    let invalid = || Some(Cow::Borrowed("invalid token"));
    assert_eq!(set(None), CompanyToken::WellKnown);
    assert_eq!(refusals([COMPANY_TOKEN, OWN, NEXT]), [None, invalid(), invalid()]);
    assert_eq!(set(Some(OWN)), CompanyToken::Own);
    assert_eq!(refusals([COMPANY_TOKEN, OWN, NEXT]), [invalid(), None, invalid()]);
    // An unset variable keeps the token.
    assert_eq!(set(None), CompanyToken::Own);
    assert_eq!(set(Some(NEXT)), CompanyToken::Own);
    assert_eq!(refusals([COMPANY_TOKEN, OWN, NEXT]), [invalid(), invalid(), None]);
    // The token of the talk is stored only if it is configured.
    assert_eq!(set(Some(COMPANY_TOKEN)), CompanyToken::WellKnown);
    assert_eq!(refusals([COMPANY_TOKEN, OWN, NEXT]), [None, invalid(), invalid()]);
    assert_eq!(database.sum(), COMPANY_CENTS + 100);
    // No other account has another token.
    let [paid] = session
        .transfer(vec![order(1, &a.iban, &a.token, CASH)], &Positions::default())
        .unwrap()
        .try_into()
        .unwrap();
    assert!(paid.result.is_ok(), "{paid:?}");
}

/// The partitions of `session`, after it has claimed or released some.
fn take_share(session: &mut Session) -> Vec<i32> {
    session.owning(|ownership, client| ownership.take_share(client)).unwrap();
    owned(session)
}

fn owned(session: &mut Session) -> Vec<i32> {
    session.owning(|ownership, _| Ok(ownership.owned().keys().copied().collect())).unwrap()
}

fn share_has_changed(session: &mut Session) -> Result<bool, Error> {
    session.owning(|ownership, client| ownership.share_has_changed(client))
}

/// Ends the lease of all workers, as if they had not renewed it in time.
fn end_leases(database: &Database) {
    let sql = "UPDATE worker SET lease_until = clock_timestamp()";
    connect(&database.owner).unwrap().batch_execute(sql).unwrap();
}

/// Lets the session read its partitions from offset 0.
fn begin(session: &mut Session) {
    let starts: BTreeMap<i32, i64> = owned(session).into_iter().map(|it| (it, 0)).collect();
    session.owning(|ownership, client| ownership.begin(client, &starts, None)).unwrap();
}

fn positions(next: i64, resume: i64) -> Positions {
    Positions { next: BTreeMap::from([(4, next)]), resume: BTreeMap::from([(4, resume)]) }
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn partitions_are_shared_and_taken_over() {
    let database = Database::new();
    let mut first = database.session(CONFIRM_MONEY_TRANSFER);
    assert_eq!(take_share(&mut first).len(), 9);
    let mut second = database.session(CONFIRM_MONEY_TRANSFER);
    assert!(take_share(&mut second).is_empty(), "no partition is free");
    assert!(share_has_changed(&mut first).unwrap(), "it owns more than its share");
    assert_eq!(take_share(&mut first), [0, 1, 2, 3, 4]);
    assert!(share_has_changed(&mut second).unwrap(), "it has claimed the others");
    assert_eq!(owned(&mut second), [5, 6, 7, 8]);
    assert!(!share_has_changed(&mut first).unwrap());
    // Each topic has its own workers.
    let mut accounts = database.session(CONFIRM_ACCOUNT_CREATION);
    assert_eq!(take_share(&mut accounts), [0]);
    // A worker that leaves gives its partitions back at once.
    first.owning(|ownership, client| ownership.leave(client)).unwrap();
    assert!(share_has_changed(&mut second).unwrap());
    assert_eq!(owned(&mut second).len(), 9);
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn worker_without_a_lease_is_fenced() {
    let database = Database::new();
    let [a] = database.accounts(1, 1000).try_into().unwrap();
    let mut dead = database.session(CONFIRM_MONEY_TRANSFER);
    assert_eq!(take_share(&mut dead).len(), 9);
    begin(&mut dead);
    let pay = || vec![order(1, &a.iban, &a.token, CASH)];
    dead.transfer(pay(), &positions(10, 0)).unwrap();
    end_leases(&database);
    // Without another worker it continues.
    dead.transfer(pay(), &positions(20, 10)).unwrap();
    let mut next = database.session(CONFIRM_MONEY_TRANSFER);
    assert_eq!(take_share(&mut next).len(), 9);
    let sum = database.sum();
    let err = dead.transfer(pay(), &positions(30, 20)).unwrap_err();
    assert!(matches!(err, Error::Database(database::Error::Fenced)), "{err}");
    let err = dead.store_positions(&positions(30, 30)).unwrap_err();
    assert!(matches!(err, Error::Database(database::Error::Fenced)), "{err}");
    let err = share_has_changed(&mut dead).unwrap_err();
    assert!(matches!(err, Error::Database(database::Error::Fenced)), "{err}");
    assert_eq!(database.sum(), sum);
    let progress = next.owning(|ownership, _| Ok(ownership.owned()[&4].progress)).unwrap();
    assert_eq!(progress, Progress::Stored { next: 20, resume: 10 });
}

/// Each lease was set by a clock that has gone back by an hour since then.
#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn lease_ends_after_the_clock_goes_back() {
    let database = Database::new();
    let mut dead = database.session(CONFIRM_MONEY_TRANSFER);
    assert_eq!(take_share(&mut dead).len(), 9);
    let sql = "UPDATE worker SET lease_until = lease_until + interval '1 hour'";
    connect(&database.owner).unwrap().batch_execute(sql).unwrap();
    let mut next = database.session(CONFIRM_MONEY_TRANSFER);
    assert_eq!(take_share(&mut next).len(), 9, "neither partitions nor a share for the dead one");
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn transaction_keeps_its_partitions_until_its_end() {
    let database = Database::new();
    let mut slow = database.session(CONFIRM_MONEY_TRANSFER);
    take_share(&mut slow);
    begin(&mut slow);
    let transaction =
        super::begin(&mut slow.client, &mut slow.ownership, &positions(10, 0)).unwrap();
    end_leases(&database);
    let mut other = database.session(CONFIRM_MONEY_TRANSFER);
    assert_eq!(take_share(&mut other), [0, 1, 2, 3, 5, 6, 7, 8]);
    transaction.commit().unwrap();
    end_leases(&database);
    assert!(share_has_changed(&mut other).unwrap());
    assert_eq!(owned(&mut other).len(), 9);
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn reconnected_worker_waits_for_no_lease() {
    let database = Database::new();
    let open = |worker| {
        let mut session = Session::open(&database.config, &Shutdown::default()).unwrap();
        session.join("t", worker, 3).unwrap();
        session
    };
    let worker = Uuid::new_v4();
    assert_eq!(take_share(&mut open(worker)), [0, 1, 2]);
    assert_eq!(take_share(&mut open(Uuid::new_v4())), [0; 0]);
    // Of the two workers it gets its share at once.
    assert_eq!(take_share(&mut open(worker)), [0, 1]);
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn replayed_positions_never_go_back() {
    let database = Database::new();
    let mut session = database.session(CONFIRM_MONEY_TRANSFER);
    take_share(&mut session);
    begin(&mut session);
    session.store_positions(&positions(30, 20)).unwrap();
    session.store_positions(&positions(25, 10)).unwrap();
    let row = connect(&database.config)
        .unwrap()
        .query_one(
            "SELECT next_offset, resume_offset FROM topic_partition
             WHERE topic = 'confirm_money_transfer' AND partition = 4",
            &[],
        )
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (30, 20));
}

/// The first try of the second batch is rolled back, since another session has changed an account.
#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn repeated_batch_stores_its_positions() {
    let database = Database::new();
    let [a] = database.accounts(1, 1000).try_into().unwrap();
    let mut session = database.session(CONFIRM_MONEY_TRANSFER);
    take_share(&mut session);
    begin(&mut session);
    let command = || vec![order(1, &a.iban, &a.token, CASH)];
    let next = BTreeMap::from([(3, 10), (4, 10)]);
    session.transfer(command(), &Positions { next, resume: BTreeMap::new() }).unwrap();
    let mut other = Session::open(&database.config, &Shutdown::default()).unwrap();
    other.transfer(command(), &Positions::default()).unwrap();
    let resume = BTreeMap::from([(3, 5), (4, 7)]);
    session.transfer(command(), &Positions { resume, ..positions(20, 0) }).unwrap();
    assert!(!session.cache.begin_batch(), "the batch was not repeated");
    let sql = "SELECT next_offset, resume_offset FROM topic_partition
               WHERE topic = $1 AND partition IN (3, 4) ORDER BY partition";
    let topic = CONFIRM_MONEY_TRANSFER.name;
    let rows = connect(&database.owner).unwrap().query(sql, &[&topic]).unwrap();
    let stored: Vec<(i64, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(stored, [(10, 5), (20, 7)]);
}

/// The commands of a batch with this number: they change the first account and thirty others.
fn busy_batch(accounts: &[OpenedAccount], number: i64) -> Vec<ConfirmMoneyTransfer> {
    let others = accounts.iter().cycle().skip(number as usize * 30 % 200).take(30);
    let changed = accounts[..1].iter().chain(others);
    changed.map(|account| order(1, CASH, "", &account.iban)).collect()
}

/// Without visits by index, PostgreSQL would remove no versions, and half of all updates would move
/// to new pages.
#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn busy_accounts_stay_on_their_pages() {
    let database = Database::new();
    let accounts = database.accounts(200, 1);
    let mut session = database.session(CONFIRM_MONEY_TRANSFER);
    take_share(&mut session);
    begin(&mut session);
    for next in 1..=1_000 {
        session.transfer(busy_batch(&accounts, next), &positions(next, next)).unwrap();
    }
    let row = session.client.query_one("SELECT pg_relation_size('account')", &[]).unwrap();
    let size: i64 = row.get(0);
    assert!(size < 500_000, "{size} bytes for 200 accounts");
}

/// An old snapshot, as of a backup, keeps all versions of a row. A batch that visited all versions
/// of a busy account or of its positions would read more with each batch. The other accounts fill
/// the pages, so that most versions are on other pages than the ones before.
#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn old_snapshot_does_not_slow_batches() {
    let database = Database::new();
    let accounts = database.accounts(200, 1);
    let mut session = database.session(CONFIRM_MONEY_TRANSFER);
    take_share(&mut session);
    begin(&mut session);
    let mut reader = connect(&database.owner).unwrap();
    reader
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM account LIMIT 1")
        .unwrap();
    // The worker does so every few seconds.
    for _ in 0..2 {
        assert!(session.oldest_snapshot().unwrap().is_some());
    }
    let mut next = 0;
    // Pages of both tables that this number of batches reads.
    let mut pages = |batches: i64| {
        let read = |session: &mut Session| {
            let sql = "SELECT sum(heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit)
                       ::bigint FROM pg_statio_user_tables
                       WHERE relname IN ('account', 'topic_partition')";
            session.client.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
            let row = session.client.query_one(sql, &[]).unwrap();
            row.get::<_, i64>(0)
        };
        let before = read(&mut session);
        for _ in 0..batches {
            next += 1;
            session.transfer(busy_batch(&accounts, next), &positions(next, next)).unwrap();
        }
        read(&mut session) - before
    };
    let first = pages(100);
    pages(1_000);
    let last = pages(100);
    assert!(last < 2 * first, "100 batches read {first} pages, and later {last}");
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn database_of_version_1_is_migrated() {
    let database = Database::new();
    database.drop_tables();
    let mut owner = connect(&database.owner).unwrap();
    let first = database::Schema { migrations: &SCHEMA.migrations[..1], rights: &[], ..SCHEMA };
    database::migrate_as_owner(&mut owner, &first, "").unwrap();
    let (old, new) = (Uuid::new_v4(), Uuid::new_v4());
    let sql = "INSERT INTO account VALUES ('NL12OPEN0123456789', '01234567890123456789', 7, 0, 1);
               INSERT INTO account_creation (id, a_type, iban)
               VALUES ($id, 'AUTO', 'NL12OPEN0123456789');
               INSERT INTO transfer (id, amount, from_party, to_party, description, to_balance,
                                     to_sequence)
               VALUES ($id, 7, 'cash', 'NL12OPEN0123456789', 'rent', 7, 1)";
    owner.batch_execute(&sql.replace("$id", &format!("'{old}'"))).unwrap();
    database.migrate();
    let mut session = database.session(CONFIRM_ACCOUNT_CREATION);
    assert_eq!(take_share(&mut session), [0]);
    let progress = session.owning(|ownership, _| Ok(ownership.owned()[&0].progress)).unwrap();
    assert_eq!(progress, Progress::New);
    let outcomes = session.open_accounts(&[open(old), open(new)], &Positions::default()).unwrap();
    let old_id = old;
    let [old, new] = [0, 1].map(|at| outcomes[at].result.clone().unwrap());
    assert_eq!(
        (old.iban.as_str(), old.token.as_str()),
        ("NL12OPEN0123456789", "01234567890123456789")
    );
    assert_ne!(new.iban, old.iban);
    let again = ConfirmMoneyTransfer { id: old_id, ..order(1, CASH, "", &old.iban) };
    let again = session.transfer(vec![again], &Positions::default()).unwrap().remove(0);
    assert_eq!((again.result.unwrap().amount, again.decided_at), (Cents::new(7), None));
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn restored_database_opens_the_same_accounts() {
    let database = Database::new();
    let commands = [open(Uuid::new_v4()), open(Uuid::new_v4())];
    let mut session = database.session(CONFIRM_ACCOUNT_CREATION);
    let before = session.open_accounts(&commands, &Positions::default()).unwrap();
    let tokens: BTreeSet<&str> =
        before.iter().map(|it| it.result.as_ref().unwrap().token.as_str()).collect();
    assert_eq!(tokens.len(), 2);
    // As after a restore of a backup from before these commands.
    connect(&database.owner)
        .unwrap()
        .batch_execute(
            "DELETE FROM account_creation; DELETE FROM account WHERE iban <> 'NL66OPEN0000000000';
             DELETE FROM account_iban WHERE iban <> 'NL66OPEN0000000000'",
        )
        .unwrap();
    assert_eq!(session.open_accounts(&commands, &Positions::default()).unwrap(), before);
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn constraints_reject_forbidden_rows() {
    let database = Database::new();
    let [a] = database.accounts(1, 1000).try_into().unwrap();
    let mut client = connect(&database.owner).unwrap();
    for (sql, constraint) in [
        ("UPDATE account SET balance = -50001 WHERE sequence = 1", "account_check"),
        ("UPDATE account SET sequence = -1", "account_sequence_check"),
        ("INSERT INTO account_iban SELECT iban FROM account", "account_iban_pkey"),
        ("INSERT INTO transfer (id) SELECT id FROM account_creation", "transfer_check1"),
        (
            "INSERT INTO transfer (id, reason, amount) SELECT id, 'no', 1 FROM account_creation",
            "transfer_check1",
        ),
        (
            "INSERT INTO account_creation (id, a_type, iban)
             VALUES (gen_random_uuid(), 'AUTO', 'NL00OPEN0000000000')",
            "account_creation_iban_fkey",
        ),
        (
            "INSERT INTO account_creation
             SELECT gen_random_uuid(), a_type, iban FROM account_creation",
            "account_creation_iban_key",
        ),
        ("DELETE FROM account_iban", "account_creation_iban_fkey"),
    ] {
        let err = client.batch_execute(sql).unwrap_err();
        let err = err.as_db_error().unwrap();
        assert_eq!(err.constraint(), Some(constraint), "{sql}: {err}");
    }
    assert_eq!(a.iban.len(), 18);
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn lost_session_is_retryable_and_writes_nothing() {
    let database = Database::new();
    let [a] = database.accounts(1, 1000).try_into().unwrap();
    let mut session = database.session(CONFIRM_MONEY_TRANSFER);
    take_share(&mut session);
    connect(&database.owner)
        .unwrap()
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE pid <> pg_backend_pid() AND datname = current_database()",
        )
        .unwrap();
    let err =
        session.transfer(vec![order(1, CASH, "", &a.iban)], &Positions::default()).unwrap_err();
    assert!(err.is_retryable(), "{err}");
    assert_eq!(database.sum(), COMPANY_CENTS + 1000);
}

/// An id with a random rest.
fn id_of_days_ago(days: u64) -> Uuid {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let time = now - Duration::from_secs(days * 24 * 60 * 60);
    let time = u64::try_from(time.as_millis()).unwrap();
    ids::derived(&Uuid::nil(), time, Uuid::new_v4().as_bytes())
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn outcomes_are_deleted_after_the_period() {
    let database = Database::new();
    let [account] = database.accounts(1, 1).try_into().unwrap();
    let no_time = ids::derived(&Uuid::nil(), 0, b"");
    let kept = [id_of_days_ago(0), id_of_days_ago(30), Uuid::nil(), Uuid::max(), no_time];
    // More than two slices.
    let old: Vec<Uuid> = (0..2_500).map(|_| id_of_days_ago(40)).collect();
    let mut session = database.session(CONFIRM_MONEY_TRANSFER);
    let transfers = |ids: &[Uuid]| -> Vec<_> {
        let deposit = |&id| ConfirmMoneyTransfer { id, ..order(1, CASH, "", &account.iban) };
        ids.iter().map(deposit).collect()
    };
    let first = session.transfer(transfers(&kept), &Positions::default()).unwrap();
    for ids in old.chunks(1_000) {
        session.transfer(transfers(ids), &Positions::default()).unwrap();
    }

    let mut client = connect(&database.config).unwrap();
    let mut delete = |days| {
        let shutdown = Shutdown::default();
        old_outcomes().delete(&mut client, Retention { days }, &shutdown).unwrap()
    };
    assert_eq!(delete(40), 0, "a clock may be a day behind");
    assert_eq!(delete(38), 2_500);
    assert_eq!(delete(38), 0);
    assert_eq!(session.transfer(transfers(&kept), &Positions::default()).unwrap(), first);
}
