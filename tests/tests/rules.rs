//! Every rule of the bank on both sides of its boundary, through Kafka.

use bank::iban::is_well_formed;
use bank::records::{Atype, ConfirmAccountCreation};
use bank_tests::bank_client::BankClient;
use bank_tests::handler::Handler;
use bank_tests::stack::{PATIENCE, Stack};
use bank_tests::wait::until;
use bank_tests::{Account, SHOP, creation};
use observer::Outcome;
use observer::rule_cases::{self, RuleCase};
use std::time::Duration;

/// Sends one transfer at a time, since the order of transfers in different partitions is undefined.
fn run(cases: Vec<RuleCase>, client: &mut BankClient<'_>) {
    for RuleCase { rule, command, holds } in cases {
        let expected = holds.then_some(rule.text());
        assert_eq!(client.decide(&command).as_deref(), expected, "{command:?}");
    }
    client.check();
    let counts = client.counts();
    assert_eq!(
        (counts.repeated, counts.disordered),
        (0, 0),
        "records were repeated or out of \
        order"
    );
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn reason_holds_up_to_its_boundary() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let _handler = Handler::start(&stack);
    let [a, b, poor] = client.open_accounts(3, 0).try_into().unwrap();
    run(rule_cases::boundaries(&a, &b, &poor), &mut client);
    assert_eq!(client.changes(&poor.iban).last().unwrap().new_balance.get(), -50_000);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn balance_reaches_the_highest_long() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let _handler = Handler::start(&stack);
    let [rich, other] = client.open_accounts(2, 0).try_into().unwrap();
    run(rule_cases::range(&rich, &other), &mut client);
    let balances: Vec<i64> =
        client.changes(&rich.iban).iter().map(|change| change.new_balance.get()).collect();
    assert_eq!(balances, [i64::MAX - 1, i64::MAX, 0, 1]);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn first_reason_in_precedence_is_reported() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let _handler = Handler::start(&stack);
    let [poor, full] = client.open_accounts(2, 0).try_into().unwrap();
    run(rule_cases::precedence(&poor, &full), &mut client);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn account_is_opened_once_for_each_command() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let _handler = Handler::start(&stack);
    let commands = [creation(Atype::Auto), creation(Atype::Manual), creation(Atype::Manual)];
    client.send_creations(&commands);
    client.settle(PATIENCE);
    let mut accounts: Vec<Account> = Vec::new();
    for command in &commands {
        let Some(Outcome::AccountOpened(opened)) = client.outcome(command.id) else {
            panic!("{command:?}: {:?}", client.outcome(command.id))
        };
        assert!(is_well_formed(&opened.iban) && opened.iban[8..].starts_with('0'), "{opened:?}");
        assert!(opened.token.len() == 20, "{opened:?}");
        assert!(opened.token.bytes().all(|digit| digit.is_ascii_digit()), "{opened:?}");
        assert_eq!(opened.a_type, command.a_type);
        accounts.push(client.account(command.id));
    }
    accounts.sort_by(|a, b| a.iban.cmp(&b.iban));
    accounts.dedup_by(|a, b| a.iban == b.iban || a.token == b.token);
    assert_eq!(accounts.len(), commands.len());

    // The same ids again, one with another type: no new accounts, and the same outcomes.
    let mut again = commands.to_vec();
    again[0] = ConfirmAccountCreation { a_type: Atype::Manual, ..again[0] };
    client.send_creations(&again);
    let last = client.open_accounts(1, 0);
    assert_eq!(last.len(), 1);
    assert_eq!(client.counts().repeated, commands.len() as u64);
    client.check();
}

/// A random iban is practically never taken, so a trigger in the database replaces it by one that
/// is.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn existing_iban_is_not_assigned_again() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let _handler = Handler::start(&stack);
    let [account] = client.open_accounts(1, 7).try_into().unwrap();

    let taken = EveryIbanIs::new(&stack, &account.iban);
    let refused = [creation(Atype::Auto), creation(Atype::Manual)];
    client.send_creations(&refused);
    client.settle(PATIENCE);
    for command in &refused {
        let Some(Outcome::AccountNotOpened(reason)) = client.outcome(command.id) else {
            panic!("{:?}", client.outcome(command.id))
        };
        assert_eq!(reason, "generated iban already exists, try again");
    }
    drop(taken);

    // "Try again" means with a new command. A replayed command keeps its outcome.
    client.send_creations(&refused);
    client.open_accounts(1, 0);
    // Rejections are on another topic than the new account, so they may be read later.
    until("the outcomes are repeated", PATIENCE, || {
        client.read(Duration::from_millis(20));
        (client.counts().repeated >= refused.len() as u64).then_some(())
    });
    assert_eq!(client.counts().repeated, refused.len() as u64);
    assert_eq!(client.decide(&account.pays(7, SHOP)), None);
    client.check();
}

/// A trigger that gives each new account the same iban, until this value is dropped.
struct EveryIbanIs<'a>(&'a Stack);

impl<'a> EveryIbanIs<'a> {
    fn new(stack: &'a Stack, iban: &str) -> Self {
        let sql = format!(
            "CREATE FUNCTION test_same_iban() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN NEW.iban = '{iban}'; RETURN NEW; END $$;
             CREATE TRIGGER test_same_iban BEFORE INSERT ON account_iban
             FOR EACH ROW EXECUTE FUNCTION test_same_iban()"
        );
        stack.database().batch_execute(&sql).expect("create a trigger");
        Self(stack)
    }
}

impl Drop for EveryIbanIs<'_> {
    fn drop(&mut self) {
        let dropped = self.0.database().batch_execute("DROP FUNCTION test_same_iban CASCADE");
        assert!(dropped.is_ok() || std::thread::panicking(), "{dropped:?}");
    }
}
