//! Parses GraphQL requests: JSON bodies and query strings. Source: GraphQL over HTTP
//! (graphql.github.io/graphql-over-http).

use juniper::InputValue;
use juniper::http::GraphQLRequest;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::HashMap;

/// The JSON body of a request.
#[derive(Deserialize)]
struct Body {
    query: String,
    #[serde(rename = "operationName", default)]
    operation_name: Option<String>,
    #[serde(default)]
    variables: Option<InputValue>,
    /// Not used, but it must be an object.
    #[serde(rename = "extensions", default)]
    _extensions: Option<HashMap<String, IgnoredAny>>,
}

/// Parses a JSON body. The error is a message for the client.
pub fn parse_body(json: &[u8]) -> Result<GraphQLRequest, String> {
    let expected = |err: serde_json::Error| {
        // The text of `err` could contain a part of the body, such as a password.
        let (line, column) = (err.line(), err.column());
        format!(
            "line {line}, column {column}: expected JSON as in {{\"query\": \"{{ __typename }}\"}}"
        )
    };
    let Body { query, operation_name, variables, .. } =
        serde_json::from_slice(json).map_err(expected)?;
    checked(query, operation_name, variables)
}

/// Parses a query string. The error is a message for the client.
pub fn parse_query(query: &str) -> Result<GraphQLRequest, String> {
    let mut pairs: HashMap<String, String> = HashMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        pairs.insert(decode(name)?, decode(value)?);
    }
    let variables = match pairs.remove("variables").filter(|text| !text.is_empty()) {
        Some(text) => Some(serde_json::from_str(&text).map_err(|_| "variables: expected JSON")?),
        None => None,
    };
    let query =
        pairs.remove("query").ok_or("expected the parameter query, as in ?query={__typename}")?;
    checked(query, pairs.remove("operationName").filter(|name| !name.is_empty()), variables)
}

fn checked(
    query: String,
    operation_name: Option<String>,
    variables: Option<InputValue>,
) -> Result<GraphQLRequest, String> {
    if !matches!(variables, None | Some(InputValue::Null | InputValue::Object(_))) {
        return Err("variables: expected an object".to_owned());
    }
    Ok(GraphQLRequest::new(query, operation_name, variables))
}

/// Decodes a name or value of a query string.
fn decode(part: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err(
                        "query string: expected two hexadecimal digits after each %".to_owned()
                    );
                };
                u8::try_from(high * 16 + low).unwrap_or_default()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| "the query string is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn body_is_an_object_with_a_query() {
        let parsed = parse_body(br#"{"query": "{ a }", "variables": null, "extensions": {}}"#);
        assert_eq!(parsed.unwrap().query, "{ a }");
        let named = br#"{"query": "q", "operationName": "b", "variables": {"c": [1]}}"#;
        let parsed = parse_body(named).unwrap();
        assert_eq!(parsed.operation_name.as_deref(), Some("b"));
        assert_eq!(parsed.variables().len(), 1);
        for wrong in ["", "{}", "[]", "null", r#"{"query": 1}"#, r#"[{"query": "{ a }"}]"#] {
            assert!(parse_body(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(parse_body(br#"{"query": "q", "variables": "c"}"#).is_err());
        assert!(parse_body(b"{\"query\": \"\xff\"}").is_err());
        let secret = parse_body(br#"{"query": "q", "variables": {"password": "hunter22" x"#);
        assert!(!secret.unwrap_err().contains("hunter22"));
    }

    #[test]
    fn query_string_is_decoded() {
        let target = "query=%7B+a%20%7D&operationName=&variables=%7B%22b%22%3A%22%E2%82%AC%22%7D";
        let parsed = parse_query(target).unwrap();
        assert_eq!((parsed.query.as_str(), parsed.operation_name), ("{ a }", None));
        assert!(format!("{:?}", parsed.variables).contains('€'));
        for wrong in
            ["", "q=1", "query=%", "query=%4", "query=%zz", "query=%ff", "query=a&variables=x"]
        {
            assert!(parse_query(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            text in ".*",
        ) {
            let _ = parse_body(&bytes);
            let _ = parse_query(&text);
        }

        #[test]
        fn encoded_text_is_decoded(text in ".*") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(decode(&encoded), Ok(text));
        }
    }
}
