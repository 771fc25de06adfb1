//! The token of the company account across restarts of the handler.

use bank::iban::{COMPANY_IBAN, COMPANY_TOKEN};
use bank_tests::bank_client::BankClient;
use bank_tests::handler::{Handler, Settings};
use bank_tests::stack::{PATIENCE, Stack};
use bank_tests::transfer;
use std::fs;

const OWN_TOKEN: &str = "31415926535897932384";
const WARNING: &str = "the company account has the token of the talk";

/// Stores the token of the talk again when dropped, for the other tests.
struct TokenGuard<'a>(&'a Stack);

impl Drop for TokenGuard<'_> {
    fn drop(&mut self) {
        let sql = "UPDATE account SET token = $2 WHERE iban = $1";
        let stored = self.0.database().execute(sql, &[&COMPANY_IBAN, &COMPANY_TOKEN]);
        assert!(matches!(stored, Ok(1)) || std::thread::panicking(), "{stored:?}");
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn configured_company_token_survives_restarts() {
    let stack = Stack::shared();
    let _guard = TokenGuard(&stack);
    let handler = Handler::start(&stack);
    let [account] = BankClient::open(&stack).open_accounts(1, 0).try_into().unwrap();
    // The client reads the stored token again, and its model decides each transfer too.
    let refusals = || {
        let mut client = BankClient::open(&stack);
        let mut pay = |token| client.decide(&transfer(1, COMPANY_IBAN, token, &account.iban));
        [pay(COMPANY_TOKEN), pay(OWN_TOKEN)]
    };
    let invalid = || Some("invalid token".to_owned());
    assert_eq!(refusals(), [None, invalid()]);
    assert!(handler.log().contains(WARNING), "{}", handler.log());
    handler.stop();

    let file = stack.log_dir().join("company-token");
    fs::write(&file, format!("{OWN_TOKEN}\n")).unwrap();
    let variable = ("COMPANY_TOKEN_FILE", file.to_str().unwrap());
    let handler = Handler::start_with(&stack, Settings { env: &[variable], ..Settings::default() });
    assert_eq!(refusals(), [invalid(), None]);
    handler.stop();
    let log = handler.log();
    assert!(!log.contains(WARNING) && !log.contains(OWN_TOKEN), "{log}");

    // Without the variable the stored token stays.
    let handler = Handler::start(&stack);
    assert_eq!(refusals(), [invalid(), None]);
    assert!(!handler.log().contains(WARNING), "{}", handler.log());
    handler.stop();
    fs::remove_file(&file).unwrap();
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn malformed_company_token_is_a_usage_error() {
    let stack = Stack::shared();
    let env = &[("COMPANY_TOKEN", "3141592653589793238")];
    let settings = Settings { env, once: true, ..Settings::default() };
    let handler = Handler::launch(&stack, settings);
    assert_eq!(handler.wait_exits(1, PATIENCE).code(), Some(2));
    let log = handler.log();
    assert!(log.contains("COMPANY_TOKEN=\"***\": expected 20 digits"), "{log}");
    assert!(!log.contains("3141592653589793238"), "{log}");
}
