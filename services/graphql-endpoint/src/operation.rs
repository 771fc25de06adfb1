//! Runs GraphQL operations for the transports: HTTP, server-sent events and websockets.
//!
//! Queries run on a few threads, each of which can use a database connection. Operations that wait
//! for an outcome of the bank have more threads. A live subscription has none: it is a task.

use crate::access::ReadAccess;
use crate::app::App;
use crate::budget::Budget;
use crate::document_rules::{self, Effect, InvalidOperation};
use crate::error_code::{ClientError, ErrorCode};
use crate::hub::Ending;
use crate::metrics;
use crate::operation_response::OperationResponse;
use crate::pool::{Busy, Pool, PoolLimits, Tasks};
use crate::running::RunningOperation;
use crate::schema::{Context, Schema};
use juniper::http::GraphQLRequest;
use juniper::{ExecutionError, OperationType, Value, ValuesStream};
use service::http::Disconnected;
use service::panic_guard::guarded;
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::task::{self, Poll, Waker};
use std::thread;
use std::time::Duration;

/// The path of all transports.
pub const PATH: &str = "/graphql";

/// Threads that run queries; also the maximum of database connections for them.
pub const QUERY_THREADS: usize = 4;
/// Threads of operations that wait for an outcome of the bank.
const EFFECT_THREADS: usize = 24;
/// Maximum of operations that wait for a thread, for each kind of threads, and their size together.
const WAITING_MAX: usize = 4096;
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Memory of a waiting operation besides its request, bytes.
pub const OPERATION_BYTES: usize = 1 << 10;
/// Maximum time that an operation waits for a thread.
const WAIT: Duration = Duration::from_secs(5);
/// Values that a subscription sends before other subscriptions have their turn.
const VALUES_PER_TURN: usize = 64;

/// A step of an operation. A query or mutation emits one response, a subscription any number. Then
/// an end follows, unless the client has disconnected.
pub enum Step<'a> {
    Response(&'a OperationResponse),
    /// There is no response for now. The transport sends what it has buffered.
    Idle,
    /// The operation is invalid and does not run.
    Refused(&'a InvalidOperation),
    Complete,
    /// The service ended the stream, not the client.
    CutOff(Ending),
    NotRun(NotRun),
}

/// Why an operation does not run that may be valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotRun {
    /// There is too much work.
    Busy(Busy),
    /// The operation has an effect, but the transport is open to pages of all origins.
    PostRequired,
    /// The operation is a subscription, but the transport sends one response only.
    StreamRequired,
}

/// Sends the steps of one operation to its client.
pub trait Transport: Send {
    fn emit(&mut self, step: Step<'_>) -> Result<(), Disconnected>;

    /// Ready when the client has received most of what was emitted.
    fn poll_room(&mut self, _context: &task::Context<'_>) -> Poll<Result<(), Disconnected>> {
        Poll::Ready(Ok(()))
    }
}

/// An operation of a client, and how to answer it.
pub struct Operation {
    pub request: GraphQLRequest,
    /// Size of the request as it was sent.
    pub bytes: usize,
    pub access: ReadAccess,
    /// The client's address.
    pub address: IpAddr,
    /// False if any web page can let a browser send the operation.
    pub may_write: bool,
    /// False if the transport can send one response only.
    pub may_stream: bool,
    pub transport: Box<dyn Transport>,
    /// Shared with the transport, which can cancel the operation.
    pub running: Arc<RunningOperation>,
}

/// An operation that passed the validation of juniper and of [`document_rules`].
struct ValidOperation<'a> {
    operation: document_rules::Operation<'a>,
    effect: Effect,
}

/// Runs operations.
pub struct Executor {
    pub schema: Schema,
    pub app: Arc<App>,
    /// Threads for work that takes a database connection at most.
    pub queries: Arc<Pool>,
    /// Threads for operations that wait for an outcome.
    effects: Arc<Pool>,
    /// Threads for live subscriptions.
    streams: Arc<Tasks>,
}

impl Executor {
    /// Starts all threads.
    pub fn start(schema: Schema, app: Arc<App>) -> io::Result<Arc<Self>> {
        let (waiting, waiting_bytes, wait) = (WAITING_MAX, WAITING_BYTES_MAX, WAIT);
        let limits = |threads| PoolLimits { threads, waiting, waiting_bytes, wait };
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Ok(Arc::new(Self {
            schema,
            app,
            queries: Pool::start("query", limits(QUERY_THREADS))?,
            effects: Pool::start("effect", limits(EFFECT_THREADS))?,
            streams: Tasks::start("stream", cores.clamp(2, 8))?,
        }))
    }

    /// Runs an operation to its end, or passes it to other threads. Call it on a thread of
    /// [`Self::queries`].
    pub fn run(self: &Arc<Self>, mut operation: Operation) -> Result<(), Disconnected> {
        let Operation {
            request, access, address, may_write, may_stream, transport, running, ..
        } = &mut operation;
        let parsed = match self.parse(request) {
            Ok(parsed) => parsed,
            Err(err) => {
                count("refused");
                return transport.emit(Step::Refused(&err));
            }
        };
        let (kind, effect) = (parsed.operation.operation_type(), parsed.effect);
        // A GET request must not have a mutation, whatever it selects (GraphQL over HTTP).
        if !*may_write && (effect == Effect::Writes || kind == OperationType::Mutation) {
            return transport.emit(Step::NotRun(NotRun::PostRequired));
        }
        match kind {
            OperationType::Subscription if !*may_stream => {
                transport.emit(Step::NotRun(NotRun::StreamRequired))
            }
            OperationType::Subscription if effect == Effect::Reads => {
                drop(parsed);
                let executor = self.clone();
                self.streams.spawn(async move {
                    // An error means that the client closed the connection.
                    let _ = subscribe(&executor, operation).await;
                });
                Ok(())
            }
            OperationType::Subscription | OperationType::Mutation => {
                drop(parsed);
                self.run_apart(operation);
                Ok(())
            }
            OperationType::Query => {
                running.forbid_waiting();
                let context = self.context(access.clone(), *address, running);
                let result = execute(&parsed, request, &context);
                if running.would_wait() {
                    drop(parsed);
                    self.run_apart(operation);
                    return Ok(());
                }
                count("query");
                emit(result, &mut **transport)
            }
        }
    }

    /// Runs an operation on a thread that may wait for an outcome.
    fn run_apart(self: &Arc<Self>, mut operation: Operation) {
        let (executor, address) = (self.clone(), operation.address);
        let bytes = OPERATION_BYTES + operation.bytes;
        let job = move |admitted| {
            // An error means that the client closed the connection.
            let _ = match admitted {
                Ok(()) => executor.run_waiting(operation),
                Err(busy) => operation.transport.emit(Step::NotRun(NotRun::Busy(busy))),
            };
        };
        self.effects.submit(address, bytes, Box::new(job));
    }

    fn run_waiting(self: &Arc<Self>, operation: Operation) -> Result<(), Disconnected> {
        let Operation { request, access, address, running, mut transport, .. } = operation;
        running.allow_waiting();
        if running.is_cancelled() {
            return transport.emit(Step::Complete);
        }
        let parsed = match self.parse(&request) {
            Ok(parsed) => parsed,
            Err(err) => return transport.emit(Step::Refused(&err)),
        };
        let context = self.context(access, address, &running);
        match parsed.operation.operation_type() {
            OperationType::Subscription => {
                count("subscription");
                // No resolver of a subscription with an effect awaits anything.
                let stream = pin!(follow(&parsed, &request, &context, &mut *transport));
                match stream.poll(&mut task::Context::from_waker(Waker::noop())) {
                    Poll::Ready(result) => result,
                    Poll::Pending => Ok(()),
                }
            }
            kind => {
                count(if kind == OperationType::Query { "query" } else { "mutation" });
                emit(execute(&parsed, &request, &context), &mut *transport)
            }
        }
    }

    /// Parses and validates `request`. The error is for the client.
    fn parse<'a>(
        &'a self,
        request: &'a GraphQLRequest,
    ) -> Result<ValidOperation<'a>, InvalidOperation> {
        let (operation, effect) = document_rules::validate(&self.schema, request)?;
        Ok(ValidOperation { operation, effect })
    }

    fn context(
        &self,
        access: ReadAccess,
        address: IpAddr,
        running: &Arc<RunningOperation>,
    ) -> Context {
        let (app, queries) = (self.app.clone(), self.queries.clone());
        let (running, budget, store) = (running.clone(), Budget::default(), app.database.store());
        Context { app, queries, access, address, running, budget, store }
    }
}

fn count(kind: &str) {
    metrics::OPERATIONS.with_label_values(&[kind]).inc();
}

/// Executes a query or mutation. The error is about its variables. `None` after a panic.
fn execute(
    operation: &ValidOperation<'_>,
    request: &GraphQLRequest,
    context: &Context,
) -> Option<Result<OperationResponse, InvalidOperation>> {
    let result = guarded(|| operation.operation.execute_sync(&request.variables(), context))?;
    let response = |(data, errors): (_, Vec<_>)| OperationResponse::executed(data, &errors);
    Some(result.map(response).map_err(InvalidOperation::by_variables))
}

fn emit(
    result: Option<Result<OperationResponse, InvalidOperation>>,
    transport: &mut dyn Transport,
) -> Result<(), Disconnected> {
    match result {
        Some(Ok(response)) => transport.emit(Step::Response(&response))?,
        Some(Err(err)) => return transport.emit(Step::Refused(&err)),
        None => transport.emit(Step::Response(&internal_error()))?,
    }
    transport.emit(Step::Complete)
}

/// Runs a live subscription.
async fn subscribe(executor: &Executor, operation: Operation) -> Result<(), Disconnected> {
    let Operation { request, access, address, running, mut transport, .. } = operation;
    let parsed = match executor.parse(&request) {
        Ok(parsed) => parsed,
        Err(err) => return transport.emit(Step::Refused(&err)),
    };
    count("subscription");
    let context = executor.context(access, address, &running);
    follow(&parsed, &request, &context, &mut *transport).await
}

/// Opens the stream of a subscription and emits its values.
async fn follow(
    operation: &ValidOperation<'_>,
    request: &GraphQLRequest,
    context: &Context,
    transport: &mut dyn Transport,
) -> Result<(), Disconnected> {
    let variables = request.variables();
    let mut opening = pin!(operation.operation.resolve_into_stream(&variables, context));
    let opened = poll_fn(|task| match guarded(|| opening.as_mut().poll(task)) {
        Some(poll) => poll.map(Some),
        None => Poll::Ready(None),
    });
    let opened = match opened.await {
        Some(Ok((value, errors))) => single_stream(value, errors),
        Some(Err(err)) => {
            return transport.emit(Step::Refused(&InvalidOperation::by_variables(err)));
        }
        None => Err(internal_error()),
    };
    let (name, mut values) = match opened {
        Ok(stream) => stream,
        Err(response) => {
            transport.emit(Step::Response(&response))?;
            return transport.emit(Step::Complete);
        }
    };
    for number in 1.. {
        if number % VALUES_PER_TURN == 0 {
            yield_now().await;
        }
        // A client that receives nothing must not keep an ended stream.
        poll_fn(|task| match context.running.poll_end(task) {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => transport.poll_room(task),
        })
        .await?;
        let next = poll_fn(|task| {
            let poll = guarded(|| values.as_mut().poll_next(task));
            match poll {
                Some(Poll::Ready(value)) => Poll::Ready(Ok(Some(value))),
                Some(Poll::Pending) => match transport.emit(Step::Idle) {
                    Ok(()) => Poll::Pending,
                    Err(disconnected) => Poll::Ready(Err(disconnected)),
                },
                None => Poll::Ready(Ok(None)),
            }
        });
        let (value, errors) = match next.await? {
            Some(Some(Ok(value))) => (value, Vec::new()),
            Some(Some(Err(errors))) => (Value::null(), errors),
            Some(None) => {
                return transport.emit(match context.running.ending() {
                    Ending::Cancelled => Step::Complete,
                    ending => Step::CutOff(ending),
                });
            }
            None => {
                transport.emit(Step::Response(&internal_error()))?;
                return transport.emit(Step::Complete);
            }
        };
        let data = Value::object([(name.as_str(), value)].into_iter().collect());
        transport.emit(Step::Response(&OperationResponse::executed(data, &errors)))?;
    }
    Ok(())
}

/// Lets other tasks run first.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|task| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        task.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The field name and the stream of a subscription, or an error response.
fn single_stream<'a>(
    value: Value<ValuesStream<'a>>,
    errors: Vec<ExecutionError<juniper::DefaultScalarValue>>,
) -> Result<(String, ValuesStream<'a>), OperationResponse> {
    if !errors.is_empty() {
        return Err(OperationResponse::executed(Value::null(), &errors));
    }
    let error = |text| {
        let err = ClientError::new(ErrorCode::InternalServerError, text);
        Err(OperationResponse::failed(&err))
    };
    let Value::Object(object) = value else { return error("the subscription has no field") };
    let mut fields = object.into_iter();
    match (fields.next(), fields.next()) {
        (Some((name, Value::Scalar(values))), None) => Ok((name.to_string(), values)),
        (Some(_), Some(_)) => error("a subscription must have exactly one field"),
        _ => error("the subscription has no stream"),
    }
}

/// The response after a panic, which the guard has logged.
fn internal_error() -> OperationResponse {
    OperationResponse::failed(&ClientError::internal())
}
