//! The result of an operation in JSON.

use crate::document_rules::InvalidOperation;
use crate::error_code::{ClientError, ErrorCode};
use juniper::{DefaultScalarValue, ExecutionError, Value};
use serde::Serialize;
use serde_json::Value as Json;

/// A response in the format of the GraphQL specification, section 7. Each of its errors has a code
/// in `extensions`.
#[derive(Serialize)]
pub struct OperationResponse {
    /// `None` if the operation did not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Json>,
}

impl OperationResponse {
    /// The result of an operation. Errors of resolvers have their code. The others, which juniper
    /// makes, are about arguments, such as null for a type that is not null.
    pub fn executed(data: Value, errors: &[ExecutionError<DefaultScalarValue>]) -> Self {
        Self { data: Some(data), errors: with_codes(&errors, ErrorCode::BadUserInput) }
    }

    /// An error that ended the operation.
    pub fn failed(err: &ClientError) -> Self {
        Self { data: Some(Value::null()), ..Self::not_run(err) }
    }

    /// An error because of which the operation did not run.
    pub fn not_run(err: &ClientError) -> Self {
        let error = serde_json::json!({ "message": err.text });
        Self { data: None, errors: with_codes(&error, err.code) }
    }

    pub fn invalid(operation: &InvalidOperation) -> Self {
        Self { data: None, errors: with_codes(&operation.error, operation.code) }
    }

    pub fn errors(&self) -> &[Json] {
        &self.errors
    }

    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("responses can be serialized")
    }
}

/// Converts an error or an array of errors. Those without a code get this one.
fn with_codes(errors: &impl Serialize, code: ErrorCode) -> Vec<Json> {
    let mut errors = match serde_json::to_value(errors).expect("errors can be serialized") {
        Json::Array(errors) => errors,
        error => vec![error],
    };
    for error in errors.iter_mut().filter(|it| it.get("extensions").is_none()) {
        error["extensions"] = serde_json::json!({ "code": code.name() });
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use juniper::{FieldError, IntoFieldError};

    fn codes(response: &OperationResponse) -> Vec<&str> {
        response.errors().iter().map(|it| it["extensions"]["code"].as_str().unwrap()).collect()
    }

    #[test]
    fn codes_of_resolvers_are_kept() {
        let coded = ClientError::new(ErrorCode::TooCostly, "too much").into_field_error();
        let errors = [coded, FieldError::from("not an Int")].map(ExecutionError::at_origin);
        let response = OperationResponse::executed(Value::null(), &errors);
        assert_eq!(codes(&response), ["TOO_COSTLY", "BAD_USER_INPUT"]);
        assert_eq!(response.errors()[0]["message"], "too much");
        assert!(response.json().starts_with(r#"{"data":null,"errors":[{"#));
    }

    #[test]
    fn response_without_errors_has_data_only() {
        let response = OperationResponse::executed(Value::scalar(1), &[]);
        assert_eq!(response.json(), r#"{"data":1}"#);
    }

    #[test]
    fn operation_that_did_not_run_has_no_data() {
        let error = ClientError::new(ErrorCode::Busy, "busy, try again");
        let expected = r#"{"errors":[{"extensions":{"code":"BUSY"},"message":"busy, try again"}]}"#;
        assert_eq!(OperationResponse::not_run(&error).json(), expected);
        assert!(OperationResponse::failed(&error).json().starts_with(r#"{"data":null,"errors":"#));
    }
}
