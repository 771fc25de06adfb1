//! Parses documents and checks rules that juniper lacks. juniper panics on some of the refused
//! documents, executes others in part before it reports the error, and needs too much memory for
//! others. A document that breaks a rule is refused before execution.

use crate::error_code::ErrorCode;
use crate::schema::{Mutation, Query, Schema, Subscription};
use juniper::http::GraphQLRequest;
use juniper::parser::{ParseError, SourcePosition, Spanning, parse_document_source};
use juniper::{
    DefaultScalarValue, Definition, GraphQLError, InputValue, OperationType, RuleError, Selection,
    ValidatedOperation, Variables,
};
use service::panic_guard::guarded;
use std::collections::{HashMap, HashSet};

/// An operation that is valid for juniper.
pub type Operation<'a> = ValidatedOperation<'a, Query, Mutation, Subscription>;

/// An operation that does not run, and why.
#[derive(Debug)]
pub struct InvalidOperation {
    pub error: GraphQLError,
    pub code: ErrorCode,
}

impl InvalidOperation {
    /// For an error of the execution of a valid document: only its variables can be invalid.
    pub fn by_variables(error: GraphQLError) -> Self {
        let code = match error {
            GraphQLError::ValidationError(_) => ErrorCode::BadUserInput,
            GraphQLError::ParseError(_)
            | GraphQLError::NoOperationProvided
            | GraphQLError::MultipleOperationsProvided
            | GraphQLError::UnknownOperationName
            | GraphQLError::IsSubscription
            | GraphQLError::NotSubscription
            | GraphQLError::NotSupported(_) => ErrorCode::InternalServerError,
        };
        Self { error, code }
    }
}

impl From<GraphQLError> for InvalidOperation {
    fn from(error: GraphQLError) -> Self {
        let code = match &error {
            GraphQLError::ParseError(err) => code_of(&err.item),
            GraphQLError::ValidationError(_) => ErrorCode::GraphqlValidationFailed,
            GraphQLError::NoOperationProvided
            | GraphQLError::MultipleOperationsProvided
            | GraphQLError::UnknownOperationName => ErrorCode::OperationResolutionFailure,
            // The schema has all kinds of operations, and each is executed as its kind.
            GraphQLError::IsSubscription
            | GraphQLError::NotSubscription
            | GraphQLError::NotSupported(_) => ErrorCode::InternalServerError,
        };
        Self { error, code }
    }
}

impl From<Spanning<ParseError>> for InvalidOperation {
    fn from(error: Spanning<ParseError>) -> Self {
        GraphQLError::from(error).into()
    }
}

fn code_of(err: &ParseError) -> ErrorCode {
    match err {
        ParseError::UnexpectedToken(_)
        | ParseError::UnexpectedEndOfFile
        | ParseError::LexerError(_)
        | ParseError::ExpectedScalarError(_) => ErrorCode::GraphqlParseFailed,
        ParseError::DepthLimitExceeded(_)
        | ParseError::TokenLimitExceeded(_)
        | ParseError::FieldLimitExceeded(_) => ErrorCode::TooCostly,
    }
}

/// Parses and validates the operation that `request` selects, and checks these rules:
///
/// - No line of a block string begins with white space other than ASCII.
/// - A variable with a default value has a type of the schema.
/// - The condition of each `@skip` and `@include` is true or false, not null. It can be null by a
///   variable (GraphQL specification, section 3.13).
/// - A subscription selects exactly one field, without a condition, and not `__typename` (section
///   5.2.3.1).
/// - A mutation selects one field at most, apart from `__typename`. Each field is one command to
///   the bank or one login, which costs much more than the rest of an operation.
/// - A query selects an object once for each response name. juniper would merge both selections,
///   but its look-ahead, with which the budget counts, has the first only.
/// - Introspection has no aliases, and its lists are nested at most three deep, as in the query of
///   graphql-js. Otherwise a document within all limits selects millions of values.
///
/// A panic, for which no document is known, is an internal error.
///
/// # Errors
/// An error for the client, for the first violation of a rule.
pub fn validate<'a>(
    schema: &'a Schema,
    request: &'a GraphQLRequest,
) -> Result<(Operation<'a>, Effect), InvalidOperation> {
    let validated = guarded(|| {
        check_block_strings(&request.query)?;
        check_default_values(schema, &request.query)?;
        let name = request.operation_name.as_deref();
        let operation = ValidatedOperation::new(&request.query, name, schema)?;
        Ok((operation, check(schema, request)?))
    });
    validated.unwrap_or_else(|| {
        let start = SourcePosition::new_origin();
        Err(refusal(ErrorCode::InternalServerError, "internal error", start))
    })
}

/// juniper removes the common indentation of a block string, counted in bytes. It panics if that
/// ends within a character.
fn check_block_strings(query: &str) -> Result<(), InvalidOperation> {
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let is_ascii = |line: &str| line.as_bytes()[..indentation(line)].is_ascii();
    if !query.contains("\"\"\"") || query.lines().all(is_ascii) {
        return Ok(());
    }
    let text = "A line of a block string begins with white space other than ASCII.";
    Err(violation(text, SourcePosition::new_origin()))
}

/// juniper panics on a default value of a type that is not in the schema.
fn check_default_values(schema: &Schema, query: &str) -> Result<(), InvalidOperation> {
    if !query.contains('=') {
        return Ok(());
    }
    for definition in &parse_document_source::<DefaultScalarValue>(query, &schema.schema)? {
        let Definition::Operation(operation) = definition else { continue };
        let variables = operation.item.variables_definition.iter();
        for (_, variable) in variables.flat_map(|it| it.item.iter()) {
            let name = variable.var_type.item.innermost_name();
            let is_known = schema.schema.concrete_type_by_name(name).is_some();
            if variable.default_value.is_some() && !is_known {
                let text = format!("Unknown type \"{name}\"");
                return Err(violation(&text, variable.var_type.span.start));
            }
        }
    }
    Ok(())
}

/// True if `query` has a word that each document needs to which a rule of [`check`] applies. Most
/// documents have none.
fn may_break_a_rule(query: &str) -> bool {
    let count = |word| query.matches(word).count();
    ["@", "mutation", "subscription", "__schema"].iter().any(|word| query.contains(word))
        || count("__type") > count("__typename")
        // Lists of transactions and accounts.
        || count("transactions") > 1
        || count("account") > 1
}

/// Checks a document that is valid for juniper. Returns the effect of the selected operation.
fn check(schema: &Schema, request: &GraphQLRequest) -> Result<Effect, InvalidOperation> {
    if !may_break_a_rule(&request.query) {
        return Ok(Effect::Reads);
    }
    let document = parse_document_source(&request.query, &schema.schema)?;
    let mut fragments = HashMap::new();
    let mut operations = Vec::new();
    for definition in &document {
        match definition {
            Definition::Operation(operation) => operations.push(&operation.item),
            Definition::Fragment(fragment) => {
                fragments.insert(fragment.item.name.item, &fragment.item.selection_set[..]);
            }
        }
    }
    let name = request.operation_name.as_deref();
    let is_selected = |operation: &&&juniper::Operation<'_, _>| {
        name.is_none() || operation.name.as_ref().map(|it| it.item) == name
    };
    let Some(operation) = operations.iter().find(is_selected) else {
        return Err(GraphQLError::UnknownOperationName.into());
    };
    let mut variables = request.variables();
    for (name, definition) in operation.variables_definition.iter().flat_map(|it| it.item.iter()) {
        if let Some(default) = &definition.default_value {
            variables.entry(name.item.to_owned()).or_insert_with(|| default.item.clone());
        }
    }
    let mut rules = Rules { fragments, variables, visited: HashSet::new(), root_field: None };
    // With the feature, juniper panics. A test shows that this ends only one operation.
    if cfg!(not(feature = "failpoints")) {
        rules.check_conditions(&operation.selection_set)?;
    }
    match operation.operation_type {
        OperationType::Query => rules.check_query(&operation.selection_set)?,
        kind => rules.check_root(kind, &operation.selection_set)?,
    }
    Ok(match rules.root_field {
        None | Some(READING_SUBSCRIPTION) => Effect::Reads,
        Some(_) => Effect::Writes,
    })
}

/// The only subscription that is not a mutation with another name.
const READING_SUBSCRIPTION: &str = "stream_transactions";

/// Fields of the introspection types that are lists of objects.
const INTROSPECTION_LISTS: [&str; 8] = [
    "types",
    "directives",
    "fields",
    "args",
    "inputFields",
    "enumValues",
    "interfaces",
    "possibleTypes",
];
/// Maximum of such fields within each other: arguments of fields of types.
const NESTED_LISTS_MAX: usize = 3;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Reads,
    /// Opens an account or moves money.
    Writes,
}

struct Rules<'a, 'd> {
    fragments: HashMap<&'a str, &'d [Selection<'a>]>,
    /// With the defaults of the operation.
    variables: Variables,
    /// Names of the fragments whose conditions were checked.
    visited: HashSet<&'a str>,
    /// The field at the root of a mutation or subscription.
    root_field: Option<&'a str>,
}

impl<'a> Rules<'a, '_> {
    fn check_conditions(&mut self, selections: &[Selection<'a>]) -> Result<(), InvalidOperation> {
        for selection in selections {
            let (directives, inner) = match selection {
                Selection::Field(field) => {
                    (&field.item.directives, field.item.selection_set.as_deref())
                }
                Selection::InlineFragment(fragment) => {
                    (&fragment.item.directives, Some(&fragment.item.selection_set[..]))
                }
                Selection::FragmentSpread(spread) => {
                    let name = spread.item.name.item;
                    let is_new = self.visited.insert(name);
                    let inner = self.fragments.get(name).copied().filter(|_| is_new);
                    (&spread.item.directives, inner)
                }
            };
            for directive in directives.iter().flatten() {
                let arguments = directive.item.arguments.iter().flat_map(|it| &it.item.items);
                for (name, value) in arguments {
                    if name.item == "if" && !self.is_boolean(&value.item) {
                        let directive = directive.item.name.item;
                        let text =
                            format!(r#"Argument "if" of "@{directive}" is not true or false."#);
                        return Err(violation(&text, value.span.start));
                    }
                }
            }
            if let Some(inner) = inner {
                self.check_conditions(inner)?;
            }
        }
        Ok(())
    }

    fn is_boolean(&self, value: &InputValue) -> bool {
        let value = match value {
            InputValue::Variable(name) => self.variables.get(name),
            value => Some(value),
        };
        matches!(value, Some(InputValue::Scalar(DefaultScalarValue::Boolean(_))))
    }

    /// Checks the fields at the root of a query, also those in fragments.
    fn check_query(&self, selections: &[Selection<'a>]) -> Result<(), InvalidOperation> {
        let mut names = HashSet::new();
        for selection in selections {
            match selection {
                Selection::Field(field) => {
                    if field.item.selection_set.is_none() {
                        continue;
                    }
                    if matches!(field.item.name.item, "__schema" | "__type") {
                        self.check_introspection(std::slice::from_ref(selection), 0)?;
                    }
                    let name = field.item.alias.as_ref().unwrap_or(&field.item.name).item;
                    if !names.insert(name) {
                        let text = format!("The query selects \"{name}\" twice: use an alias.");
                        return Err(violation(&text, field.span.start));
                    }
                }
                Selection::InlineFragment(inline) => {
                    self.check_query(&inline.item.selection_set)?
                }
                Selection::FragmentSpread(spread) => {
                    self.check_query(self.fragment(spread.item.name.item))?;
                }
            }
        }
        Ok(())
    }

    /// Checks selections of introspection types within `lists` lists.
    fn check_introspection(
        &self,
        selections: &[Selection<'a>],
        lists: usize,
    ) -> Result<(), InvalidOperation> {
        for selection in selections {
            match selection {
                Selection::Field(field) => {
                    let is_list = INTROSPECTION_LISTS.contains(&field.item.name.item);
                    let lists = lists + usize::from(is_list);
                    if field.item.alias.is_some() {
                        let text = "Introspection has an alias.";
                        return Err(too_costly(text, field.span.start));
                    }
                    if lists > NESTED_LISTS_MAX {
                        let text = "Introspection has more than three lists within each other.";
                        return Err(too_costly(text, field.span.start));
                    }
                    self.check_introspection(
                        field.item.selection_set.as_deref().unwrap_or_default(),
                        lists,
                    )?;
                }
                Selection::InlineFragment(inline) => {
                    self.check_introspection(&inline.item.selection_set, lists)?;
                }
                Selection::FragmentSpread(spread) => {
                    self.check_introspection(self.fragment(spread.item.name.item), lists)?;
                }
            }
        }
        Ok(())
    }

    /// The selections of a fragment. A valid document has each fragment that it names.
    fn fragment(&self, name: &str) -> &[Selection<'a>] {
        self.fragments.get(name).copied().unwrap_or_default()
    }

    /// Checks the fields at the root of a mutation or subscription, also those in fragments.
    fn check_root(
        &mut self,
        kind: OperationType,
        selections: &[Selection<'a>],
    ) -> Result<(), InvalidOperation> {
        for selection in selections {
            let (directives, position) = match selection {
                Selection::Field(field) => (&field.item.directives, field.span.start),
                Selection::FragmentSpread(spread) => (&spread.item.directives, spread.span.start),
                Selection::InlineFragment(inline) => (&inline.item.directives, inline.span.start),
            };
            if kind == OperationType::Subscription && directives.is_some() {
                return Err(violation("A subscription has a directive at its root.", position));
            }
            match selection {
                Selection::Field(field) if field.item.name.item == "__typename" => {
                    if kind == OperationType::Subscription {
                        let text = "A subscription selects \"__typename\" at its root.";
                        return Err(violation(text, position));
                    }
                }
                Selection::Field(field) => {
                    if self.root_field.replace(field.item.name.item).is_some() {
                        let text = "A mutation or subscription selects more than one field.";
                        return Err(if kind == OperationType::Mutation {
                            too_costly(text, position)
                        } else {
                            violation(text, position)
                        });
                    }
                }
                Selection::InlineFragment(inline) => {
                    self.check_root(kind, &inline.item.selection_set)?;
                }
                Selection::FragmentSpread(spread) => {
                    if let Some(fragment) = self.fragments.get(spread.item.name.item).copied() {
                        self.check_root(kind, fragment)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn violation(text: &str, position: SourcePosition) -> InvalidOperation {
    refusal(ErrorCode::GraphqlValidationFailed, text, position)
}

fn too_costly(text: &str, position: SourcePosition) -> InvalidOperation {
    refusal(ErrorCode::TooCostly, text, position)
}

fn refusal(code: ErrorCode, text: &str, position: SourcePosition) -> InvalidOperation {
    let error = GraphQLError::ValidationError(vec![RuleError::new(text, &[position])]);
    InvalidOperation { error, code }
}

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::schema;

    /// Checks a document that is valid for juniper.
    fn refusal(query: &str, variables: &str) -> Option<String> {
        let schema = schema(true);
        let variables = serde_json::from_str(variables).unwrap();
        let request = GraphQLRequest::new(query.to_owned(), None, Some(variables));
        if let Err(err) = Operation::new(query, None, &schema) {
            panic!("{query} is not valid: {err}");
        }
        match check(&schema, &request) {
            Err(InvalidOperation { error: GraphQLError::ValidationError(errors), .. }) => {
                Some(errors[0].message().to_owned())
            }
            other => other.err().map(|err| panic!("{err:?}")),
        }
    }

    #[test]
    fn document_errors_have_their_codes() {
        const LOGIN: &str = r#"get_account(username: "name1234", password: "secret12") { iban }"#;
        let schema = schema(true);
        let code = |query: &str, name: Option<&str>| {
            let request = GraphQLRequest::new(query.to_owned(), name.map(str::to_owned), None);
            validate(&schema, &request).map(drop).err().map(|it| it.code)
        };
        let two = "query a { __typename } query b { __typename }";
        assert_eq!(code(two, Some("a")), None);
        for name in [None, Some("c")] {
            assert_eq!(code(two, name), Some(ErrorCode::OperationResolutionFailure), "{name:?}");
        }
        for (query, expected) in [
            ("{", ErrorCode::GraphqlParseFailed),
            ("\"", ErrorCode::GraphqlParseFailed),
            ("", ErrorCode::GraphqlParseFailed),
            ("{ nothing }", ErrorCode::GraphqlValidationFailed),
            ("{ transaction_by_id(id: \"1\") { id } }", ErrorCode::GraphqlValidationFailed),
            (&"{ __typename ".repeat(30), ErrorCode::TooCostly),
            (&format!("{{ {} }}", "a: __typename ".repeat(1_000)), ErrorCode::TooCostly),
            ("{ __schema { types { a: name } } }", ErrorCode::TooCostly),
            (&format!("mutation {{ a: {LOGIN} b: {LOGIN} }}"), ErrorCode::TooCostly),
            (
                &format!("subscription {{ a: {LOGIN} b: {LOGIN} }}"),
                ErrorCode::GraphqlValidationFailed,
            ),
        ] {
            assert_eq!(code(query, None), Some(expected), "{query:.100}");
        }
    }

    #[test]
    fn block_strings_are_indented_by_ascii() {
        let schema = schema(true);
        let validate = |text: &str| {
            let query = format!("{{ transfer_by_uuid(uuid: \"\"\"{text}\"\"\") {{ uuid }} }}");
            let request = GraphQLRequest::new(query, None, None);
            let error = validate(&schema, &request).map(drop).err();
            error.map(|it| it.error.to_string())
        };
        for accepted in ["", "\u{a0}a", "a\n  b\n c\u{3000}\n\t\n", "a\r\n b\r\n  c"] {
            assert_eq!(validate(accepted), None, "{accepted:?}");
        }
        for refused in ["a\n b\n\u{a0}c", "a\n b\n\u{3000}\n c", "a\n b\n \u{2003}"] {
            let error = validate(refused).unwrap_or_default();
            assert!(error.contains("white space other than ASCII"), "{refused:?}: {error}");
        }
    }

    #[test]
    fn default_value_has_a_known_type() {
        let schema = schema(true);
        let validate = |query: &str| {
            let request = GraphQLRequest::new(query.to_owned(), Some("a".to_owned()), None);
            let error = validate(&schema, &request).map(drop).err();
            error.map(|it| it.error.to_string())
        };
        let used = "{ transaction_by_id(id: $v) { id } }";
        assert_eq!(validate(&format!("query a($v: Int = 1) {used}")), None);
        for refused in [
            format!("query a($v: Unknown = 1) {used}"),
            format!("query a($v: [[Unknown!]!]! = []) {used}"),
            format!("query a {{ __typename }} query b($v: Unknown = 1) {used}"),
            format!("query a($v: Unknown) {used}"),
        ] {
            let error = validate(&refused).unwrap_or_default();
            assert!(error.contains("Unknown type"), "{refused}: {error}");
        }
    }

    #[test]
    fn object_is_selected_once_by_name() {
        const LIST: &str = r#"transactions_by_iban(iban: "a", max_items: 1000)"#;
        for (query, is_refused) in [
            (format!("{{ {LIST} {{ id ref id }} }}"), false),
            (format!("{{ a: {LIST} {{ id }} b: {LIST} {{ descr }} }}"), false),
            ("{ __typename transaction_by_id(id: 1) { id } __typename }".to_owned(), false),
            (format!("{{ {LIST} {{ id }} {LIST} {{ descr }} }}"), true),
            ("{ account(iban: \"a\") { iban } accounts { edges { cursor } } }".to_owned(), false),
            ("{ account(iban: \"a\") { iban } account(iban: \"a\") { balance } }".to_owned(), true),
            (
                "{ accounts { edges { cursor } } accounts { pageInfo { endCursor } } }".to_owned(),
                true,
            ),
            (format!("{{ a: {LIST} {{ id }} a: {LIST} {{ a: descr b: descr }} }}"), true),
            (
                format!(
                    "{{ ...f }} fragment f on Query {{ ... {{ {LIST} {{ id }} {LIST} {{ id }} }} }}"
                ),
                true,
            ),
        ] {
            assert_eq!(refusal(&query, "{}").is_some(), is_refused, "{query}");
        }
    }

    #[test]
    fn introspection_has_three_nested_lists_at_most() {
        // As in the query of graphql-js.
        let usual = "query { __schema { queryType { name } directives { name args { ...value } } \
                     types { ...type } } } \
                     fragment type on __Type { kind name fields(includeDeprecated: true) { name \
                     args { ...value } type { ...ref } } inputFields { ...value } \
                     interfaces { ...ref } enumValues { name } possibleTypes { ...ref } } \
                     fragment value on __InputValue { name type { ...ref } defaultValue } \
                     fragment ref on __Type { kind name ofType { name ofType { name } } }";
        assert_eq!(refusal(usual, "{}"), None);
        let nested = |depth: usize| {
            let open = "fields { type { ofType { ".repeat(depth);
            format!("{{ __schema {{ types {{ {open} name {} }} }} }}", "} } }".repeat(depth))
        };
        assert_eq!(refusal(&nested(2), "{}"), None);
        assert!(refusal(&nested(3), "{}").is_some_and(|it| it.contains("three lists")));
        for aliased in [
            "{ __schema { types { a: name b: name } } }",
            "{ a: __type(name: \"Query\") { name } }",
            "{ ...f } fragment f on Query { __type(name: \"Query\") { ...g } } \
             fragment g on __Type { a: name }",
        ] {
            assert!(refusal(aliased, "{}").is_some_and(|it| it.contains("alias")), "{aliased}");
        }
    }

    #[test]
    #[cfg(not(feature = "failpoints"))]
    fn condition_that_is_null_is_refused() {
        const NULL: [(&str, &str); 7] = [
            ("query($v: Boolean = null) { __typename @skip(if: $v) }", "{}"),
            ("query($v: Boolean = true) { __typename @skip(if: $v) }", r#"{"v": null}"#),
            ("query($v: Boolean = null) { ... @include(if: $v) { __typename } }", "{}"),
            (
                "query($v: Boolean = null) { ...f @skip(if: $v) } \
                 fragment f on Query { __typename }",
                "{}",
            ),
            (
                "query($v: Boolean = null) { ...f } \
                 fragment f on Query { ...g } fragment g on Query { __typename @skip(if: $v) }",
                "{}",
            ),
            ("query($v: Boolean = null) { transaction_by_id(id: 1) { iban @skip(if: $v) } }", "{}"),
            (
                "query($v: Boolean = null) \
                 { a: __typename @skip(if: true) b: __typename @skip(if: false) @include(if: $v) }",
                "{}",
            ),
        ];
        for (query, variables) in NULL {
            let refusal = refusal(query, variables);
            assert!(refusal.is_some_and(|it| it.contains("is not true or false")), "{query}");
        }
    }

    #[test]
    fn condition_that_is_a_boolean_is_accepted() {
        for (query, variables) in [
            ("{ __typename @skip(if: true) @include(if: false) }", "{}"),
            ("query($v: Boolean!) { __typename @skip(if: $v) }", r#"{"v": false}"#),
            ("query($v: Boolean = false) { __typename @skip(if: $v) }", "{}"),
            ("query($v: Boolean = false) { __typename @skip(if: $v) }", r#"{"v": true}"#),
        ] {
            assert_eq!(refusal(query, variables), None, "{query}");
        }
    }

    #[test]
    fn subscription_root_has_exactly_one_field() {
        let one = "subscription { stream_transactions { id ...f } } \
                   fragment f on Transaction { __typename ref }";
        assert_eq!(refusal(one, "{}"), None);
        let in_fragments = "subscription { ... { ...f } } \
                            fragment f on Subscription { stream_transactions { id } }";
        assert_eq!(refusal(in_fragments, "{}"), None);
        for refused in [
            "subscription { a: stream_transactions { id } b: stream_transactions { id } }",
            "subscription { stream_transactions { id } stream_transactions { ref } }",
            "subscription { stream_transactions { id } ...f } \
             fragment f on Subscription { stream_transactions { ref } }",
            "subscription { ...f ...f } fragment f on Subscription { stream_transactions { id } }",
            "subscription { ...f } fragment f on Subscription { __typename }",
            "subscription { ... on Subscription { __typename stream_transactions { id } } }",
            "subscription { stream_transactions @skip(if: true) { id } }",
            "subscription { ... @include(if: false) { stream_transactions { id } } }",
        ] {
            assert!(refusal(refused, "{}").is_some(), "{refused}");
        }
    }

    #[test]
    fn mutation_selects_one_field_at_most() {
        const LOGIN: &str = r#"get_account(username: "name1234", password: "secret12") { iban }"#;
        assert_eq!(refusal(&format!("mutation {{ __typename {LOGIN} }}"), "{}"), None);
        assert!(refusal(&format!("mutation {{ a: {LOGIN} b: {LOGIN} }}"), "{}").is_some());
        let fragment =
            format!("mutation {{ ...f a: {LOGIN} }} fragment f on Mutation {{ {LOGIN} }}");
        assert!(refusal(&fragment, "{}").is_some());
    }

    #[test]
    fn document_has_one_login_at_most() {
        const LOGIN: &str = r#"get_account(username: "name1234", password: "secret12") { iban }"#;
        for kind in ["mutation", "subscription"] {
            let root = if kind == "mutation" { "Mutation" } else { "Subscription" };
            assert_eq!(refusal(&format!("{kind} {{ a: {LOGIN} }}"), "{}"), None);
            for two in [
                format!("{kind} {{ a: {LOGIN} b: {LOGIN} }}"),
                format!("{kind} {{ {LOGIN} {LOGIN} }}"),
                format!("{kind} {{ {LOGIN} ... {{ b: {LOGIN} }} }}"),
                format!("{kind} {{ ...f ...f }} fragment f on {root} {{ {LOGIN} }}"),
            ] {
                assert!(refusal(&two, "{}").is_some(), "{two}");
            }
        }
    }

    #[test]
    fn effect_depends_on_the_root_field() {
        const LOGIN: &str = r#"get_account(username: "name1234", password: "secret12") { iban }"#;
        for (query, effect) in [
            ("{ __typename }".to_owned(), Effect::Reads),
            ("mutation { __typename }".to_owned(), Effect::Reads),
            (format!("mutation {{ {LOGIN} }}"), Effect::Writes),
            (format!("subscription {{ a: {LOGIN} }}"), Effect::Writes),
            (
                format!("subscription {{ ...f }} fragment f on Subscription {{ {LOGIN} }}"),
                Effect::Writes,
            ),
            ("subscription { get_account: stream_transactions { id } }".to_owned(), Effect::Reads),
        ] {
            let request = GraphQLRequest::new(query.clone(), None, None);
            assert_eq!(check(&schema(true), &request).ok(), Some(effect), "{query}");
        }
    }

    #[test]
    fn only_the_selected_operation_is_checked() {
        let schema = schema(true);
        let query = "query a { __typename } \
                     query b($v: Boolean = null) { __typename @skip(if: $v) }";
        let check = |name: &str| {
            let name = Some(name.to_owned());
            check(&schema, &GraphQLRequest::new(query.to_owned(), name, None))
        };
        assert_eq!(check("a").ok(), Some(Effect::Reads));
        let error = |name| check(name).err().map(|it| it.error);
        assert!(matches!(error("b"), Some(GraphQLError::ValidationError(_))));
        assert!(matches!(error("c"), Some(GraphQLError::UnknownOperationName)));
    }
}
