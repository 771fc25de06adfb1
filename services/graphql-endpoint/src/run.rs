//! Runs an operation for one of the transports.

use crate::access::Viewer;
use crate::app::App;
use crate::hub::Ending;
use crate::metrics;
use crate::schema::{Context, Mutation, Query, Running, Subscription};
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

/// What an operation gives, in this order: answers (one for a query or mutation) between which time may pass, and then an end
/// unless the transport has hung up.
pub enum Step<'a> {
    /// An answer.
    Answer(&'a GraphQLResponse),
    /// No more for now: what was given should be on its way. Comes again while nothing does.
    Idle,
    /// There is no operation to run.
    Refused(&'a GraphQLError),
    /// All answers were given.
    Complete,
    /// No more answers come, though there might be.
    CutOff(Ending),
}

/// The visitor is gone.
pub struct Gone;

/// Time between two [`Step::Idle`] of a stream to which nothing comes.
const IDLE: Duration = Duration::from_secs(1);

/// A request that keeps to the schema.
pub type Operation<'a> = ValidatedOperation<'a, Query, Mutation, Subscription>;

/// Checks `request`.
///
/// # Errors
/// What is wrong with it.
pub fn parse<'a>(app: &'a App, request: &'a GraphQLRequest) -> Result<Operation<'a>, GraphQLError> {
    let name = request.operation_name.as_deref();
    ValidatedOperation::new(&request.query, name, &app.schema)
}

/// Runs what [`parse`] made of `request` to its end, or until `emit` says that the visitor is gone or `running` is cancelled.
/// A stream waits on the caller's thread.
pub fn run(
    app: &Arc<App>,
    viewer: Viewer,
    running: &Arc<Running>,
    request: &GraphQLRequest,
    operation: Result<Operation<'_>, GraphQLError>,
    emit: &mut dyn FnMut(Step<'_>) -> Result<(), Gone>,
) -> Result<(), Gone> {
    let context = Context { app: app.clone(), viewer, running: running.clone() };
    let operation = match operation {
        Ok(operation) => operation,
        Err(err) => {
            metrics::OPERATIONS.with_label_values(&["refused"]).inc();
            return emit(Step::Refused(&err));
        }
    };
    let variables = request.variables();
    match operation.operation_type() {
        OperationType::Subscription => {
            metrics::OPERATIONS.with_label_values(&["subscription"]).inc();
            let mut never = task::Context::from_waker(Waker::noop());
            let opened = guarded(|| {
                let opening = pin!(operation.resolve_into_stream(&variables, &context));
                opening.poll(&mut never)
            });
            // No resolver awaits anything, so the first poll gives the stream.
            let opened = match opened {
                Some(Poll::Ready(opened)) => opened,
                Some(Poll::Pending) | None => {
                    emit(Step::Answer(&fault()))?;
                    return emit(Step::Complete);
                }
            };
            match opened.map(|(value, errors)| stream(value, errors)) {
                Ok(Ok((name, values))) => follow(&name, values, running, emit),
                Ok(Err(answer)) => {
                    emit(Step::Answer(&answer))?;
                    emit(Step::Complete)
                }
                Err(err) => emit(Step::Refused(&err)),
            }
        }
        kind => {
            let name = if kind == OperationType::Mutation { "mutation" } else { "query" };
            metrics::OPERATIONS.with_label_values(&[name]).inc();
            match guarded(|| operation.execute_sync(&variables, &context)) {
                Some(Ok(done)) => emit(Step::Answer(&GraphQLResponse::from_result(Ok(done))))?,
                Some(Err(err)) => return emit(Step::Refused(&err)),
                None => emit(Step::Answer(&fault()))?,
            }
            emit(Step::Complete)
        }
    }
}

/// The one stream of a subscription with its name, or what to answer instead.
fn stream<'a>(
    value: Value<ValuesStream<'a>>,
    errors: Vec<ExecutionError<juniper::DefaultScalarValue>>,
) -> Result<(String, ValuesStream<'a>), GraphQLResponse> {
    if !errors.is_empty() {
        return Err(GraphQLResponse::from_result(Ok((Value::null(), errors))));
    }
    let says = |text: &str| Err(GraphQLResponse::error(FieldError::from(text)));
    let Value::Object(object) = value else { return says("the subscription has no field") };
    let mut fields = object.into_iter();
    match (fields.next(), fields.next()) {
        (Some((name, Value::Scalar(values))), None) => Ok((name.to_string(), values)),
        (Some(_), Some(_)) => says("a subscription has one field"),
        _ => says("the subscription has no stream"),
    }
}

/// Gives what comes on `values`, waiting on this thread.
fn follow(
    name: &str,
    mut values: ValuesStream<'_>,
    running: &Running,
    emit: &mut dyn FnMut(Step<'_>) -> Result<(), Gone>,
) -> Result<(), Gone> {
    let mut never = task::Context::from_waker(Waker::noop());
    loop {
        if running.is_cancelled() {
            return emit(Step::Complete);
        }
        match guarded(|| values.as_mut().poll_next(&mut never)) {
            Some(Poll::Ready(Some(value))) => {
                let (value, errors) = match value {
                    Ok(value) => (value, Vec::new()),
                    Err(errors) => (Value::null(), errors),
                };
                let data = Value::object([(name, value)].into_iter().collect());
                emit(Step::Answer(&GraphQLResponse::from_result(Ok((data, errors)))))?;
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
                emit(Step::Answer(&fault()))?;
                return emit(Step::Complete);
            }
        }
    }
}

fn fault() -> GraphQLResponse {
    GraphQLResponse::error(FieldError::from("a fault of the service, which is logged"))
}
