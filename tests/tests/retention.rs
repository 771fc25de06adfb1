//! `RETAIN_DAYS`: outcomes are deleted, and their commands are refused.

use bank::records::ConfirmMoneyTransfer;
use bank_tests::bank_client::BankClient;
use bank_tests::handler::{Handler, Settings};
use bank_tests::stack::{PATIENCE, Stack, post};
use bank_tests::wait::until;
use bank_tests::{SHOP, id_of_days_ago};
use uuid::Uuid;

#[test]
#[ignore = "needs the stack: make test-integration"]
fn command_without_an_outcome_any_more_is_refused() {
    // The database of the other tests keeps all outcomes: they compare their sum with the balances.
    let stack = Stack::separate(1);
    stack.synchronize();
    let mut client = BankClient::open(&stack);
    let keeps_all = Handler::start(&stack);
    let [account] = client.open_accounts(1, 1_000).try_into().expect("one account");
    let old = ConfirmMoneyTransfer { id: id_of_days_ago(40), ..account.pays(300, SHOP) };
    let recent = ConfirmMoneyTransfer { id: id_of_days_ago(29), ..account.pays(7, SHOP) };
    for order in [&old, &recent] {
        assert_eq!(client.decide(order), None);
    }
    drop(keeps_all);

    let env = &[("RETAIN_DAYS", "30")];
    let handler = Handler::start_with(&stack, Settings { env, ..Settings::default() });
    let count = |id: Uuid| -> i64 {
        let sql = "SELECT count(*) FROM transfer WHERE id = $1";
        stack.database().query_one(sql, &[&id]).expect("the table is there").get(0)
    };
    until("the old outcome is deleted", PATIENCE, || (count(old.id) == 0).then_some(()));
    assert_eq!(count(recent.id), 1);

    // Neither is executed again. The second one gets its outcome again.
    for order in [&old, &recent] {
        post(&mut *stack.kafka_client(), &[stack.transfer(order)]);
    }
    assert_eq!(client.decide(&account.pays(1, SHOP)), None);
    until("the old command is refused", PATIENCE, || {
        client.read_to_the_end();
        client.dead_letters.first().map(|letter| {
            assert!(letter.key_text().contains("more than 30 days ago"), "{}", letter.key_text());
        })
    });
    let refused = r#"bank_commands_total{outcome="dead_letter",topic="confirm_money_transfer"}"#;
    assert_eq!(handler.metric(refused), Some(1.0));
    client.check_records();
    // The outcome and the change of the recent one.
    assert_eq!((client.counts().commands_repeated, client.counts().repeated), (2, 2));
}
