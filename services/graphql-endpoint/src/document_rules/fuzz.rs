//! Generates documents and variables from the grammar and runs them as a client's request. None may
//! panic or overflow the stack of an operation's thread.
//!
//! A longer run: `PROPTEST_CASES=100000 cargo test --locked -p graphql-endpoint --lib fuzz`.

use super::{Effect, InvalidOperation, validate};
use crate::access::ReadAccess;
use crate::app::App;
use crate::budget::Budget;
use crate::command_client::CommandClient;
use crate::config::Config;
use crate::hub::Hub;
use crate::operation_response::OperationResponse;
use crate::password::Hasher;
use crate::pool::{Pool, PoolLimits};
use crate::registrations::Registrations;
use crate::request::parse_body;
use crate::running::RunningOperation;
use crate::schema::{Context, Schema, schema};
use crate::store::Database;
use crate::transaction::Transaction;
use bank::money::Cents;
use juniper::futures::Stream;
use juniper::{OperationType, Value, ValuesStream};
use messaging::producer::Producer;
use service::env::Env;
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock};
use std::task::{self, Poll, Waker};
use std::thread;
use std::time::Duration;

/// As in the static binaries: `service::http` and `operation_thread`.
const STACK_BYTES: usize = 256 << 10;
/// Maximum size of a response here, bytes. Without a database only introspection makes large ones.
const RESPONSE_BYTES_MAX: usize = 4 << 20;

/// Name, arguments with their types, and type of the selection.
type Field = (&'static str, &'static [(&'static str, &'static str)], Option<&'static str>);

const LOGIN: &[(&str, &str)] = &[("username", "String!"), ("password", "String!")];
const TRANSFER: &[(&str, &str)] = &[
    ("uuid", "String!"),
    ("token", "String!"),
    ("amount", "Int"),
    ("amount_cents", "Long"),
    ("from", "String!"),
    ("to", "String!"),
    ("descr", "String!"),
];
const DEPRECATED: &[(&str, &str)] = &[("includeDeprecated", "Boolean")];

const QUERY: &[Field] = &[
    ("transaction_by_id", &[("id", "Int!")], Some("Transaction")),
    ("transaction_by_ref", &[("ref", "ID!")], Some("Transaction")),
    ("transactions_by_iban", &[("iban", "String!"), ("max_items", "Int!")], Some("Transaction")),
    ("all_last_transactions", &[("after", "String"), ("max_items", "Int")], Some("Transaction")),
    (
        "transactions",
        &[
            ("iban", "String!"),
            ("first", "Int"),
            ("after", "String"),
            ("last", "Int"),
            ("before", "String"),
            ("direction", "dtype"),
            ("from", "DateTime"),
            ("until", "DateTime"),
        ],
        Some("TransactionConnection"),
    ),
    ("account", &[("iban", "String!")], Some("Account")),
    (
        "accounts",
        &[("prefix", "String"), ("first", "Int"), ("after", "String")],
        Some("AccountConnection"),
    ),
    ("transfer_by_uuid", &[("uuid", "String!")], Some("MoneyTransferResult")),
    ("__schema", &[], Some("__Schema")),
    ("__type", &[("name", "String!")], Some("__Type")),
];
const MUTATION: &[Field] = &[
    ("get_account", LOGIN, Some("AccountResult")),
    ("money_transfer", TRANSFER, Some("MoneyTransferResult")),
];
const SUBSCRIPTION: &[Field] = &[
    (
        "stream_transactions",
        &[("iban", "String"), ("min_amount", "Int"), ("direction", "dtype")],
        Some("Transaction"),
    ),
    ("get_account", LOGIN, Some("AccountResult")),
    ("money_transfer", TRANSFER, Some("MoneyTransferResult")),
];
const TRANSACTION: &[Field] = &[
    ("id", &[], None),
    ("ref", &[], None),
    ("sequence", &[], None),
    ("iban", &[], None),
    ("new_balance", &[], None),
    ("changed_by", &[], None),
    ("new_balance_cents", &[], None),
    ("changed_by_cents", &[], None),
    ("from_to", &[], None),
    ("descr", &[], None),
    ("direction", &[], None),
];
const TRANSACTIONS: &[Field] =
    &[("edges", &[], Some("TransactionEdge")), ("pageInfo", &[], Some("PageInfo"))];
const TRANSACTION_EDGE: &[Field] = &[("cursor", &[], None), ("node", &[], Some("Transaction"))];
const ACCOUNTS: &[Field] =
    &[("edges", &[], Some("AccountEdge")), ("pageInfo", &[], Some("PageInfo"))];
const ACCOUNT_EDGE: &[Field] = &[("cursor", &[], None), ("node", &[], Some("Account"))];
const PAGE_INFO: &[Field] = &[("hasNextPage", &[], None), ("endCursor", &[], None)];
const ACCOUNT: &[Field] = &[
    ("iban", &[], None),
    ("balance", &[], None),
    ("balance_cents", &[], None),
    ("changes", &[], None),
    ("last_change", &[], Some("Transaction")),
];
const LOGIN_RESULT: &[Field] = &[("iban", &[], None), ("token", &[], None), ("reason", &[], None)];
const RESULT: &[Field] = &[("uuid", &[], None), ("success", &[], None), ("reason", &[], None)];
const INTROSPECTION_SCHEMA: &[Field] = &[
    ("description", &[], None),
    ("types", &[], Some("__Type")),
    ("queryType", &[], Some("__Type")),
    ("mutationType", &[], Some("__Type")),
    ("subscriptionType", &[], Some("__Type")),
    ("directives", &[], Some("__Directive")),
];
const INTROSPECTION_TYPE: &[Field] = &[
    ("kind", &[], None),
    ("name", &[], None),
    ("description", &[], None),
    ("specifiedByURL", &[], None),
    ("fields", DEPRECATED, Some("__Field")),
    ("interfaces", &[], Some("__Type")),
    ("possibleTypes", &[], Some("__Type")),
    ("enumValues", DEPRECATED, Some("__EnumValue")),
    ("inputFields", DEPRECATED, Some("__InputValue")),
    ("ofType", &[], Some("__Type")),
];
const INTROSPECTION_FIELD: &[Field] = &[
    ("name", &[], None),
    ("description", &[], None),
    ("isDeprecated", &[], None),
    ("deprecationReason", &[], None),
    ("args", &[], Some("__InputValue")),
    ("type", &[], Some("__Type")),
];
const INTROSPECTION_VALUE: &[Field] =
    &[("name", &[], None), ("defaultValue", &[], None), ("type", &[], Some("__Type"))];
const INTROSPECTION_ENUM_VALUE: &[Field] = &[("name", &[], None), ("isDeprecated", &[], None)];
const INTROSPECTION_DIRECTIVE: &[Field] = &[
    ("name", &[], None),
    ("isRepeatable", &[], None),
    ("locations", &[], None),
    ("args", &[], Some("__InputValue")),
];

fn fields(kind: &str) -> &'static [Field] {
    match kind {
        "Query" => QUERY,
        "Mutation" => MUTATION,
        "Subscription" => SUBSCRIPTION,
        "Transaction" => TRANSACTION,
        "TransactionConnection" => TRANSACTIONS,
        "TransactionEdge" => TRANSACTION_EDGE,
        "AccountConnection" => ACCOUNTS,
        "AccountEdge" => ACCOUNT_EDGE,
        "PageInfo" => PAGE_INFO,
        "Account" => ACCOUNT,
        "AccountResult" => LOGIN_RESULT,
        "MoneyTransferResult" => RESULT,
        "__Schema" => INTROSPECTION_SCHEMA,
        "__Type" => INTROSPECTION_TYPE,
        "__Field" => INTROSPECTION_FIELD,
        "__InputValue" => INTROSPECTION_VALUE,
        "__EnumValue" => INTROSPECTION_ENUM_VALUE,
        "__Directive" => INTROSPECTION_DIRECTIVE,
        other => panic!("no fields for {other}"),
    }
}

/// Literals of a type; the first is valid.
fn literals(kind: &str) -> &'static [&'static str] {
    match kind.trim_end_matches('!') {
        "Int" => {
            &["1", "0", "-1", "2147483647", "2147483648", "1e3", "1.5", "99999999999999999999"]
        }
        "String" => &[
            "\"a string\"",
            "\"\"",
            "\"\\u00e9 \\ud83d\\ude00 \\u{1F600} \\\\ \\\" \\n\"",
            "\"\\ud83d\"",
            "\"\\u{110000}\"",
            "\"\"\"block \\\"\"\" string\"\"\"",
            "\"\"\"a\n  b\n\u{a0}c\n\"\"\"",
            "\"\"\"\n\n \u{3000}a\r\n\tb\"\"\"",
            "\"\u{1F600}\u{feff}\"",
        ],
        "Long" => &["1", "\"1\"", "99999999999999999999", "\"\\u0031\"", "1.5", "\"x\""],
        "ID" => &["\"1\"", "1", "\"x\"", "-1", "1.5"],
        "Boolean" => &["true", "false", "\"true\"", "1"],
        "DateTime" => &["\"2026-11-30T00:00:00Z\"", "\"\"", "\"-009999-01-02T00:00:00Z\"", "1"],
        "dtype" => &["DEBIT", "CREDIT", "debit", "\"DEBIT\""],
        other => panic!("no literals for {other}"),
    }
}

/// Literals that are wrong for most types.
const WRONG: [&str; 9] =
    ["null", "[]", "[null]", "[[1]]", "{}", "{a: {b: [1]}}", "NAME", "$undefined", "$a$b"];

/// JSON of a type; the first is valid.
fn values(kind: &str) -> &'static [&'static str] {
    match kind.trim_end_matches('!') {
        "Int" => &["1", "-1", "2147483648", "1.5", "1e400", "18446744073709551616"],
        "String" => &["\"a\"", "\"\"", "\"\\ud83d\\ude00\\u0000\""],
        "Long" => &["1", "\"1\"", "2147483648", "1e400", "18446744073709551616", "1.5"],
        "ID" => &["\"1\"", "1", "1.5"],
        "Boolean" => &["true", "false", "\"true\"", "1"],
        "DateTime" => &["\"2026-11-30T00:00:00.5+01:00\"", "\"\"", "\"2026\"", "1"],
        "dtype" => &["\"DEBIT\"", "\"CREDIT\"", "\"debit\""],
        other => panic!("no values for {other}"),
    }
}

const WRONG_VALUES: [&str; 6] = ["null", "[]", "[[null]]", "{}", "{\"a\": [1]}", "\"x\""];

/// Builds a request from numbers. When they are used up, each choice is the first, which ends the
/// document. So a failing request is reduced to a short one.
pub struct Generator<'a> {
    numbers: std::slice::Iter<'a, u16>,
    text: String,
    /// Type of each variable, by number.
    variables: Vec<&'static str>,
    /// Type condition of each fragment, by number.
    fragments: Vec<&'static str>,
}

impl<'a> Generator<'a> {
    pub fn new(numbers: &'a [u16]) -> Self {
        let (variables, fragments) = (Vec::new(), Vec::new());
        Self { numbers: numbers.iter(), text: String::new(), variables, fragments }
    }

    /// A number below `count`; 0 if no numbers are left.
    fn pick(&mut self, count: usize) -> usize {
        usize::from(self.numbers.next().copied().unwrap_or(0)) % count
    }

    /// True in one of `count` cases.
    fn rarely(&mut self, count: usize) -> bool {
        self.pick(count) == count - 1
    }

    fn one_of<T: Copy>(&mut self, options: &[T]) -> T {
        options[self.pick(options.len())]
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The body of a POST request.
    pub fn request(mut self) -> String {
        let kinds = ["Query", "Query", "Query", "Mutation", "Subscription", "Subscription"];
        let kind = self.one_of(&kinds);
        self.selections(kind, 6);
        let selections = std::mem::take(&mut self.text);
        let mut defined = 0;
        // A fragment may use further fragments.
        while let Some(condition) = self.fragments.get(defined).copied() {
            let _ = write!(self.text, " fragment f{defined} on {condition} ");
            self.selections(condition, 3);
            defined += 1;
        }
        let fragments = std::mem::take(&mut self.text);
        self.push(&kind.to_lowercase());
        self.push(" a");
        let mut json = BTreeMap::new();
        self.variable_definitions(&mut json);
        if self.rarely(20) {
            self.directives();
        }
        self.push(&selections);
        self.push(&fragments);
        if self.rarely(10) {
            self.push("query b { __typename }");
        }
        let name = match self.pick(20) {
            0..=16 => "\"a\"",
            17 => "null",
            18 => "\"\"",
            _ => "\"b\"",
        };
        let variables: Vec<String> =
            json.iter().map(|(number, value)| format!("\"v{number}\":{value}")).collect();
        let query = serde_json::Value::from(self.text);
        let variables = variables.join(",");
        format!(r#"{{"query":{query},"operationName":{name},"variables":{{{variables}}}}}"#)
    }

    fn variable_definitions(&mut self, json: &mut BTreeMap<usize, &'static str>) {
        if self.variables.is_empty() {
            return;
        }
        self.push("(");
        for (number, kind) in self.variables.clone().into_iter().enumerate() {
            let _ = write!(self.text, "$v{number}: ");
            let named = kind.trim_end_matches('!');
            match self.pick(40) {
                0..=34 => self.push(kind),
                35..=37 => self.push(named),
                38 => {
                    let _ = write!(self.text, "[{named}!]!");
                }
                _ => {
                    let other = self.one_of(&["Int", "Transaction", "Unknown", "__Type", "dtype!"]);
                    self.push(other);
                }
            }
            if self.pick(3) == 1 {
                self.push(" = ");
                let default = match self.pick(10) {
                    0..=7 => literals(kind)[0],
                    8 => self.one_of(literals(kind)),
                    _ => self.one_of(&WRONG),
                };
                self.push(default);
            }
            self.push(" ");
            let value = match self.pick(40) {
                0..=33 => values(kind)[0],
                34 | 35 => self.one_of(values(kind)),
                36 => self.one_of(&WRONG_VALUES),
                37 => "null",
                _ => continue,
            };
            json.insert(number, value);
        }
        self.push(")");
    }

    fn selections(&mut self, kind: &'static str, depth: usize) {
        self.push("{ ");
        // A subscription has one field.
        let count = if kind == "Subscription" { 1 } else { 1 + self.pick(4) };
        for _ in 0..count {
            self.selection(kind, depth);
        }
        self.push("} ");
    }

    fn selection(&mut self, kind: &'static str, depth: usize) {
        match self.pick(12) {
            8 if depth > 0 => {
                self.push("... ");
                if self.pick(2) == 1 {
                    let condition = self.condition(kind);
                    let _ = write!(self.text, "on {condition} ");
                }
                self.directives();
                self.selections(kind, depth - 1);
            }
            9 if depth > 0 => {
                let condition = self.condition(kind);
                let number = if self.rarely(20) { 0 } else { self.fragments.len() };
                // A later fragment of this number would be a cycle.
                if number == self.fragments.len() && number < 8 {
                    self.fragments.push(condition);
                }
                let _ = write!(self.text, "...f{number} ");
                self.directives();
            }
            10 => self.push("__typename "),
            11 if self.rarely(20) => {
                let odd = self.one_of(&["unknown ", "{ a } ", "id { id } ", "...on ", "a: b: c "]);
                self.push(odd);
            }
            _ => self.field(kind, depth),
        }
    }

    /// Mostly a type to which a fragment in `kind` applies.
    fn condition(&mut self, kind: &'static str) -> &'static str {
        if !self.rarely(40) {
            return kind;
        }
        self.one_of(&["Query", "Subscription", "Transaction", "__Type", "__Schema"])
    }

    fn field(&mut self, kind: &'static str, depth: usize) {
        let mut choices = fields(kind);
        if depth == 0 {
            let leaves = choices.iter().take_while(|(_, _, selection)| selection.is_none()).count();
            choices = &choices[..leaves];
        }
        if choices.is_empty() {
            return self.push("__typename ");
        }
        let (name, arguments, selection) = self.one_of(choices);
        if self.pick(5) == 1 {
            let number = self.pick(20);
            let _ = write!(self.text, "a{number}: ");
        }
        self.push(name);
        self.push(" ");
        if !arguments.is_empty() {
            self.arguments(arguments);
        }
        self.directives();
        if let Some(selection) = selection {
            self.selections(selection, depth.saturating_sub(1));
        }
    }

    fn arguments(&mut self, arguments: &[(&'static str, &'static str)]) {
        let mut added = String::new();
        for (name, kind) in arguments {
            let is_left_out =
                if kind.ends_with('!') { self.rarely(100) } else { self.pick(2) == 0 };
            if !is_left_out {
                let around = std::mem::take(&mut self.text);
                self.value(kind);
                let value = std::mem::replace(&mut self.text, around);
                let _ = write!(added, "{name}: {value} ");
            }
        }
        if !added.is_empty() {
            let _ = write!(self.text, "({added}) ");
        }
    }

    fn value(&mut self, kind: &'static str) {
        match self.pick(12) {
            0..=6 => self.push(literals(kind)[0]),
            7 if self.rarely(3) => {
                let literal = self.one_of(literals(kind));
                self.push(literal);
            }
            8 if self.rarely(10) => {
                let wrong = self.one_of(&WRONG);
                self.push(wrong);
            }
            9 if self.rarely(20) => {
                let depth = self.pick(1000);
                self.push(&"[".repeat(depth));
                self.push(&"]".repeat(depth));
            }
            _ => {
                let _ = write!(self.text, "$v{}", self.variables.len());
                self.variables.push(kind);
            }
        }
    }

    fn directives(&mut self) {
        while self.rarely(12) {
            let name = match self.pick(40) {
                38 => "deprecated",
                39 => "oneOf",
                even if even % 2 == 0 => "skip",
                _ => "include",
            };
            let _ = write!(self.text, "@{name}");
            if !self.rarely(40) {
                self.push("(if: ");
                self.value("Boolean!");
                self.push(")");
            }
            self.push(" ");
        }
    }
}

static QUERIES: LazyLock<Arc<Pool>> = LazyLock::new(|| {
    let wait = Duration::from_secs(1);
    let limits = PoolLimits { threads: 1, waiting: 10, waiting_bytes: 1 << 20, wait };
    Pool::start("query", limits).expect("a thread can be started")
});

/// An endpoint without servers.
pub static APP: LazyLock<Arc<App>> = LazyLock::new(|| {
    let lookup = |name: &str| match name {
        // Nothing listens on these ports, so each call fails at once.
        "KAFKA_BROKERS" => Some("127.0.0.1:1".to_owned()),
        "SCHEMA_REGISTRY_URL" => Some("http://127.0.0.1:1".to_owned()),
        "DATABASE_URL" => Some("postgres://bank:secret@127.0.0.1:1/transactiondb".to_owned()),
        _ => None,
    };
    let config = Config::from_env(&Env::new(&lookup)).expect("the variables are valid");
    let shutdown = Shutdown::default();
    let producer = Arc::new(Producer::start(config.producer.clone(), &shutdown));
    Arc::new(App {
        database: Arc::new(Database::new(&config.database, 4, &shutdown)),
        hub: Hub::start(1000).expect("a thread can be started"),
        authorizations: Arc::default(),
        commands: CommandClient::with_ids(producer, 1, 2),
        hasher: Hasher::start(),
        registrations: Registrations::new(0),
        config,
    })
});
static SCHEMA: LazyLock<Schema> = LazyLock::new(|| schema(true));

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    NotJson,
    Invalid,
    Executed,
}

/// Runs a request on a stack as small as that of an operation.
pub fn run(body: &str) -> Outcome {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK_BYTES);
        let handle = thread.spawn_scoped(scope, || run_on_this_thread(body));
        let result = handle.expect("a thread can be started").join();
        result.unwrap_or_else(|_| panic!("a panic by {body}"))
    })
}

fn run_on_this_thread(body: &str) -> Outcome {
    let Ok(request) = parse_body(body.as_bytes()) else { return Outcome::NotJson };
    let (operation, effect) = match validate(&SCHEMA, &request) {
        Ok(valid) => valid,
        Err(err) => {
            let text = OperationResponse::invalid(&err).json();
            assert!(!text.contains("internal error"), "{text}");
            assert!(!text.starts_with(r#"{"data""#), "a refused operation was executed: {text}");
            return Outcome::Invalid;
        }
    };
    let running = Arc::<RunningOperation>::default();
    let (access, budget) = (ReadAccess::All, Budget::default());
    let address = Ipv4Addr::LOCALHOST.into();
    let (app, queries) = (APP.clone(), QUERIES.clone());
    let store = app.database.store();
    let context = Context { app, queries, access, address, running, budget, store };
    let variables = request.variables();
    let kind = operation.operation_type();
    assert!(kind != OperationType::Query || effect == Effect::Reads, "{body}");
    if kind != OperationType::Subscription {
        let result = operation.execute_sync(&variables, &context);
        let response = match result {
            Ok((data, errors)) => {
                assert!(kind != OperationType::Mutation || count_effects(&data) <= 1, "{body}");
                OperationResponse::executed(data, &errors)
            }
            Err(err) => OperationResponse::invalid(&InvalidOperation::by_variables(err)),
        };
        let bytes = response.json().len();
        assert!(bytes <= RESPONSE_BYTES_MAX, "a response of {bytes} bytes to {body}");
        return Outcome::Executed;
    }
    let mut waker = task::Context::from_waker(Waker::noop());
    let opening = pin!(operation.resolve_into_stream(&variables, &context));
    let Poll::Ready(opened) = opening.poll(&mut waker) else { panic!("no resolver awaits") };
    if let Ok((Value::Object(fields), _)) = opened {
        for (_, stream) in fields {
            if let Value::Scalar(stream) = stream {
                let delivers = follow(stream, &mut waker);
                // Arguments, also those of directives, can exclude the transaction.
                assert!(delivers || body.contains('('), "no transaction for {body}");
            }
        }
    }
    Outcome::Executed
}

/// The number of fields in the result of a mutation, without `__typename`.
fn count_effects(data: &Value) -> usize {
    let typename = Value::scalar("Mutation".to_owned());
    data.as_object_value().map_or(0, |it| it.iter().filter(|(_, it)| **it != typename).count())
}

/// Reads the value of one transaction from a stream. False if it has none.
fn follow(mut stream: ValuesStream<'_>, waker: &mut task::Context<'_>) -> bool {
    let transaction = Transaction {
        number: 1,
        sequence: 1,
        iban: "a string".to_owned(),
        new_balance: Cents::new(5),
        changed_by: Cents::new(5),
        from_to: "cash".to_owned(),
        description: "rent".to_owned(),
        decided_at: None,
    };
    APP.hub.publish([transaction]);
    let Poll::Ready(Some(value)) = Pin::new(&mut stream).poll_next(waker) else { return false };
    let (value, errors) = match value {
        Ok(value) => (value, Vec::new()),
        Err(errors) => (Value::null(), errors),
    };
    OperationResponse::executed(value, &errors).json();
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config as CaseConfig, TestRunner};

    fn numbers() -> impl Strategy<Value = Vec<u16>> {
        prop::collection::vec(any::<u16>(), 0..300)
    }

    proptest! {
        #[test]
        fn generated_request_never_panics(numbers in numbers()) {
            run(&Generator::new(&numbers).request());
        }

        #[test]
        fn damaged_request_never_panics(
            numbers in numbers(),
            damages in prop::collection::vec((any::<prop::sample::Index>(), 0..20_usize), 1..6),
        ) {
            const PARTS: [&str; 20] = [
                "", "", "\"", "\"\"\"", "\\", "\\u", "\\u{", "{", "}", "(", "[", "$", "@", "...",
                "#", "\u{feff}", "\u{a0}", "\n ", "é", "\u{1F600}",
            ];
            let body = Generator::new(&numbers).request();
            let mut body: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
            let mut query: Vec<char> = body["query"].as_str().unwrap_or_default().chars().collect();
            for (index, part) in damages {
                let at = index.index(query.len() + 1);
                let end = if part < 2 { (at + 1).min(query.len()) } else { at };
                query.splice(at..end, PARTS[part].chars());
            }
            body["query"] = query.into_iter().collect::<String>().into();
            run(&body.to_string());
        }
    }

    #[test]
    fn subscription_without_arguments_is_executed() {
        let body = r#"{"query":"subscription { stream_transactions { id } }"}"#;
        assert_eq!(run(body), Outcome::Executed);
    }

    #[test]
    fn deepest_documents_fit_the_stack() {
        let nested = |levels: usize| "... { ".repeat(levels) + "__typename " + &"} ".repeat(levels);
        let lists = |levels: usize| {
            let type_ = "[".repeat(levels) + "Int" + &"]".repeat(levels);
            let value = "[".repeat(levels) + &"]".repeat(levels);
            format!(
                "query($v: {type_} = {value}) {{ transaction_by_id(id: {value}) {{ id }} \
                 all_last_transactions(max_items: $v) {{ id }} }}"
            )
        };
        let fragments = |count: usize| {
            let mut text = "{ ...f0 }".to_owned();
            for n in 0..count {
                let _ = write!(text, " fragment f{n} on Query {{ ...f{} }}", n + 1);
            }
            text + &format!(" fragment f{count} on Query {{ __typename }}")
        };
        let mut executed = 0;
        for size in [1, 10, 20, 21, 22, 23, 24, 25, 100, 400, 900] {
            let documents = [
                format!("{{ {} }}", nested(size)),
                format!("subscription {{ stream_transactions {{ {} }} }}", nested(size)),
                lists(size),
                fragments(size),
                format!(
                    "{{ __schema {{ types {{ {} }} }} }}",
                    "ofType { ".repeat(size) + "name" + &" }".repeat(size)
                ),
            ];
            for query in documents {
                let body = serde_json::json!({ "query": query }).to_string();
                executed += usize::from(run(&body) == Outcome::Executed);
            }
        }
        // Variables, as deep as serde_json admits.
        for depth in [100, 120, 126, 127, 128, 1000] {
            let value = "[".repeat(depth) + &"]".repeat(depth);
            for kind in ["Int", "[Int]", "[[[[[[[[Int]]]]]]]]"] {
                let query = format!("query($v: {kind}) {{ __typename @skip(if: $v) }}");
                run(&format!(r#"{{"query": "{query}", "variables": {{"v": {value}}}}}"#));
            }
        }
        assert!(executed >= 12, "{executed}");
    }

    #[test]
    fn generated_requests_are_mostly_executed() {
        let mut runner = TestRunner::new_with_rng(
            CaseConfig::default(),
            proptest::test_runner::TestRng::deterministic_rng(
                prop::test_runner::RngAlgorithm::ChaCha,
            ),
        );
        let mut executed = 0;
        for _ in 0..200 {
            let numbers = numbers().new_tree(&mut runner).unwrap().current();
            let outcome = run(&Generator::new(&numbers).request());
            executed += usize::from(outcome == Outcome::Executed);
        }
        assert!(executed > 60, "{executed} of 200");
    }
}
