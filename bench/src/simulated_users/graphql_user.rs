//! A simulated user of the GraphQL endpoint.

use super::client::{Client, TIMEOUT, TransferEnd};
use crate::error::Error;
use crate::graphql::{Connection, GraphqlMessage, LOG_IN, TRANSFER};
use crate::output;
use bank::iban::{CASH, COMPANY_IBAN};
use serde_json::{Value, json};
use std::time::Instant;
use uuid::Uuid;

const LISTEN: &str =
    "subscription($iban: String!) { stream_transactions(iban: $iban) { descr new_balance } }";
/// Id of the subscription. The ids of steps are numbers.
const LISTENING: &str = "changes";

/// A user with an account and a connection.
pub struct GraphqlUser {
    url: String,
    connection: Connection,
    iban: String,
    token: String,
}

impl GraphqlUser {
    /// Logs in a new user at `url`, subscribes to its account, and waits for the change of a first
    /// deposit of one cent.
    pub fn log_in(url: &str) -> Result<Self, Error> {
        let mut connection = Connection::open(url)?;
        let username = format!("bench-{}", Uuid::new_v4().simple());
        let password = Uuid::new_v4().to_string();
        let asked = json!({ "username": username, "password": password });
        connection.ask("log in", LOG_IN, &asked)?;
        let answer = connection.receive(Instant::now() + 4 * TIMEOUT)?;
        let account = match &answer {
            Some(GraphqlMessage::Data(_, data)) => &data["get_account"],
            _ => &Value::Null,
        };
        let (Some(iban), Some(token)) = (account["iban"].as_str(), account["token"].as_str())
        else {
            // Without an iban the answer contains no token, so it may be logged.
            let found = format!("{answer:?}");
            return Err(Error::Answer {
                what: "no account in the response",
                url: url.to_owned(),
                found,
            });
        };
        let (iban, token) = (iban.to_owned(), token.to_owned());
        let mut customer = Self { url: url.to_owned(), connection, iban, token };
        customer.listen()?;
        customer.transfer("first", 1, "a first cent")?;
        let deadline = Instant::now() + 4 * TIMEOUT;
        let mut answer = None;
        while let Some(received) = customer.connection.receive(deadline)? {
            match received {
                GraphqlMessage::Data(id, _) if id == LISTENING => return Ok(customer),
                other => answer = Some(other),
            }
        }
        let found = format!("{answer:?}");
        Err(Error::Answer {
            what: "no balance change after the first deposit",
            url: url.to_owned(),
            found,
        })
    }

    fn listen(&mut self) -> Result<(), Error> {
        self.connection.ask(LISTENING, LISTEN, &json!({ "iban": self.iban }))
    }

    /// Deposits `cents`, or withdraws them if negative; does not wait for the outcome.
    fn transfer(&mut self, id: &str, cents: i64, description: &str) -> Result<(), Error> {
        let (token, from, to) = if cents > 0 {
            (CASH, CASH, self.iban.as_str())
        } else {
            (self.token.as_str(), self.iban.as_str(), COMPANY_IBAN)
        };
        let variables = json!({
            "uuid": Uuid::now_v7(), "token": token, "amount": cents.abs(), "from": from, "to": to,
            "descr": description,
        });
        self.connection.ask(id, TRANSFER, &variables)
    }
}

impl Client for GraphqlUser {
    fn transfer(&mut self, number: u64, cents: i64) -> Result<(), Error> {
        let number = number.to_string();
        self.transfer(&number, cents, &number)
    }

    fn receive(&mut self, until: Instant) -> Result<Option<TransferEnd>, Error> {
        while let Some(received) = self.connection.receive(until)? {
            if let Some(news) = news(received) {
                return Ok(Some(news));
            }
        }
        Ok(None)
    }

    fn reconnect(&mut self) -> Result<(), Error> {
        self.connection = Connection::open(&self.url)?;
        self.listen()
    }
}

/// The end of a step that a message contains, if any.
fn news(received: GraphqlMessage) -> Option<TransferEnd> {
    match received {
        GraphqlMessage::Data(id, data) if id == LISTENING => {
            let number = data["stream_transactions"]["descr"].as_str()?;
            number.parse().ok().map(TransferEnd::Changed)
        }
        GraphqlMessage::Data(id, data) => {
            let answer = &data["money_transfer"];
            let number = id.parse().ok()?;
            // `null` means that the outcome is not known yet. The step will time out.
            let refused = answer["success"].as_bool() == Some(false);
            let reason = answer["reason"].as_str().unwrap_or_default();
            refused.then(|| TransferEnd::Refused(number, reason.to_owned()))
        }
        GraphqlMessage::Failed(id, errors) => match id.parse() {
            Ok(number) => Some(TransferEnd::Refused(number, errors)),
            Err(_) => {
                output::progress(&format!("GraphQL operation {id} failed: {errors}"));
                None
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_and_rejections_end_a_step() {
        let data = |id: &str, data| news(GraphqlMessage::Data(id.to_owned(), data));
        let changed = |descr: &str| json!({ "stream_transactions": { "descr": descr } });
        assert_eq!(data(LISTENING, changed("7")), Some(TransferEnd::Changed(7)));
        assert_eq!(data(LISTENING, changed("a first cent")), None);
        let answer = |success| json!({ "money_transfer": { "success": success, "reason": "why" } });
        assert_eq!(data("7", answer(Some(true))), None);
        assert_eq!(data("7", answer(None)), None);
        assert_eq!(data("7", answer(Some(false))), Some(TransferEnd::Refused(7, "why".to_owned())));
        assert_eq!(data("first", answer(Some(false))), None);
        let failed = news(GraphqlMessage::Failed("7".to_owned(), "[]".to_owned()));
        assert_eq!(failed, Some(TransferEnd::Refused(7, "[]".to_owned())));
    }
}
