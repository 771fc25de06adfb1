//! A pool of connections. Each connection has its own thread, so that a client waits for a database
//! that does not respond only for a limited time.

use super::connection::{READER_SETTINGS, connect, step};
use crate::error::Error;
use postgres::error::{DbError, Severity};
use postgres::types::ToSql;
use postgres::{Client, Row, Statement};
use service::database::Deadline;
use service::shutdown::Shutdown;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Maximum time that an operation waits for free connections.
const CONNECTION_WAIT: Duration = Duration::from_secs(5);
/// Maximum time that an operation waits for the results of its statements. It is longer than
/// `statement_timeout`, after which the server sends an error.
const RESULT_WAIT: Duration = Duration::from_secs(7);
/// Limit of a statement and its connection. The caller no longer waits then.
const CALL: Duration = Duration::from_secs(10);
/// Stack size of a connection's thread.
const STACK_BYTES: usize = 256 << 10;

/// A parameter of a statement.
pub type Parameter = Box<dyn ToSql + Send + Sync>;

/// How long an operation may still wait, in all its statements together. Otherwise an operation
/// with many statements could keep its thread for minutes.
#[derive(Debug)]
pub struct TimeLeft {
    connection: Duration,
    result: Duration,
}

impl Default for TimeLeft {
    fn default() -> Self {
        Self { connection: CONNECTION_WAIT, result: RESULT_WAIT }
    }
}

/// Runs statements in order of their arrival. Dropping it ends its threads.
pub struct Pool(Arc<Queue>);

impl Pool {
    /// Starts `connections` threads. Each opens its connection for its first statement.
    pub fn start(config: &postgres::Config, connections: usize, shutdown: &Shutdown) -> Self {
        let queue = Arc::<Queue>::default();
        for _ in 0..connections {
            let (calls, shutdown) = (queue.clone(), shutdown.clone());
            let mut connection = Connection { config: config.clone(), open: None };
            thread::Builder::new()
                .name("database".into())
                .stack_size(STACK_BYTES)
                .spawn(move || connection.run(&calls, &shutdown))
                .expect("threads can be started at startup");
        }
        Self(queue)
    }

    /// Runs a statement. If the server has closed the connection, runs it again on a new one.
    ///
    /// # Errors
    /// [`Error::Busy`] if no connection is free in time, or if no time is left,
    /// [`Error::Unresponsive`] if the server does not respond in time. In the latter case the
    /// statement may still be executed.
    pub fn query(
        &self,
        sql: String,
        parameters: Vec<Parameter>,
        left: &mut TimeLeft,
    ) -> Result<Vec<Row>, Error> {
        if left.connection.is_zero() || left.result.is_zero() {
            return Err(Error::Busy);
        }
        let call = Arc::new(Call { statement: (sql, parameters), ..Call::default() });
        self.0.push(call.clone());
        call.result(left)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.changed.notify_all();
    }
}

/// The statements that wait for a connection.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<Arc<Call>>,
    closed: bool,
}

impl Queue {
    fn push(&self, call: Arc<Call>) {
        self.state().waiting.push_back(call);
        self.changed.notify_one();
    }

    /// The next statement whose caller still waits. `None` once the pool is dropped.
    fn next(&self) -> Option<Arc<Call>> {
        let mut state = self.state();
        while !state.closed {
            match state.waiting.pop_front() {
                Some(call) if call.begin() => return Some(call),
                Some(_) => {}
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
        None
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A statement and its result.
#[derive(Default)]
struct Call {
    statement: (String, Vec<Parameter>),
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
enum Progress {
    #[default]
    Waiting,
    Running,
    Done(Result<Vec<Row>, Error>),
    /// The caller no longer waits.
    Abandoned,
}

impl Call {
    /// Waits for the result, first for a connection and then for the server.
    fn result(&self, left: &mut TimeLeft) -> Result<Vec<Row>, Error> {
        let is_waiting = |progress: &mut Progress| matches!(progress, Progress::Waiting);
        let is_running = |progress: &mut Progress| matches!(progress, Progress::Running);
        let mut progress = self.wait_while(self.progress(), &mut left.connection, is_waiting);
        if is_running(&mut progress) {
            progress = self.wait_while(progress, &mut left.result, is_running);
        }
        match mem::replace(&mut *progress, Progress::Abandoned) {
            Progress::Done(result) => result,
            Progress::Running => Err(Error::Unresponsive),
            Progress::Waiting | Progress::Abandoned => Err(Error::Busy),
        }
    }

    /// Waits for `left` at most, and takes the time from it.
    fn wait_while<'a>(
        &self,
        progress: MutexGuard<'a, Progress>,
        left: &mut Duration,
        condition: fn(&mut Progress) -> bool,
    ) -> MutexGuard<'a, Progress> {
        let started = Instant::now();
        let waited = self.changed.wait_timeout_while(progress, *left, condition);
        *left = left.saturating_sub(started.elapsed());
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// False if the caller no longer waits.
    fn begin(&self) -> bool {
        self.advance(Progress::Running)
    }

    fn end(&self, result: Result<Vec<Row>, Error>) {
        self.advance(Progress::Done(result));
    }

    fn advance(&self, next: Progress) -> bool {
        let mut progress = self.progress();
        if matches!(*progress, Progress::Abandoned) {
            return false;
        }
        *progress = next;
        self.changed.notify_one();
        true
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection, opened on demand.
struct Connection {
    config: postgres::Config,
    open: Option<PreparedConnection>,
}

impl Connection {
    fn run(&mut self, calls: &Queue, shutdown: &Shutdown) {
        while let Some(call) = calls.next() {
            let deadline = Deadline::start(CALL, Some(shutdown), "query for a client");
            let (sql, parameters) = &call.statement;
            let parameters: Vec<_> = parameters.iter().map(|it| &**it as _).collect();
            let result = self.query(sql, &parameters);
            drop(deadline);
            call.end(result);
        }
    }

    fn query(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        for last in [false, true] {
            let connection = match &mut self.open {
                Some(connection) if !connection.client.is_closed() => connection,
                lost => lost.insert(PreparedConnection::open(&self.config)?),
            };
            match connection.query(sql, parameters) {
                // The server has ended the idle session; the statement detects it.
                Err(err) if (connection.client.is_closed() || is_fatal(&err)) && !last => {
                    self.open = None;
                }
                result => {
                    // The server did not respond. The statement may be executed, so it is not
                    // repeated.
                    if matches!(&result, Err(err) if err.as_db_error().is_none()) {
                        self.open = None;
                    }
                    return result.map_err(step("query for a client"));
                }
            }
        }
        unreachable!("the last attempt returns")
    }
}

/// True if the server ends the session after this error.
fn is_fatal(err: &postgres::Error) -> bool {
    let severity = err.as_db_error().and_then(DbError::parsed_severity);
    matches!(severity, Some(Severity::Fatal | Severity::Panic))
}

/// A connection with its prepared statements. Without them, parsing and planning would take longer
/// than the queries.
struct PreparedConnection {
    client: Client,
    /// By SQL text.
    statements: HashMap<String, Statement>,
}

impl PreparedConnection {
    fn open(config: &postgres::Config) -> Result<Self, Error> {
        let client = connect(config, READER_SETTINGS)?;
        Ok(Self { client, statements: HashMap::new() })
    }

    fn query(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, postgres::Error> {
        let statement = match self.statements.get(sql) {
            Some(statement) => statement,
            None => {
                let statement = self.client.prepare(sql)?;
                self.statements.entry(sql.to_owned()).or_insert(statement)
            }
        };
        self.client.query(statement, parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Arc<Call> {
        Arc::default()
    }

    #[test]
    fn statements_run_in_order_of_arrival() {
        let queue = Queue::default();
        let calls = [call(), call(), call()];
        calls.iter().for_each(|call| queue.push(call.clone()));
        for call in &calls {
            assert!(Arc::ptr_eq(&queue.next().unwrap(), call));
        }
    }

    #[test]
    fn abandoned_statement_is_not_run() {
        let queue = Queue::default();
        let (abandoned, next) = (call(), call());
        queue.push(abandoned.clone());
        queue.push(next.clone());
        *abandoned.progress() = Progress::Abandoned;
        assert!(Arc::ptr_eq(&queue.next().unwrap(), &next));
        abandoned.end(Ok(Vec::new()));
        assert!(matches!(*abandoned.progress(), Progress::Abandoned));
    }

    #[test]
    fn result_ends_the_wait_for_a_statement() {
        let call = call();
        let caller = thread::spawn({
            let call = call.clone();
            move || call.result(&mut TimeLeft::default())
        });
        assert!(call.begin());
        call.end(Ok(Vec::new()));
        assert!(caller.join().unwrap().unwrap().is_empty());
    }

    #[test]
    fn statements_of_an_operation_share_its_time() {
        let shutdown = Shutdown::default();
        let pool = Pool::start(&postgres::Config::new(), 0, &shutdown);
        let mut left = TimeLeft { connection: Duration::from_millis(10), ..TimeLeft::default() };
        let mut query = || pool.query("SELECT 1".into(), Vec::new(), &mut left);
        assert!(matches!(query(), Err(Error::Busy)));
        assert!(matches!(query(), Err(Error::Busy)));
        // The second one has not even waited.
        assert_eq!(pool.0.state().waiting.len(), 1);
        assert!(left.connection.is_zero());
    }
}
