//! A schema registry that is replaced while the bank runs.

use bank_tests::bank_client::BankClient;
use bank_tests::handler::Handler;
use bank_tests::stack::{PATIENCE, Stack};

const EXIT_TEMPORARY: i32 = 75;

#[test]
#[ignore = "needs the stack: make test-integration"]
fn replaced_registry_restarts_the_handler() {
    let mut stack = Stack::separate(1);
    let handler = Handler::start(&stack);
    let mut client = BankClient::open(&stack);
    client.open_accounts(2, 100);
    client.settle(PATIENCE);
    client.check();
    drop(client);

    let before = stack.schema_ids.clone();
    stack.replace_registry();
    assert!(before.iter().all(|(topic, id)| stack.schema_ids[topic] != *id), "{before:?}");
    let end = handler.wait_exits(1, PATIENCE);
    assert_eq!(end.code(), Some(EXIT_TEMPORARY));
    assert!(handler.log().contains("the schema registry was replaced"));

    // Its outcomes have the new ids. Decoders of this client have not seen the old ones.
    handler.wait_ready(PATIENCE);
    let mut client = BankClient::open(&stack);
    let accounts = client.open_accounts(2, 100);
    client.send_transfers(&[accounts[0].pays(10, &accounts[1].iban)]);
    client.settle(PATIENCE);
    client.check();
    assert!(client.dead_letters.is_empty(), "{:?}", client.dead_letters);
    assert_eq!(handler.exits().len(), 1, "it restarted once");
}
