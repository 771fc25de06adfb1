//! Every rule of the bank at both sides of its boundary, asked and answered through Kafka.

use bank::iban::{CASH, COMPANY_IBAN, COMPANY_TOKEN, is_well_formed};
use bank::money::Cents;
use bank::records::{Atype, ConfirmAccountCreation, ConfirmMoneyTransfer};
use bank_tests::handler::Handler;
use bank_tests::ledger::{Answer, Ledger};
use bank_tests::stack::{PATIENCE, Stack};
use bank_tests::wait::until;
use bank_tests::{Account, SHOP, creation, nobody, transfer};
use std::time::Duration;

/// A command with another token.
fn with_token(token: &str, command: ConfirmMoneyTransfer) -> ConfirmMoneyTransfer {
    ConfirmMoneyTransfer { token: token.to_owned(), ..command }
}

/// What each transfer should be answered, in the order in which they are decided: nothing, or a reason.
struct Cases(Vec<(ConfirmMoneyTransfer, Option<&'static str>)>);

impl Cases {
    /// One after the other, since their partitions would let them overtake each other.
    fn run(self, ledger: &mut Ledger<'_>) {
        for (command, expected) in self.0 {
            assert_eq!(ledger.decide(&command).as_deref(), expected, "{command:?}");
        }
        ledger.check();
        assert_eq!((ledger.repeats, ledger.disordered), (0, 0), "nothing was disturbed");
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn each_reason_holds_up_to_its_boundary_and_not_past_it() {
    let stack = Stack::shared();
    let mut ledger = Ledger::open(&stack);
    let _handler = Handler::start(&stack);
    let accounts = ledger.open_accounts(2, 0);
    let (a, b) = (&accounts[0], &accounts[1]);
    let (a_iban, b_iban) = (a.iban.as_str(), b.iban.as_str());

    let not_positive = Some("amount must be positive");
    let from_invalid = Some("from is invalid");
    let same = Some("from and to can't be same for transfer");
    let both_unknown = Some("both to and from not known at this bank");
    let from_unknown = Some("from is not known at this bank");
    let token_invalid = Some("invalid token");
    let insufficient = Some("insufficient funds");

    let mut wrong_check_digits = a.iban.clone().into_bytes();
    wrong_check_digits[3] =
        if wrong_check_digits[3] == b'9' { b'0' } else { wrong_check_digits[3] + 1 };
    let wrong_check_digits = String::from_utf8(wrong_check_digits).unwrap();
    let mut last_digit_wrong = a.token.clone().into_bytes();
    last_digit_wrong[19] =
        if last_digit_wrong[19] == b'9' { b'0' } else { last_digit_wrong[19] + 1 };
    let last_digit_wrong = String::from_utf8(last_digit_wrong).unwrap();
    let stranger = nobody();

    Cases(vec![
        // Amounts: one cent moves.
        (a.gets(0), not_positive),
        (a.gets(-1), not_positive),
        (a.gets(i64::MIN), not_positive),
        (a.gets(1), None),
        (a.pays(1, b_iban), None),
        // From: cash, or an iban that this bank could have given out.
        (with_token(&a.token, transfer(1, &a_iban[..17], "", b_iban)), from_invalid),
        (transfer(1, &format!("{a_iban}0"), &a.token, b_iban), from_invalid),
        (transfer(1, &wrong_check_digits, &a.token, b_iban), from_invalid),
        (transfer(1, &a_iban.replace("OPEN", "INGB"), &a.token, b_iban), from_invalid),
        (transfer(1, &a_iban.to_lowercase(), &a.token, b_iban), from_invalid),
        (transfer(1, &format!(" {a_iban}"), &a.token, b_iban), from_invalid),
        (transfer(1, "Cash", "", b_iban), from_invalid),
        (transfer(1, "", "", b_iban), from_invalid),
        (transfer(1, SHOP, "", b_iban), from_invalid),
        (transfer(1, CASH, "", b_iban), None),
        // Same: also where neither is known.
        (a.pays(1, a_iban), same),
        (transfer(1, CASH, "", CASH), same),
        (transfer(1, &stranger, "", &stranger), same),
        (a.pays(1, &a_iban.to_lowercase()), None),
        // Both unknown: a balance at one side is enough.
        (transfer(1, CASH, "", SHOP), both_unknown),
        (transfer(1, CASH, "", &stranger), both_unknown),
        (transfer(1, &stranger, "", SHOP), both_unknown),
        (transfer(1, &stranger, "", CASH), both_unknown),
        (transfer(1, &stranger, "", &nobody()), both_unknown),
        (a.pays(1, &stranger), None),
        (a.pays(1, SHOP), None),
        (a.pays(1, CASH), None),
        (a.pays(1, ""), None),
        // From unknown, to known.
        (transfer(1, &stranger, "", b_iban), from_unknown),
        (transfer(1, &stranger, &b.token, b_iban), from_unknown),
        (b.pays(1, a_iban), None),
        // Token: of the paying account, whole. Cash needs none.
        (with_token("", a.pays(1, b_iban)), token_invalid),
        (with_token(&a.token[..19], a.pays(1, b_iban)), token_invalid),
        (with_token(&format!("{}0", a.token), a.pays(1, b_iban)), token_invalid),
        (with_token(&last_digit_wrong, a.pays(1, b_iban)), token_invalid),
        (with_token(&b.token, a.pays(1, b_iban)), token_invalid),
        (with_token(CASH, a.pays(1, b_iban)), token_invalid),
        (transfer(1, CASH, "whatever", a_iban), None),
        (transfer(1, COMPANY_IBAN, &a.token, a_iban), token_invalid),
        (transfer(1, COMPANY_IBAN, COMPANY_TOKEN, a_iban), None),
    ])
    .run(&mut ledger);

    // Funds: the balance may reach the limit.
    let [c] = ledger.open_accounts(1, 100).try_into().unwrap();
    Cases(vec![
        (c.pays(50_101, SHOP), insufficient),
        (c.pays(i64::MAX, SHOP), insufficient),
        (c.pays(50_100, b_iban), None),
        (c.pays(1, b_iban), insufficient),
        // Below zero minus this is no long.
        (c.pays(i64::MAX, b_iban), insufficient),
        (c.gets(1), None),
        (c.pays(2, SHOP), insufficient),
        (c.pays(1, SHOP), None),
    ])
    .run(&mut ledger);
    assert_eq!(ledger.changes(&c.iban).last().unwrap().new_balance, Cents::new(-50_000));
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn a_balance_may_reach_the_end_of_a_long_and_not_pass_it() {
    let stack = Stack::shared();
    let mut ledger = Ledger::open(&stack);
    let _handler = Handler::start(&stack);
    let accounts = ledger.open_accounts(2, 0);
    let (rich, other) = (&accounts[0], &accounts[1]);
    let too_large = Some("amount too large");
    Cases(vec![
        (rich.gets(i64::MAX - 1), None),
        (rich.gets(2), too_large),
        (rich.gets(i64::MAX), too_large),
        (other.pays(2, &rich.iban), too_large),
        (other.pays(1, &rich.iban), None),
        (rich.gets(1), too_large),
        (other.pays(1, &rich.iban), too_large),
        // All of it can leave again.
        (rich.pays(i64::MAX, CASH), None),
        (rich.gets(1), None),
    ])
    .run(&mut ledger);
    let balances: Vec<i64> =
        ledger.changes(&rich.iban).iter().map(|change| change.new_balance.get()).collect();
    assert_eq!(balances, [i64::MAX - 1, i64::MAX, 0, 1]);
}

/// Each command has the fault that it is refused for, and every fault that comes after it in the order of precedence.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn the_first_reason_that_holds_wins() {
    let stack = Stack::shared();
    let mut ledger = Ledger::open(&stack);
    let _handler = Handler::start(&stack);
    let accounts = ledger.open_accounts(2, 0);
    let (poor, full) = (&accounts[0], &accounts[1]);
    let stranger = nobody();
    let most = i64::MAX;
    Cases(vec![
        (full.gets(most), None),
        (transfer(0, "x", "", "x"), Some("amount must be positive")),
        (transfer(most, "x", "", "x"), Some("from is invalid")),
        (transfer(most, &stranger, "", &stranger), Some("from and to can't be same for transfer")),
        (transfer(most, &stranger, "", "x"), Some("both to and from not known at this bank")),
        (transfer(most, &stranger, "", &full.iban), Some("from is not known at this bank")),
        (transfer(most, &poor.iban, "", &full.iban), Some("invalid token")),
        (poor.pays(most, &full.iban), Some("insufficient funds")),
        (poor.pays(1, &full.iban), Some("amount too large")),
        (full.pays(most, CASH), None),
        (poor.pays(1, &full.iban), None),
    ])
    .run(&mut ledger);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn an_account_is_opened_once_for_each_command() {
    let stack = Stack::shared();
    let mut ledger = Ledger::open(&stack);
    let _handler = Handler::start(&stack);
    let commands = [creation(Atype::Auto), creation(Atype::Manual), creation(Atype::Manual)];
    ledger.ask(&commands);
    ledger.settle(PATIENCE);
    let mut accounts: Vec<Account> = Vec::new();
    for command in &commands {
        let Some(Answer::Opened(opened)) = ledger.answer(command.id) else {
            panic!("{command:?}: {:?}", ledger.answer(command.id))
        };
        assert!(is_well_formed(&opened.iban) && opened.iban[8..].starts_with('0'), "{opened:?}");
        assert!(opened.token.len() == 20, "{opened:?}");
        assert!(opened.token.bytes().all(|digit| digit.is_ascii_digit()), "{opened:?}");
        assert_eq!(opened.a_type, command.a_type);
        accounts.push(ledger.account(command.id));
    }
    accounts.sort_by(|a, b| a.iban.cmp(&b.iban));
    accounts.dedup_by(|a, b| a.iban == b.iban || a.token == b.token);
    assert_eq!(accounts.len(), commands.len());

    // The same ids once more, one of them with another type: nothing new, and the same answers.
    let mut again = commands.to_vec();
    again[0] = ConfirmAccountCreation { a_type: Atype::Manual, ..again[0] };
    ledger.ask(&again);
    let last = ledger.open_accounts(1, 0);
    assert_eq!(last.len(), 1);
    assert_eq!(ledger.repeats, commands.len());
    ledger.check();
}

/// Of a thousand million numbers two are never equal within a test, so a trigger in the database sees to it.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn an_iban_that_exists_is_not_given_out_again() {
    let stack = Stack::shared();
    let mut ledger = Ledger::open(&stack);
    let _handler = Handler::start(&stack);
    let [account] = ledger.open_accounts(1, 7).try_into().unwrap();

    let taken = EveryIbanIs::new(&stack, &account.iban);
    let refused = [creation(Atype::Auto), creation(Atype::Manual)];
    ledger.ask(&refused);
    ledger.settle(PATIENCE);
    for command in &refused {
        let Some(Answer::NotOpened(failed)) = ledger.answer(command.id) else {
            panic!("{:?}", ledger.answer(command.id))
        };
        assert_eq!(failed.reason, "generated iban already exists, try again");
    }
    drop(taken);

    // "Try again" is for a new command. The old one keeps its answer.
    ledger.ask(&refused);
    ledger.open_accounts(1, 0);
    // Refusals have a topic of their own, which may be read later than the one of the account.
    until("the old answers", PATIENCE, || {
        ledger.read(Duration::from_millis(20));
        (ledger.repeats >= refused.len()).then_some(())
    });
    assert_eq!(ledger.repeats, refused.len());
    assert_eq!(ledger.decide(&account.pays(7, SHOP)), None);
    ledger.check();
}

/// Turns the iban of each new account into one iban until it is dropped.
struct EveryIbanIs<'a>(&'a Stack);

impl<'a> EveryIbanIs<'a> {
    fn new(stack: &'a Stack, iban: &str) -> Self {
        let sql = format!(
            "CREATE FUNCTION test_same_iban() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN NEW.iban = '{iban}'; RETURN NEW; END $$;
             CREATE TRIGGER test_same_iban BEFORE INSERT ON account
             FOR EACH ROW EXECUTE FUNCTION test_same_iban()"
        );
        stack.database().batch_execute(&sql).expect("make a trigger");
        Self(stack)
    }
}

impl Drop for EveryIbanIs<'_> {
    fn drop(&mut self) {
        let dropped = self.0.database().batch_execute("DROP FUNCTION test_same_iban CASCADE");
        assert!(dropped.is_ok() || std::thread::panicking(), "{dropped:?}");
    }
}
