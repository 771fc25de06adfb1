//! The GraphQL schema. Names, arguments and nullability are those of the talk; other fields are
//! additions.

use crate::access::ReadAccess;
use crate::app::App;
use crate::euro;
use crate::hub::{self, Event};
use crate::running::RunningOperation;
use crate::transaction::{Direction, Filter, Transaction};
use crate::transfers::{TransferInput, TransferResult};
use bank::money::Cents;
use juniper::futures::Stream;
use juniper::{
    FieldError, FieldResult, GraphQLEnum, GraphQLObject, ID, RootNode, graphql_object,
    graphql_subscription,
};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

/// Most transactions in one response.
const ITEMS_MAX: i32 = 1000;

/// The schema with its resolvers.
pub type Schema = RootNode<Query, Mutation, Subscription>;

/// The schema, within limits that the introspection query of GraphQL's reference client passes.
pub fn schema(introspection: bool) -> Schema {
    let schema = Schema::new(Query, Mutation, Subscription)
        .limit_depth(24)
        .limit_tokens(2000)
        .limit_fields(2000);
    if introspection { schema } else { schema.disable_introspection() }
}

/// The schema in its own language, as in `schema.graphql`.
pub fn sdl() -> String {
    schema(true).as_sdl()
}

/// The context of an operation.
pub struct Context {
    /// Shared by all operations.
    pub app: Arc<App>,
    /// What the client may read.
    pub access: ReadAccess,
    /// The state that the transport shares.
    pub running: Arc<RunningOperation>,
}

impl juniper::Context for Context {}

/// Which way the money went, seen from the account.
#[derive(Clone, Copy, GraphQLEnum)]
#[graphql(name = "dtype")]
pub enum Dtype {
    /// Out of the account.
    Debit,
    /// Into the account.
    Credit,
}

impl From<Dtype> for Direction {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Debit => Self::Debit,
            Dtype::Credit => Self::Credit,
        }
    }
}

/// A transaction in the schema.
pub struct TransactionObject(Arc<Transaction>);

impl From<Transaction> for TransactionObject {
    fn from(transaction: Transaction) -> Self {
        Self(Arc::new(transaction))
    }
}

#[expect(clippy::wrong_self_convention, reason = "the talk's name of a field: from_to")]
/// One change of the balance of one account.
#[graphql_object(context = Context, name = "Transaction", rename_all = "none")]
impl TransactionObject {
    /// Number of the transaction; begins anew after 2147483647.
    fn id(&self) -> i32 {
        self.0.id()
    }

    /// Names the transaction forever: see `transaction_by_ref`.
    fn r#ref(&self) -> ID {
        self.0.number.to_string().into()
    }

    /// Its place among the transactions of the account: 1, 2, 3 ...; those of one account may be stored and streamed in another
    /// order, as several command-handlers tell them.
    fn sequence(&self) -> ID {
        self.0.sequence.to_string().into()
    }

    /// The account.
    fn iban(&self) -> Option<&str> {
        Some(&self.0.iban)
    }

    /// Its balance after the change, as in "€1.234,56".
    fn new_balance(&self) -> Option<String> {
        Some(euro::format(self.0.new_balance))
    }

    /// The change, as in "€10,00" or "-€10,00".
    fn changed_by(&self) -> Option<String> {
        Some(euro::format(self.0.changed_by))
    }

    /// The other side: an iban, "cash" or a name.
    fn from_to(&self) -> Option<&str> {
        Some(&self.0.from_to)
    }

    /// Text of the transfer.
    fn descr(&self) -> Option<&str> {
        Some(&self.0.description)
    }

    /// Which way the money went.
    fn direction(&self) -> Option<Dtype> {
        Some(match self.0.direction() {
            Direction::Debit => Dtype::Debit,
            Direction::Credit => Dtype::Credit,
        })
    }
}

/// An account, or why there is none.
#[derive(GraphQLObject)]
#[graphql(rename_all = "none")]
pub struct AccountResult {
    /// Number of the account.
    iban: Option<String>,
    /// Secret that allows transfers from the account.
    token: Option<String>,
    /// Why there is no account.
    reason: Option<String>,
}

/// What became of a transfer.
#[derive(GraphQLObject)]
#[graphql(rename_all = "none")]
pub struct MoneyTransferResult {
    /// As it was given.
    uuid: Option<String>,
    /// Whether the money moved; null while nobody knows.
    success: Option<bool>,
    /// Why there is no success.
    reason: Option<String>,
}

impl From<TransferResult> for MoneyTransferResult {
    fn from(result: TransferResult) -> Self {
        let TransferResult { uuid, success, reason } = result;
        Self { uuid: Some(uuid), success, reason }
    }
}

/// All queries.
pub struct Query;

/// Questions about accounts and transfers.
#[graphql_object(context = Context, rename_all = "none")]
impl Query {
    /// The newest transaction with this id.
    fn transaction_by_id(context: &Context, id: i32) -> FieldResult<Option<TransactionObject>> {
        let found = context.app.store.by_id(id).map_err(failed)?;
        Ok(context.readable(found))
    }

    /// The transaction with this ref.
    fn transaction_by_ref(context: &Context, r#ref: ID) -> FieldResult<Option<TransactionObject>> {
        // A ref that is not a number matches no transaction.
        let Ok(number) = r#ref.parse() else { return Ok(None) };
        let found = context.app.store.by_number(number).map_err(failed)?;
        Ok(context.readable(found))
    }

    /// Transactions of an account, the newest first.
    fn transactions_by_iban(
        context: &Context,
        iban: String,
        #[graphql(description = "At most so many, 1 to 1000.")] max_items: i32,
    ) -> FieldResult<Option<Vec<Option<TransactionObject>>>> {
        let items = items(max_items)?;
        if !context.access.may_read(&iban) {
            return Err(not_allowed());
        }
        Ok(entries(context.app.store.by_iban(&iban, items).map_err(failed)?))
    }

    /// The last transaction of each account, by iban, a page at a time.
    fn all_last_transactions(
        context: &Context,
        #[graphql(description = "Accounts behind this iban: the last one of the page before.")]
        after: Option<String>,
        #[graphql(description = "At most so many, 1 to 1000; 1000 if it is left out.")]
        max_items: Option<i32>,
    ) -> FieldResult<Option<Vec<Option<TransactionObject>>>> {
        let items = items(max_items.unwrap_or(ITEMS_MAX))?;
        let after = after.unwrap_or_default();
        let store = &context.app.store;
        let last = match &context.access {
            ReadAccess::All => store.last_of_each(&after, items),
            ReadAccess::Account(own) if *own > after => store.by_iban(own, 1),
            ReadAccess::Account(_) => Ok(Vec::new()),
            ReadAccess::None => return Err(not_allowed()),
        };
        Ok(entries(last.map_err(failed)?))
    }

    /// What became of a transfer that was asked for by `money_transfer`.
    fn transfer_by_uuid(
        context: &Context,
        uuid: String,
    ) -> FieldResult<Option<MoneyTransferResult>> {
        let may_wait = || context.running.may_wait();
        let found = context.app.transfers().find(&uuid, &context.access, may_wait);
        Ok(found.map_err(failed)?.map(MoneyTransferResult::from))
    }
}

/// All mutations.
pub struct Mutation;

/// What changes something; each answers when the bank has answered.
#[graphql_object(context = Context, rename_all = "none")]
impl Mutation {
    /// Opens an account for a new user; gives a known one theirs.
    fn get_account(
        context: &Context,
        #[graphql(description = "8 to 128 characters.")] username: String,
        #[graphql(description = "8 to 128 characters.")] password: String,
    ) -> FieldResult<Option<AccountResult>> {
        context.account(&username, &password)
    }

    /// Moves money once, however often it is asked with the same uuid.
    fn money_transfer(
        context: &Context,
        #[graphql(description = "A new UUID for each transfer.")] uuid: String,
        #[graphql(description = "Token of `from`; any for \"cash\".")] token: String,
        #[graphql(description = "Euro cents.")] amount: i32,
        #[graphql(description = "Who pays: an iban of this bank or \"cash\".")] from: String,
        #[graphql(description = "Who is paid: an iban of this bank or any name.")] to: String,
        #[graphql(description = "Any text.")] descr: String,
    ) -> FieldResult<Option<MoneyTransferResult>> {
        context.transfer(&uuid, &token, amount, &from, &to, &descr)
    }
}

/// The results of one subscription.
pub type ResultStream<T> = Pin<Box<dyn Stream<Item = FieldResult<Option<T>>> + Send>>;

/// All subscriptions.
pub struct Subscription;

/// Transactions as they happen; and the mutations as streams of one answer, as in the talk.
#[graphql_subscription(context = Context, rename_all = "none")]
impl Subscription {
    /// Transactions from now on, as soon as they are stored.
    async fn stream_transactions(
        context: &Context,
        #[graphql(description = "Of this account only.")] iban: Option<String>,
        #[graphql(
            description = "With at least this change in euro cents: -500 for all that took no more than €5,00."
        )]
        min_amount: Option<i32>,
        #[graphql(description = "This way only.")] direction: Option<Dtype>,
    ) -> FieldResult<ResultStream<TransactionObject>> {
        let iban = match (&context.access, iban) {
            (ReadAccess::Account(own), None) => Some(own.clone()),
            (ReadAccess::None, None) => return Err(not_allowed()),
            (access, Some(iban)) if !access.may_read(&iban) => return Err(not_allowed()),
            (_, iban) => iban,
        };
        let min_amount = min_amount.map(|cents| Cents::new(cents.into()));
        let filter = Filter { iban, min_amount, direction: direction.map(Into::into) };
        let subscription = context.app.hub.subscribe(filter);
        context.running.attach(subscription.queue());
        Ok(Box::pin(TransactionStream(subscription)))
    }

    /// Opens an account for a new user; gives a known one theirs.
    async fn get_account(
        context: &Context,
        #[graphql(description = "8 to 128 characters.")] username: String,
        #[graphql(description = "8 to 128 characters.")] password: String,
    ) -> ResultStream<AccountResult> {
        once(context.account(&username, &password))
    }

    /// Moves money once, however often it is asked with the same uuid.
    async fn money_transfer(
        context: &Context,
        #[graphql(description = "A new UUID for each transfer.")] uuid: String,
        #[graphql(description = "Token of `from`; any for \"cash\".")] token: String,
        #[graphql(description = "Euro cents.")] amount: i32,
        #[graphql(description = "Who pays: an iban of this bank or \"cash\".")] from: String,
        #[graphql(description = "Who is paid: an iban of this bank or any name.")] to: String,
        #[graphql(description = "Any text.")] descr: String,
    ) -> ResultStream<MoneyTransferResult> {
        once(context.transfer(&uuid, &token, amount, &from, &to, &descr))
    }
}

/// A stream of one result.
fn once<T: Send + 'static>(result: FieldResult<Option<T>>) -> ResultStream<T> {
    Box::pin(juniper::futures::stream::iter([result]))
}

/// The transactions of a subscription. `Pending` registers no waker: [`RunningOperation::wait`]
/// returns when to poll again.
struct TransactionStream(hub::Subscription);

impl Stream for TransactionStream {
    type Item = FieldResult<Option<TransactionObject>>;

    fn poll_next(self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<Option<Self::Item>> {
        match self.0.next() {
            Event::Transaction(transaction) => {
                Poll::Ready(Some(Ok(Some(TransactionObject(transaction)))))
            }
            Event::Empty => Poll::Pending,
            Event::End(_) => Poll::Ready(None),
        }
    }
}

impl Context {
    fn readable(&self, found: Option<Transaction>) -> Option<TransactionObject> {
        found
            .filter(|transaction| self.access.may_read(&transaction.iban))
            .map(TransactionObject::from)
    }

    fn account(&self, username: &str, password: &str) -> FieldResult<Option<AccountResult>> {
        let account = self.app.accounts().get(username, password).map_err(failed)?;
        Ok(Some(match account {
            Ok((iban, token)) => {
                AccountResult { iban: Some(iban), token: Some(token), reason: None }
            }
            Err(reason) => AccountResult { iban: None, token: None, reason: Some(reason) },
        }))
    }

    fn transfer(
        &self,
        uuid: &str,
        token: &str,
        amount: i32,
        from: &str,
        to: &str,
        description: &str,
    ) -> FieldResult<Option<MoneyTransferResult>> {
        let amount = Cents::new(amount.into());
        let input = TransferInput { uuid, token, amount, from, to, description };
        Ok(Some(self.app.transfers().make(&input).map_err(failed)?.into()))
    }
}

fn items(max_items: i32) -> FieldResult<i64> {
    if (1..=ITEMS_MAX).contains(&max_items) {
        Ok(max_items.into())
    } else {
        Err(field_error(format!("max_items={max_items}: expected 1 to {ITEMS_MAX}")))
    }
}

fn entries(transactions: Vec<Transaction>) -> Option<Vec<Option<TransactionObject>>> {
    Some(transactions.into_iter().map(|transaction| Some(transaction.into())).collect())
}

/// Logs the error; the client gets a general message.
fn failed(err: crate::error::Error) -> FieldError {
    err.log();
    field_error("the bank's store does not answer, try again")
}

fn not_allowed() -> FieldError {
    field_error("not allowed: send Authorization: Bearer with the token of this account")
}

fn field_error(text: impl Into<String>) -> FieldError {
    FieldError::new(text.into(), juniper::Value::null())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schema_file_is_up_to_date() {
        let golden = include_str!("../schema.graphql");
        assert_eq!(sdl(), golden, "make schema updates it");
    }

    #[test]
    fn schema_contains_the_talks_schema() {
        use graphql_parser::schema::{
            Definition, Document, Field, Type, TypeDefinition, parse_schema,
        };
        use std::collections::BTreeMap;

        fn types<'a>(
            document: &'a Document<'a, &'a str>,
        ) -> BTreeMap<&'a str, &'a TypeDefinition<'a, &'a str>> {
            let named = |definition: &'a Definition<'a, &'a str>| match definition {
                Definition::TypeDefinition(it @ TypeDefinition::Object(object)) => {
                    Some((object.name, it))
                }
                Definition::TypeDefinition(it @ TypeDefinition::Enum(one)) => Some((one.name, it)),
                _ => None,
            };
            document.definitions.iter().filter_map(named).collect()
        }
        fn fields<'a>(
            of: &'a TypeDefinition<'a, &'a str>,
        ) -> BTreeMap<&'a str, &'a Field<'a, &'a str>> {
            let TypeDefinition::Object(object) = of else { return BTreeMap::new() };
            object.fields.iter().map(|field| (field.name, field)).collect()
        }
        let (talk, ours) = (include_str!("../tests/talk-2019.graphql"), sdl());
        let (talk, ours) =
            (parse_schema::<&str>(talk).unwrap(), parse_schema::<&str>(&ours).unwrap());
        let ours = types(&ours);
        assert_eq!(types(&talk).len(), 6);
        for (name, wanted) in types(&talk) {
            let found = ours[name];
            if let (TypeDefinition::Enum(wanted), TypeDefinition::Enum(found)) = (wanted, found) {
                let wanted: Vec<&str> = wanted.values.iter().map(|it| it.name).collect();
                let found: Vec<&str> = found.values.iter().map(|it| it.name).collect();
                assert_eq!(wanted, found);
            }
            let found = fields(found);
            for (field, wanted) in fields(wanted) {
                let found = found[field];
                assert_eq!(found.field_type, wanted.field_type, "{name}.{field}");
                for argument in &wanted.arguments {
                    let same = found.arguments.iter().find(|it| it.name == argument.name).unwrap();
                    assert_eq!(same.value_type, argument.value_type, "{name}.{field}");
                }
                for argument in &found.arguments {
                    let is_new = wanted.arguments.iter().all(|it| it.name != argument.name);
                    let is_needed = matches!(argument.value_type, Type::NonNullType(_));
                    assert!(!(is_new && is_needed), "{name}.{field}: {}", argument.name);
                }
            }
        }
    }

    #[test]
    fn queries_beyond_the_limits_are_errors() {
        let schema = schema(true);
        let validate = |query: &str| {
            juniper::ValidatedOperation::new(query, None, &schema)
                .map(drop)
                .map_err(|err| err.to_string())
        };
        assert_eq!(validate("{ transaction_by_id(id: 1) { id ref iban } }"), Ok(()));
        for hostile in [
            "{a".repeat(100_000),
            format!("{{ {} }}", "x: __typename ".repeat(100_000)),
            "query { ...a } fragment a on Query { ...b } fragment b on Query { ...a }".to_owned(),
            format!(
                "{{ transaction_by_id(id: {}1{}) {{ id }} }}",
                "[".repeat(50_000),
                "]".repeat(50_000)
            ),
        ] {
            assert!(validate(&hostile).is_err());
        }
        let introspection = "{ __schema { types { name } } }";
        assert_eq!(validate(introspection), Ok(()));
        let closed = super::schema(false);
        assert!(juniper::ValidatedOperation::new(introspection, None, &closed).is_err());
    }
}
