//! The GraphQL schema. It extends the schema of the talk and keeps its names, arguments and
//! nullability.

use crate::access::ReadAccess;
use crate::accounts::Account;
use crate::app::App;
use crate::budget::Budget;
use crate::catch_up::{CatchUp, ReadPage, Source};
use crate::date_time::DateTime;
use crate::error::Error;
use crate::error_code::{ClientError, ErrorCode};
use crate::euro;
use crate::hub::{self, Event, TooMany};
use crate::long::Long;
use crate::paging::{Cursor, PageInfo, PageRange, items_max};
use crate::pool::Pool;
use crate::refusal::Refusal;
use crate::running::RunningOperation;
use crate::store::{KnownAccount, Store};
use crate::transaction::{Direction, Filter, Transaction};
use crate::transfers::{self, TransferInput, TransferResult};
use bank::money::{Cents, OVERDRAFT_LIMIT};
use juniper::futures::Stream;
use juniper::{
    DefaultScalarValue, Executor, GraphQLEnum, GraphQLObject, ID, RootNode, graphql_object,
    graphql_subscription,
};
use std::borrow::Cow;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

/// Maximum of `max_items`.
const ITEMS_MAX: i32 = 1000;

pub type Schema = RootNode<Query, Mutation, Subscription>;

/// The schema. Its limits admit the introspection query of graphql-js.
pub fn schema(introspection: bool) -> Schema {
    let schema = Schema::new(Query, Mutation, Subscription)
        .limit_depth(24)
        .limit_tokens(2000)
        .limit_fields(2000);
    if introspection { schema } else { schema.disable_introspection() }
}

/// The schema in SDL, as in `schema.graphql`.
pub fn sdl() -> String {
    schema(true).as_sdl()
}

/// The result of a resolver.
type ClientResult<T> = Result<T, ClientError>;

pub struct Context {
    pub app: Arc<App>,
    /// Threads for queries of tasks.
    pub queries: Arc<Pool>,
    pub access: ReadAccess,
    /// Of the client.
    pub address: IpAddr,
    /// Shared with the transport.
    pub running: Arc<RunningOperation>,
    pub budget: Budget,
    pub store: Store,
}

impl juniper::Context for Context {}

/// The direction of a transaction, seen from the account.
#[derive(Clone, Copy, GraphQLEnum)]
#[graphql(name = "dtype")]
pub enum Dtype {
    /// Money left the account.
    Debit,
    /// Money entered the account.
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

pub struct TransactionObject(Arc<Transaction>);

impl From<Transaction> for TransactionObject {
    fn from(transaction: Transaction) -> Self {
        Self(Arc::new(transaction))
    }
}

#[expect(clippy::wrong_self_convention, reason = "from_to is the talk's name of a field")]
/// A change of the balance of one account.
#[graphql_object(context = Context, name = "Transaction", rename_all = "none")]
impl TransactionObject {
    /// Number of the transaction. After 2147483647 it starts again at 0; `ref` stays unique.
    fn id(&self) -> i32 {
        self.0.id()
    }

    /// Unique identifier of the transaction, for `transaction_by_ref`.
    fn r#ref(&self) -> ID {
        self.0.number.to_string().into()
    }

    /// Number of the transaction in its account, from 1. The stream may have another order.
    fn sequence(&self) -> ID {
        self.0.sequence.to_string().into()
    }

    /// Account number.
    fn iban(&self) -> Option<&str> {
        Some(&self.0.iban)
    }

    /// Balance of the account after the change, as in "€1.234,56".
    fn new_balance(&self) -> Option<String> {
        Some(euro::format(self.0.new_balance))
    }

    /// Amount of the change, as in "€10,00" or "-€10,00".
    fn changed_by(&self) -> Option<String> {
        Some(euro::format(self.0.changed_by))
    }

    /// Balance of the account after the change, in euro cents.
    fn new_balance_cents(&self) -> Long {
        Long(self.0.new_balance.get())
    }

    /// Amount of the change, in euro cents; negative if money left the account.
    fn changed_by_cents(&self) -> Long {
        Long(self.0.changed_by.get())
    }

    /// The other party: an iban, "cash" or a name.
    fn from_to(&self) -> Option<&str> {
        Some(&self.0.from_to)
    }

    /// Description of the transfer.
    fn descr(&self) -> Option<&str> {
        Some(&self.0.description)
    }

    /// When the bank decided the transfer, by the clock of its database. Null in transactions that
    /// are older than this field.
    fn time(&self) -> Option<DateTime> {
        DateTime::new(self.0.decided_at?)
    }

    /// Direction of the change.
    fn direction(&self) -> Option<Dtype> {
        Some(match self.0.direction() {
            Direction::Debit => Dtype::Debit,
            Direction::Credit => Dtype::Credit,
        })
    }
}

/// Transactions of an account, newest first.
#[derive(GraphQLObject)]
#[graphql(context = Context)]
pub struct TransactionConnection {
    /// The transactions of the page.
    edges: Vec<TransactionEdge>,
    /// Cursors for the next and the previous page.
    page_info: PageInfo,
}

/// A transaction in a page.
#[derive(GraphQLObject)]
#[graphql(context = Context)]
pub struct TransactionEdge {
    /// The transaction.
    node: TransactionObject,
    /// For `after` and `before`.
    cursor: String,
}

impl From<Transaction> for TransactionEdge {
    fn from(transaction: Transaction) -> Self {
        Self { cursor: Cursor::from(&transaction).to_string(), node: transaction.into() }
    }
}

/// Accounts, ordered by iban.
#[derive(GraphQLObject)]
#[graphql(context = Context)]
pub struct AccountConnection {
    /// The accounts of the page.
    edges: Vec<AccountEdge>,
    /// Cursor for the next page.
    page_info: PageInfo,
}

/// An account in a page.
#[derive(GraphQLObject)]
#[graphql(context = Context)]
pub struct AccountEdge {
    /// The account.
    node: AccountObject,
    /// For `after`.
    cursor: String,
}

/// An account of the bank.
#[derive(GraphQLObject)]
#[graphql(context = Context, name = "Account", rename_all = "none")]
pub struct AccountObject {
    /// Account number.
    iban: String,
    /// Balance, as in "€1.234,56".
    balance: String,
    /// Balance in euro cents.
    balance_cents: Long,
    /// Lowest balance that transfers from the account may reach, as in "-€500,00".
    overdraft_limit: String,
    /// Lowest balance that transfers from the account may reach, in euro cents.
    overdraft_limit_cents: Long,
    /// Number of changes of the balance; null if the last change has no sequence.
    changes: Option<Long>,
    /// The last change of the balance; null if the account was never used.
    last_change: Option<TransactionObject>,
}

impl From<KnownAccount> for AccountObject {
    fn from(account: KnownAccount) -> Self {
        let KnownAccount { iban, last_change } = account;
        let balance = last_change.as_ref().map_or(Cents::ZERO, |last| last.new_balance);
        // The sequences of an account have no gap.
        let changes = last_change.as_ref().map_or(Some(0), |last| {
            // The talk's records have no sequence.
            (last.sequence > 0).then_some(last.sequence)
        });
        Self {
            iban,
            balance: euro::format(balance),
            balance_cents: Long(balance.get()),
            overdraft_limit: euro::format(OVERDRAFT_LIMIT),
            overdraft_limit_cents: Long(OVERDRAFT_LIMIT.get()),
            changes: changes.map(Long),
            last_change: last_change.map(TransactionObject::from),
        }
    }
}

/// An account, or the reason of a refusal.
#[derive(GraphQLObject)]
#[graphql(rename_all = "none")]
pub struct AccountResult {
    /// Account number; null if the request was refused.
    iban: Option<String>,
    /// Secret that allows transfers from the account; null if the request was refused.
    token: Option<String>,
    /// Reason of a refusal, else null.
    reason: Option<String>,
    /// Code of `reason`, as in "CREDENTIALS_INCORRECT". Later versions may have more codes.
    reason_code: Option<&'static str>,
}

impl From<Account> for AccountResult {
    fn from(account: Account) -> Self {
        match account {
            Ok((iban, token)) => {
                Self { iban: Some(iban), token: Some(token), reason: None, reason_code: None }
            }
            Err(Refusal { code, text }) => {
                Self { iban: None, token: None, reason: Some(text), reason_code: Some(code) }
            }
        }
    }
}

/// The result of a transfer.
#[derive(GraphQLObject)]
#[graphql(rename_all = "none")]
pub struct MoneyTransferResult {
    /// The uuid of the request.
    uuid: Option<String>,
    /// True if the money moved, false if it was refused, null while the outcome is unknown.
    success: Option<bool>,
    /// Why `success` is not true, else null.
    reason: Option<String>,
    /// Code of `reason`, as in "INSUFFICIENT_FUNDS". Later versions may have more codes.
    reason_code: Option<&'static str>,
}

impl From<TransferResult> for MoneyTransferResult {
    fn from(result: TransferResult) -> Self {
        let TransferResult { uuid, success, refusal } = result;
        let (code, reason) = refusal.map(|it| (it.code, it.text)).unzip();
        Self { uuid: Some(uuid), success, reason, reason_code: code }
    }
}

pub struct Query;

/// Reads transactions and results of transfers.
#[graphql_object(context = Context, scalar = DefaultScalarValue, rename_all = "none")]
impl Query {
    /// The newest transaction with this id.
    fn transaction_by_id(context: &Context, id: i32) -> ClientResult<Option<TransactionObject>> {
        context.budget.charge_rows(1)?;
        let found = context.store.by_id(id).map_err(failed)?;
        Ok(context.readable(found))
    }

    /// The transaction with this ref.
    fn transaction_by_ref(context: &Context, r#ref: ID) -> ClientResult<Option<TransactionObject>> {
        // A ref that is not a number matches no transaction.
        let Ok(number) = r#ref.parse() else { return Ok(None) };
        context.budget.charge_rows(1)?;
        let found = context.store.by_number(number).map_err(failed)?;
        Ok(context.readable(found))
    }

    /// Transactions of an account, newest first.
    fn transactions_by_iban(
        executor: &Executor<'_, '_, Context>,
        context: &Context,
        iban: String,
        #[graphql(description = "Maximum number of transactions, 1 to 1000.")] max_items: i32,
    ) -> ClientResult<Option<Vec<Option<TransactionObject>>>> {
        let items = context.items(max_items)?;
        if !context.access.may_read(&iban) {
            return Err(context.not_allowed());
        }
        entries(executor, context.store.by_iban(&iban, items).map_err(failed)?)
    }

    /// A page of the transactions of an account, newest first.
    #[expect(clippy::too_many_arguments, reason = "each is an argument of the field")]
    fn transactions(
        executor: &Executor<'_, '_, Context>,
        context: &Context,
        iban: String,
        #[graphql(description = "Page size from the newest one, 0 to 1000; default 100.")]
        first: Option<i32>,
        #[graphql(description = "Only transactions after this cursor, which are older.")]
        after: Option<String>,
        #[graphql(description = "Page size from the oldest one, 0 to 1000.")] last: Option<i32>,
        #[graphql(description = "Only transactions before this cursor, which are newer.")]
        before: Option<String>,
        #[graphql(description = "Only transactions in this direction.")] direction: Option<Dtype>,
        #[graphql(description = "Only transactions of this time or later.")] from: Option<DateTime>,
        #[graphql(description = "Only transactions before this time.")] until: Option<DateTime>,
    ) -> ClientResult<Option<TransactionConnection>> {
        let range =
            PageRange::new(first, after.as_deref(), last, before.as_deref()).map_err(bad_input)?;
        let range = PageRange { direction: direction.map(Into::into), ..range };
        context.budget.charge_rows(range.cost())?;
        if !context.access.may_read(&iban) {
            return Err(context.not_allowed());
        }
        let (from, until) = (context.sequence_at(&iban, from)?, context.sequence_at(&iban, until)?);
        let page = context.store.page(&iban, &range.within(from, until)).map_err(failed)?;
        let rows: Vec<_> = page.items.iter().map(Some).collect();
        context.budget.charge_response(&executor.look_ahead(), &rows)?;
        let page_info = PageInfo::of_range(&range, &page);
        let edges = page.items.into_iter().map(TransactionEdge::from).collect();
        Ok(Some(TransactionConnection { edges, page_info }))
    }

    /// An account. Null if it is unknown.
    fn account(
        executor: &Executor<'_, '_, Context>,
        context: &Context,
        iban: String,
    ) -> ClientResult<Option<AccountObject>> {
        context.budget.charge_rows(1)?;
        if !context.access.may_read(&iban) {
            return Err(context.not_allowed());
        }
        let Some(account) = context.store.account(&iban).map_err(failed)? else {
            return Ok(None);
        };
        let row = account.last_change.as_ref();
        context.budget.charge_response(&executor.look_ahead(), &[row])?;
        Ok(Some(account.into()))
    }

    /// A page of all accounts.
    fn accounts(
        executor: &Executor<'_, '_, Context>,
        context: &Context,
        #[graphql(description = "Only accounts whose iban begins with this text.")] prefix: Option<
            String,
        >,
        #[graphql(description = "Page size, 0 to 1000; default 100.")] first: Option<i32>,
        #[graphql(description = "Only accounts after this cursor.")] after: Option<String>,
    ) -> ClientResult<Option<AccountConnection>> {
        let items_max = items_max("first", first).map_err(bad_input)?;
        context.budget.charge_rows(items_max as usize)?;
        if context.access != ReadAccess::All {
            return Err(context.not_allowed());
        }
        let (prefix, start) = (prefix.unwrap_or_default(), after.as_deref().unwrap_or_default());
        let page = context.store.accounts(&prefix, start, items_max).map_err(failed)?;
        let rows: Vec<_> = page.items.iter().map(|account| account.last_change.as_ref()).collect();
        context.budget.charge_response(&executor.look_ahead(), &rows)?;
        let cursors: Vec<String> = page.items.iter().map(|account| account.iban.clone()).collect();
        let page_info = PageInfo::of_cursors(after.as_deref(), &cursors, page.has_more);
        let edges = page
            .items
            .into_iter()
            .zip(cursors)
            .map(|(account, cursor)| AccountEdge { node: account.into(), cursor });
        Ok(Some(AccountConnection { edges: edges.collect(), page_info }))
    }

    /// The last transaction of each account, ordered by iban, in pages.
    fn all_last_transactions(
        executor: &Executor<'_, '_, Context>,
        context: &Context,
        #[graphql(
            description = "Only accounts after this iban: the last iban of the previous page."
        )]
        after: Option<String>,
        #[graphql(description = "Maximum number of accounts, 1 to 1000; default 1000.")]
        max_items: Option<i32>,
    ) -> ClientResult<Option<Vec<Option<TransactionObject>>>> {
        let items = context.items(max_items.unwrap_or(ITEMS_MAX))?;
        let after = after.unwrap_or_default();
        let store = &context.store;
        let last = match &context.access {
            ReadAccess::All => store.last_of_each(&after, items),
            ReadAccess::Account(own) if *own > after => store.by_iban(own, 1),
            ReadAccess::Account(_) => Ok(Vec::new()),
            ReadAccess::None => return Err(context.not_allowed()),
        };
        entries(executor, last.map_err(failed)?)
    }

    /// The result of a transfer that `money_transfer` has requested.
    fn transfer_by_uuid(
        context: &Context,
        uuid: String,
    ) -> ClientResult<Option<MoneyTransferResult>> {
        context.budget.charge_rows(1)?;
        let may_wait = || context.running.may_wait();
        let found = context.app.transfers(&context.store).find(&uuid, &context.access, may_wait);
        Ok(found.map_err(failed)?.map(MoneyTransferResult::from))
    }
}

pub struct Mutation;

/// Opens accounts, moves money and replaces tokens.
#[graphql_object(context = Context, rename_all = "none")]
impl Mutation {
    /// Opens an account for a new user name, or returns the account of a known one.
    fn get_account(
        context: &Context,
        #[graphql(description = "8 to 128 characters.")] username: String,
        #[graphql(description = "8 to 128 characters.")] password: String,
    ) -> ClientResult<Option<AccountResult>> {
        context.account(&username, &password)
    }

    /// Moves money once for each uuid. A repeated request returns the same result.
    #[expect(clippy::too_many_arguments, reason = "each is an argument of the field")]
    fn money_transfer(
        context: &Context,
        #[graphql(description = "A new UUID for each transfer.")] uuid: String,
        #[graphql(description = "Token of the account `from`; any text if `from` is \"cash\".")]
        token: String,
        #[graphql(description = "Amount in euro cents; either this or `amount_cents`.")]
        amount: Option<i32>,
        #[graphql(
            description = "Amount in euro cents, also above 2147483647; either this or `amount`."
        )]
        amount_cents: Option<Long>,
        #[graphql(description = "Debited party: an iban of this bank or \"cash\".")] from: String,
        #[graphql(description = "Credited party: an iban of this bank or any name.")] to: String,
        #[graphql(description = "Description of the transfer.")] descr: String,
    ) -> ClientResult<Option<MoneyTransferResult>> {
        let amount = cents(amount, amount_cents)?;
        context.transfer(&uuid, &token, amount, &from, &to, &descr)
    }

    /// Replaces the token of an account that `get_account` has opened, and logs out everywhere: the
    /// old token is no longer valid, and streams that it has opened end.
    fn rotate_token(
        context: &Context,
        #[graphql(description = "The present token of the account.")] token: String,
    ) -> ClientResult<Option<AccountResult>> {
        let account = context.app.accounts(&context.store, context.address).rotate_token(&token);
        account.map(|it| Some(it.into())).map_err(failed)
    }
}

pub type ResultStream<T> = Pin<Box<dyn Stream<Item = ClientResult<Option<T>>> + Send>>;

pub struct Subscription;

/// Streams transactions. As in the talk, the mutations also exist as subscriptions with one result.
#[graphql_subscription(context = Context, rename_all = "none")]
impl Subscription {
    /// Streams new transactions as soon as they are stored.
    async fn stream_transactions(
        context: &Context,
        #[graphql(description = "Only transactions of this account.")] iban: Option<String>,
        #[graphql(
            description = "Minimum of the signed change in euro cents: 1 selects income only."
        )]
        min_amount: Option<i32>,
        #[graphql(description = "Only transactions in this direction.")] direction: Option<Dtype>,
        #[graphql(
            description = "All transactions of the account after the one with this sequence, in \
                           order: first the stored ones, then new ones. 0 streams all."
        )]
        after_sequence: Option<Long>,
    ) -> ClientResult<ResultStream<TransactionObject>> {
        let iban = match (&context.access, iban) {
            (ReadAccess::Account(own), None) => Some(own.clone()),
            (ReadAccess::None, None) => return Err(context.not_allowed()),
            (access, Some(iban)) if !access.may_read(&iban) => {
                return Err(context.not_allowed());
            }
            (_, iban) => iban,
        };
        let min_amount = min_amount.map(|cents| Cents::new(cents.into()));
        let filter = Filter { iban, min_amount, direction: direction.map(Into::into) };
        match (after_sequence.map(|Long(after)| after), &filter.iban) {
            (None, _) => Ok(Box::pin(TransactionStream(context.subscribe(filter)?))),
            (Some(..0), _) => Err(bad_input("after_sequence: expected 0 or more")),
            (Some(_), None) => Err(bad_input("after_sequence requires iban")),
            (Some(after), Some(iban)) => {
                let all = Filter { iban: filter.iban.clone(), ..Filter::default() };
                let last = context.running.last_received().map_or(after, |it| it.max(after));
                Ok(Box::pin(CatchUpStream(CatchUp::new(
                    context.source(),
                    context.running.clone(),
                    iban.clone(),
                    filter,
                    context.subscribe(all)?,
                    last,
                ))))
            }
        }
    }

    /// Opens an account for a new user name, or returns the account of a known one.
    async fn get_account(
        context: &Context,
        #[graphql(description = "8 to 128 characters.")] username: String,
        #[graphql(description = "8 to 128 characters.")] password: String,
    ) -> ResultStream<AccountResult> {
        once(context.account(&username, &password))
    }

    /// Moves money once for each uuid. A repeated request returns the same result.
    #[expect(clippy::too_many_arguments, reason = "each is an argument of the field")]
    async fn money_transfer(
        context: &Context,
        #[graphql(description = "A new UUID for each transfer.")] uuid: String,
        #[graphql(description = "Token of the account `from`; any text if `from` is \"cash\".")]
        token: String,
        #[graphql(description = "Amount in euro cents; either this or `amount_cents`.")]
        amount: Option<i32>,
        #[graphql(
            description = "Amount in euro cents, also above 2147483647; either this or `amount`."
        )]
        amount_cents: Option<Long>,
        #[graphql(description = "Debited party: an iban of this bank or \"cash\".")] from: String,
        #[graphql(description = "Credited party: an iban of this bank or any name.")] to: String,
        #[graphql(description = "Description of the transfer.")] descr: String,
    ) -> ResultStream<MoneyTransferResult> {
        let transfer = |amount| context.transfer(&uuid, &token, amount, &from, &to, &descr);
        once(cents(amount, amount_cents).and_then(transfer))
    }
}

/// A stream of one result.
fn once<T: Send + 'static>(result: ClientResult<Option<T>>) -> ResultStream<T> {
    Box::pin(juniper::futures::stream::iter([result]))
}

/// The transactions of a subscription.
struct TransactionStream(hub::Subscription);

impl Stream for TransactionStream {
    type Item = ClientResult<Option<TransactionObject>>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        self.0.poll_next(context).map(|event| match event {
            Event::Transaction(transaction) => Some(Ok(Some(TransactionObject(transaction)))),
            Event::End(_) => None,
        })
    }
}

struct CatchUpStream(CatchUp);

impl Stream for CatchUpStream {
    type Item = ClientResult<Option<TransactionObject>>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        let next = self.0.poll_next(context);
        next.map(|next| Some(next?.map(|it| Some(TransactionObject(it))).map_err(failed)))
    }
}

impl Context {
    /// Subscribes the client, so that the end of the operation ends the subscription.
    fn subscribe(&self, filter: Filter) -> ClientResult<hub::Subscription> {
        let too_many =
            |TooMany| ClientError::new(ErrorCode::Busy, "too many subscriptions, try again");
        let subscription = self.app.hub.subscribe(self.address, filter).map_err(too_many)?;
        self.running.attach(subscription.reader());
        Ok(subscription)
    }

    fn source(&self) -> Source {
        let (app, queries, address) = (self.app.clone(), self.queries.clone(), self.address);
        let read: ReadPage =
            Arc::new(move |iban, after| app.database.store().after_sequence(iban, after));
        Source { read, queries, address }
    }

    /// Checks `max_items` and charges it to the budget.
    fn items(&self, max_items: i32) -> ClientResult<i64> {
        if !(1..=ITEMS_MAX).contains(&max_items) {
            let text = format!("max_items={max_items}: expected 1 to {ITEMS_MAX}");
            return Err(ClientError::new(ErrorCode::BadUserInput, text));
        }
        self.budget.charge_rows(max_items as usize)?;
        Ok(max_items.into())
    }

    /// The error for a client that may not read what it asked for.
    fn not_allowed(&self) -> ClientError {
        let code = match self.access {
            ReadAccess::None => ErrorCode::Unauthenticated,
            ReadAccess::Account(_) | ReadAccess::All => ErrorCode::Forbidden,
        };
        let text = "not allowed: send the token of this account, as in Authorization: Bearer TOKEN";
        ClientError::new(code, text)
    }

    fn sequence_at(&self, iban: &str, time: Option<DateTime>) -> ClientResult<Option<i64>> {
        let Some(time) = time else { return Ok(None) };
        self.budget.charge_rows(1)?;
        self.store.sequence_at(iban, time.system_time()).map(Some).map_err(failed)
    }

    fn readable(&self, found: Option<Transaction>) -> Option<TransactionObject> {
        found
            .filter(|transaction| self.access.may_read(&transaction.iban))
            .map(TransactionObject::from)
    }

    fn account(&self, username: &str, password: &str) -> ClientResult<Option<AccountResult>> {
        let account =
            self.app.accounts(&self.store, self.address).get(username, password).map_err(failed)?;
        Ok(Some(account.into()))
    }

    fn transfer(
        &self,
        uuid: &str,
        token: &str,
        amount: Cents,
        from: &str,
        to: &str,
        description: &str,
    ) -> ClientResult<Option<MoneyTransferResult>> {
        let input = TransferInput { uuid, token, amount, from, to, description };
        let result = self.app.transfers(&self.store).make(&input).map_err(failed)?;
        transfers::log(&input, &result, self.address);
        Ok(Some(result.into()))
    }
}

/// The amount of a transfer: exactly one of the two arguments.
fn cents(amount: Option<i32>, amount_cents: Option<Long>) -> ClientResult<Cents> {
    match (amount, amount_cents) {
        (Some(cents), None) => Ok(Cents::new(cents.into())),
        (None, Some(Long(cents))) => Ok(Cents::new(cents)),
        (None, None) => Err(bad_input("amount is missing: send amount or amount_cents")),
        (Some(_), Some(_)) => Err(bad_input("send either amount or amount_cents, not both")),
    }
}

fn entries(
    executor: &Executor<'_, '_, Context>,
    transactions: Vec<Transaction>,
) -> ClientResult<Option<Vec<Option<TransactionObject>>>> {
    let rows: Vec<_> = transactions.iter().map(Some).collect();
    executor.context().budget.charge_response(&executor.look_ahead(), &rows)?;
    Ok(Some(transactions.into_iter().map(|transaction| Some(transaction.into())).collect()))
}

/// An argument is wrong.
fn bad_input(text: impl Into<Cow<'static, str>>) -> ClientError {
    ClientError::new(ErrorCode::BadUserInput, text)
}

/// Logs the error. The client gets a general message.
fn failed(err: Error) -> ClientError {
    err.log();
    err.for_client()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schema_file_is_up_to_date() {
        let golden = include_str!("../schema.graphql");
        assert_eq!(sdl(), golden, "run make schema");
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
                    // A request that sends the argument stays valid if it becomes optional.
                    let is_optional_now = matches!(&argument.value_type,
                        Type::NonNullType(inner) if **inner == same.value_type);
                    let is_same = same.value_type == argument.value_type;
                    assert!(is_same || is_optional_now, "{name}.{field}: {}", argument.name);
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
    fn transfer_has_exactly_one_amount() {
        let amount = |amount, cents: Option<i64>| {
            super::cents(amount, cents.map(Long)).map_err(|err| err.text)
        };
        assert_eq!(amount(Some(5), None), Ok(Cents::new(5)));
        assert_eq!(amount(None, Some(5)), Ok(Cents::new(5)));
        assert_eq!(amount(None, Some(1 << 40)), Ok(Cents::new(1 << 40)));
        assert!(amount(None, None).unwrap_err().contains("missing"));
        assert!(amount(Some(5), Some(5)).unwrap_err().contains("not both"));
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
