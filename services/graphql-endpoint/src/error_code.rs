//! Errors for clients. Each has a code, which is `extensions.code` in the response.

use juniper::{FieldError, IntoFieldError, ScalarValue, Value};
use std::borrow::Cow;

/// What kind of error a client receives. The names are those of Apollo Server where it has the
/// code. docs/graphql.md lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// The document is not GraphQL.
    GraphqlParseFailed,
    /// The document does not fit the schema, or breaks a rule of the endpoint.
    GraphqlValidationFailed,
    /// The document has no operation of the requested name, or several and no name was sent.
    OperationResolutionFailure,
    /// The HTTP request is not one of GraphQL over HTTP, or the operation needs another one.
    BadRequest,
    /// An argument or a variable is invalid.
    BadUserInput,
    /// No token was sent, or it is unknown.
    Unauthenticated,
    /// The token does not allow reading this account.
    Forbidden,
    /// The operation exceeds a limit of the work or the memory of one operation.
    TooCostly,
    /// The endpoint has too much work, or this client has.
    Busy,
    /// The database does not respond.
    Unavailable,
    /// The stream ended: the client receives too slowly.
    TooSlow,
    /// The stream ended: transactions may have been missed.
    Interrupted,
    /// The stream ended: the endpoint stops.
    ShuttingDown,
    /// A fault of the endpoint.
    InternalServerError,
}

impl ErrorCode {
    pub const fn name(self) -> &'static str {
        match self {
            Self::GraphqlParseFailed => "GRAPHQL_PARSE_FAILED",
            Self::GraphqlValidationFailed => "GRAPHQL_VALIDATION_FAILED",
            Self::OperationResolutionFailure => "OPERATION_RESOLUTION_FAILURE",
            Self::BadRequest => "BAD_REQUEST",
            Self::BadUserInput => "BAD_USER_INPUT",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Forbidden => "FORBIDDEN",
            Self::TooCostly => "TOO_COSTLY",
            Self::Busy => "BUSY",
            Self::Unavailable => "UNAVAILABLE",
            Self::TooSlow => "TOO_SLOW",
            Self::Interrupted => "INTERRUPTED",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::InternalServerError => "INTERNAL_SERVER_ERROR",
        }
    }
}

/// An error for a client: a code for programs and a text for people. Resolvers return it instead of
/// `FieldError`, which could lack a code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientError {
    pub code: ErrorCode,
    pub text: Cow<'static, str>,
}

impl ClientError {
    pub fn new(code: ErrorCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into() }
    }

    /// After a panic, which the guard has logged.
    pub fn internal() -> Self {
        Self::new(ErrorCode::InternalServerError, "internal error")
    }
}

impl<S: ScalarValue> IntoFieldError<S> for ClientError {
    fn into_field_error(self) -> FieldError<S> {
        let code = Value::scalar(self.code.name().to_owned());
        FieldError::new(self.text, Value::object([("code", code)].into_iter().collect()))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const ALL: [ErrorCode; ErrorCode::InternalServerError as usize + 1] = [
        ErrorCode::GraphqlParseFailed,
        ErrorCode::GraphqlValidationFailed,
        ErrorCode::OperationResolutionFailure,
        ErrorCode::BadRequest,
        ErrorCode::BadUserInput,
        ErrorCode::Unauthenticated,
        ErrorCode::Forbidden,
        ErrorCode::TooCostly,
        ErrorCode::Busy,
        ErrorCode::Unavailable,
        ErrorCode::TooSlow,
        ErrorCode::Interrupted,
        ErrorCode::ShuttingDown,
        ErrorCode::InternalServerError,
    ];

    /// The codes in the first column of the table of docs/graphql.md below `heading`.
    pub fn documented(heading: &str) -> Vec<&'static str> {
        let docs = include_str!("../../../docs/graphql.md");
        let (_, section) = docs.split_once(&format!("\n{heading}\n")).unwrap();
        let section = section.split("\n#").next().unwrap();
        let code = |row: &'static str| row.strip_prefix("| `")?.split('`').next();
        section.lines().filter_map(code).collect()
    }

    #[test]
    fn docs_list_all_error_codes() {
        assert_eq!(documented("### Error codes"), ALL.map(ErrorCode::name));
    }
}
