//! Rules for documents that juniper does not check. juniper panics on some of these documents, and
//! it executes the others in part before it reports the error. A document that breaks a rule is
//! refused before execution.

use crate::schema::Schema;
use juniper::http::GraphQLRequest;
use juniper::parser::{SourcePosition, parse_document_source};
use juniper::{
    DefaultScalarValue, Definition, GraphQLError, InputValue, Operation, OperationType, RuleError,
    Selection, Variables,
};
use std::collections::{HashMap, HashSet};

/// Checks the operation that `request` selects:
///
/// - The condition of each `@skip` and `@include` is true or false, not null. It can be null by a
///   variable (GraphQL specification, section 3.13).
/// - A subscription selects exactly one field, without a condition, and not `__typename` (section
///   5.2.3.1).
/// - A mutation selects one field at most, apart from `__typename`. Each field is one command to
///   the bank or one login, which costs much more than the rest of an operation.
///
/// The document must be valid for juniper. Returns the effect of the operation.
///
/// # Errors
/// [`GraphQLError::ValidationError`] with the first violation.
pub fn check(schema: &Schema, request: &GraphQLRequest) -> Result<Effect, GraphQLError> {
    // Each rule concerns documents with one of these, and most documents have none.
    if !["@", "mutation", "subscription"].iter().any(|part| request.query.contains(part)) {
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
    let is_selected = |operation: &&&Operation<'_, _>| {
        name.is_none() || operation.name.as_ref().map(|it| it.item) == name
    };
    let Some(operation) = operations.iter().find(is_selected) else {
        return Err(GraphQLError::UnknownOperationName);
    };
    let mut variables = request.variables();
    for (name, definition) in operation.variables_definition.iter().flat_map(|it| it.item.iter()) {
        if let Some(default) = &definition.default_value {
            variables.entry(name.item.to_owned()).or_insert_with(|| default.item.clone());
        }
    }
    let mut rules = Rules { fragments, variables, visited: HashSet::new(), root_field: None };
    rules.check_conditions(&operation.selection_set)?;
    rules.check_root(operation.operation_type, &operation.selection_set)?;
    Ok(match rules.root_field {
        None | Some(READING_SUBSCRIPTION) => Effect::Reads,
        Some(_) => Effect::Writes,
    })
}

/// The only subscription that is not a mutation with another name.
const READING_SUBSCRIPTION: &str = "stream_transactions";

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
    fn check_conditions(&mut self, selections: &[Selection<'a>]) -> Result<(), GraphQLError> {
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

    /// Checks the fields at the root of the operation, also those in fragments.
    fn check_root(
        &mut self,
        kind: OperationType,
        selections: &[Selection<'a>],
    ) -> Result<(), GraphQLError> {
        if kind == OperationType::Query {
            return Ok(());
        }
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
                        return Err(violation(text, position));
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

fn violation(text: &str, position: SourcePosition) -> GraphQLError {
    GraphQLError::ValidationError(vec![RuleError::new(text, &[position])])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::schema;
    use juniper::ValidatedOperation;

    /// Checks a document that is valid for juniper.
    fn refusal(query: &str, variables: &str) -> Option<String> {
        let schema = schema(true);
        let variables = serde_json::from_str(variables).unwrap();
        let request = GraphQLRequest::new(query.to_owned(), None, Some(variables));
        if let Err(err) = ValidatedOperation::new(query, None, &schema) {
            panic!("{query} is not valid: {err}");
        }
        match check(&schema, &request) {
            Err(GraphQLError::ValidationError(errors)) => Some(errors[0].message().to_owned()),
            other => other.err().map(|err| panic!("{err}")),
        }
    }

    #[test]
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
        assert!(matches!(check("b"), Err(GraphQLError::ValidationError(_))));
        assert!(matches!(check("c"), Err(GraphQLError::UnknownOperationName)));
    }
}
