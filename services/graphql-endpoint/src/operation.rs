//! Runs GraphQL operations for the transports: HTTP, server-sent events and websockets.

use crate::access::ReadAccess;
use crate::app::App;
use crate::budget::Budget;
use crate::document_rules::{self, Effect};
use crate::hub::Ending;
use crate::metrics;
use crate::running::RunningOperation;
use crate::schema::{Context, Mutation, Query, Schema, Subscription};
use juniper::http::{GraphQLRequest, GraphQLResponse};
use juniper::{
    ExecutionError, FieldError, GraphQLError, OperationType, ValidatedOperation, Value,
    ValuesStream,
};
use service::panic_guard::guarded;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{self, Poll, Waker};
use std::time::Duration;

/// The path of all transports.
pub const PATH: &str = "/graphql";

/// Interval of [`Step::Idle`] in a stream without transactions.
const IDLE: Duration = Duration::from_secs(1);

/// A step of an operation. A query or mutation emits one response, a subscription any number. Then
/// an end follows, unless the client has disconnected.
pub enum Step<'a> {
    Response(&'a GraphQLResponse),
    /// There is no response for now. The transport flushes its buffer. Repeated each second.
    Idle,
    /// The operation is invalid and does not run.
    Refused(&'a GraphQLError),
    Complete,
    /// The service ended the stream, not the client.
    CutOff(Ending),
}

/// The client closed the connection or cancelled the operation.
pub struct Disconnected;

/// Sends a step of an operation to the client.
pub type Emit<'a> = dyn FnMut(Step<'_>) -> Result<(), Disconnected> + 'a;

/// An operation that passed the validation of juniper and of [`document_rules`].
pub struct ValidOperation<'a> {
    operation: ValidatedOperation<'a, Query, Mutation, Subscription>,
    pub effect: Effect,
}

impl ValidOperation<'_> {
    pub fn operation_type(&self) -> OperationType {
        self.operation.operation_type()
    }
}

/// Runs operations.
pub struct Executor {
    pub schema: Schema,
    pub app: Arc<App>,
}

impl Executor {
    /// Parses and validates `request`. The error is for the client.
    pub fn parse<'a>(
        &'a self,
        request: &'a GraphQLRequest,
    ) -> Result<ValidOperation<'a>, GraphQLError> {
        let name = request.operation_name.as_deref();
        let operation = ValidatedOperation::new(&request.query, name, &self.schema)?;
        let effect = document_rules::check(&self.schema, request)?;
        Ok(ValidOperation { operation, effect })
    }

    /// Runs the result of [`Self::parse`] to its end, until `emit` fails, or until `running` is
    /// cancelled. A subscription blocks the caller's thread.
    pub fn run(
        &self,
        access: ReadAccess,
        running: &Arc<RunningOperation>,
        request: &GraphQLRequest,
        operation: Result<ValidOperation<'_>, GraphQLError>,
        emit: &mut Emit<'_>,
    ) -> Result<(), Disconnected> {
        let (app, running, budget) = (self.app.clone(), running.clone(), Budget::default());
        let context = Context { app, access, running, budget };
        match operation {
            Err(err) => {
                count("refused");
                emit(Step::Refused(&err))
            }
            Ok(operation) if operation.operation_type() == OperationType::Subscription => {
                count("subscription");
                subscribe(&operation, request, &context, emit)
            }
            Ok(operation) => execute(&operation, request, &context, emit),
        }
    }
}

fn count(kind: &str) {
    metrics::OPERATIONS.with_label_values(&[kind]).inc();
}

fn execute(
    operation: &ValidOperation<'_>,
    request: &GraphQLRequest,
    context: &Context,
    emit: &mut Emit<'_>,
) -> Result<(), Disconnected> {
    let is_mutation = operation.operation_type() == OperationType::Mutation;
    let result = guarded(|| operation.operation.execute_sync(&request.variables(), context));
    // An operation that would wait runs again on another thread and is counted there.
    if !context.running.would_wait() {
        count(if is_mutation { "mutation" } else { "query" });
    }
    match result {
        Some(Ok(done)) => emit(Step::Response(&GraphQLResponse::from_result(Ok(done))))?,
        Some(Err(err)) => return emit(Step::Refused(&err)),
        None => emit(Step::Response(&internal_error()))?,
    }
    emit(Step::Complete)
}

fn subscribe(
    operation: &ValidOperation<'_>,
    request: &GraphQLRequest,
    context: &Context,
    emit: &mut Emit<'_>,
) -> Result<(), Disconnected> {
    let variables = request.variables();
    let mut no_waker = task::Context::from_waker(Waker::noop());
    let opened = guarded(|| {
        let opening = pin!(operation.operation.resolve_into_stream(&variables, context));
        opening.poll(&mut no_waker)
    });
    // No resolver awaits, so the first poll returns the stream.
    let opened = match opened {
        Some(Poll::Ready(opened)) => opened,
        Some(Poll::Pending) | None => {
            emit(Step::Response(&internal_error()))?;
            return emit(Step::Complete);
        }
    };
    match opened.map(|(value, errors)| single_stream(value, errors)) {
        Ok(Ok((name, values))) => follow(&name, values, &context.running, emit),
        Ok(Err(response)) => {
            emit(Step::Response(&response))?;
            emit(Step::Complete)
        }
        Err(err) => emit(Step::Refused(&err)),
    }
}

/// The field name and the stream of a subscription, or an error response.
fn single_stream<'a>(
    value: Value<ValuesStream<'a>>,
    errors: Vec<ExecutionError<juniper::DefaultScalarValue>>,
) -> Result<(String, ValuesStream<'a>), GraphQLResponse> {
    if !errors.is_empty() {
        return Err(GraphQLResponse::from_result(Ok((Value::null(), errors))));
    }
    let error = |text: &str| Err(GraphQLResponse::error(FieldError::from(text)));
    let Value::Object(object) = value else { return error("the subscription has no field") };
    let mut fields = object.into_iter();
    match (fields.next(), fields.next()) {
        (Some((name, Value::Scalar(values))), None) => Ok((name.to_string(), values)),
        (Some(_), Some(_)) => error("a subscription must have exactly one field"),
        _ => error("the subscription has no stream"),
    }
}

/// Emits the values of a stream and blocks this thread between them.
fn follow(
    name: &str,
    mut values: ValuesStream<'_>,
    running: &RunningOperation,
    emit: &mut Emit<'_>,
) -> Result<(), Disconnected> {
    let mut no_waker = task::Context::from_waker(Waker::noop());
    loop {
        if running.is_cancelled() {
            return emit(Step::Complete);
        }
        match guarded(|| values.as_mut().poll_next(&mut no_waker)) {
            Some(Poll::Ready(Some(value))) => {
                let (value, errors) = match value {
                    Ok(value) => (value, Vec::new()),
                    Err(errors) => (Value::null(), errors),
                };
                let data = Value::object([(name, value)].into_iter().collect());
                emit(Step::Response(&GraphQLResponse::from_result(Ok((data, errors)))))?;
            }
            Some(Poll::Pending) => {
                emit(Step::Idle)?;
                running.wait(IDLE);
            }
            Some(Poll::Ready(None)) => {
                return emit(match running.ending() {
                    Ending::Cancelled => Step::Complete,
                    ending => Step::CutOff(ending),
                });
            }
            None => {
                emit(Step::Response(&internal_error()))?;
                return emit(Step::Complete);
            }
        }
    }
}

/// The response after a panic, which the guard has logged.
fn internal_error() -> GraphQLResponse {
    GraphQLResponse::error(FieldError::from("internal error"))
}
