//! Commands in schemas of other programs, and registries that respond oddly.

use avro::Record;
use avro::registry::BACKWARD;
use bank::records::ConfirmMoneyTransfer;
use bank::topology::{CONFIRM_MONEY_TRANSFER, DEAD_LETTER};
use bank_tests::bank_client::BankClient;
use bank_tests::handler::Handler;
use bank_tests::kafka_admin::set_config;
use bank_tests::stack::{PATIENCE, Post, Stack, post};
use bank_tests::wait::until;
use bank_tests::{Account, SHOP};
use messaging::KafkaClient;
use messaging::partitioner::partition;
use observer::ObservedRecord;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// Dead letters for one reason, more than a handler tolerates while it is ready.
const RUN: usize = 40;

/// Bytes of a datum after the fields of our schema.
type Suffix = &'static [u8];

/// A subject of one test in the registry. Schemas have the same ids in all subjects.
struct Subject<'a> {
    stack: &'a Stack,
    name: String,
}

impl<'a> Subject<'a> {
    fn new(stack: &'a Stack) -> Self {
        let name = format!("foreign-{}", Uuid::new_v4());
        stack.registry.set_compatibility(&name, BACKWARD).expect("the level can be set");
        Self { stack, name }
    }

    /// A subject with the schema of transfers: the registry checks newer versions against it.
    fn of_transfers(stack: &'a Stack) -> Self {
        let subject = Self::new(stack);
        subject.register(&ours(), &json!([]));
        subject
    }

    fn register(&self, schema: &Value, references: &Value) -> u32 {
        let body = json!({"schema": schema.to_string(), "references": references});
        self.post(&body)
    }

    fn post(&self, body: &Value) -> u32 {
        let url = format!("{}/subjects/{}/versions", self.stack.registry_url(), self.name);
        let mut response = ureq::post(&url)
            .content_type("application/vnd.schemaregistry.v1+json")
            .send(body.to_string())
            .unwrap_or_else(|err| panic!("{body}: {err}"));
        let text = response.body_mut().read_to_string().expect("a response has a body");
        let response: Value = serde_json::from_str(&text).expect("the registry sends JSON");
        response["id"].as_u64().and_then(|id| id.try_into().ok()).expect("a response has an id")
    }
}

/// The schema of transfers, with a documentation that no other schema has.
fn ours() -> Value {
    let text = ConfirmMoneyTransfer::TOPIC.schema.expect("the topic has a schema");
    let mut schema: Value = serde_json::from_str(text).expect("the schema is JSON");
    schema["doc"] = Uuid::new_v4().to_string().into();
    schema
}

/// A record for `command` with another schema id and `suffix` after its datum.
fn foreign(stack: &Stack, command: &ConfirmMoneyTransfer, id: u32, suffix: &[u8]) -> Post {
    let mut value = stack.transfers.encode(command);
    value[1..5].copy_from_slice(&id.to_be_bytes());
    value.extend_from_slice(suffix);
    Post::keyed(&CONFIRM_MONEY_TRANSFER, command.id.to_string(), value)
}

/// The dead letter of the record at `offset`, with its reason.
fn dead_letter(
    client: &mut BankClient<'_>,
    partition: i32,
    offset: i64,
) -> (ObservedRecord, String) {
    let origin = format!("confirm_money_transfer/{partition}/{offset}: ");
    until("a record in dead_letter", PATIENCE, || {
        client.read(Duration::from_millis(100));
        client.dead_letters.iter().find_map(|it| {
            let reason = it.key_text().strip_prefix(&origin)?.to_owned();
            Some((it.clone(), reason))
        })
    })
}

/// Sends `posts` and returns their dead letters.
fn buried(
    client: &mut BankClient<'_>,
    kafka: &mut dyn KafkaClient,
    posts: &[Post],
) -> Vec<(ObservedRecord, String)> {
    let offsets = post(kafka, posts);
    let pairs = posts.iter().zip(offsets);
    pairs.map(|(post, offset)| dead_letter(client, post.partition, offset)).collect()
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn transfers_in_accepted_schemas_are_decided() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let [account] = client.open_accounts(1, 1_000).try_into().unwrap();
    let field = |schema: &mut Value, index: usize, kind: Value| {
        schema["fields"][index]["type"] = kind;
    };
    type Change<'a> = &'a dyn Fn(&mut Value);
    let cases: [(Change<'_>, Suffix); 7] = [
        (&|it| it["namespace"] = "com.other".into(), &[]),
        (&|it| it["fields"][0]["type"]["namespace"] = "com.other".into(), &[]),
        (
            &|it| {
                it["name"] = "Transfer".into();
                it["aliases"] = json!(["ConfirmMoneyTransfer"]);
            },
            &[],
        ),
        (&|it| field(it, 5, "bytes".into()), &[]),
        (
            &|it| {
                it["fields"][0]["type"]["logicalType"] = "uuid".into();
                field(it, 2, json!({"type": "long", "logicalType": "timestamp-millis"}));
            },
            &[],
        ),
        (
            &|it| {
                let more = json!({"name": "more", "type": ["null", "double"], "default": null});
                it["fields"].as_array_mut().unwrap().push(more);
            },
            // A double.
            &[2, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        (
            &|it| {
                let fields = it["fields"].as_array_mut().unwrap();
                let mut last = fields.pop().unwrap();
                last["type"] = json!(["null", "string"]);
                fields.push(json!({"name": "more", "type": "string", "default": ""}));
                fields.push(last);
            },
            // The first text is the one that our schema does not have.
            &[2, 2, b'x'],
        ),
    ];
    for (change, suffix) in cases {
        let mut schema = ours();
        change(&mut schema);
        let id = Subject::of_transfers(&stack).register(&schema, &json!([]));
        decide(&mut client, &stack, &account, (id, suffix), &schema);
    }
    // The registry refuses a narrower type as a newer version. It accepts it as the first one.
    let mut narrower = ours();
    field(&mut narrower, 2, "int".into());
    let id = Subject::new(&stack).register(&narrower, &json!([]));
    decide(&mut client, &stack, &account, (id, &[]), &narrower);
    assert!(handler.exits().is_empty());
    client.check();
}

/// Sends a transfer in the schema with this id and checks that it is confirmed.
#[track_caller]
fn decide(
    client: &mut BankClient<'_>,
    stack: &Stack,
    account: &Account,
    (id, suffix): (u32, Suffix),
    schema: &Value,
) {
    let command = account.pays(1, SHOP);
    client.expect([command.id]);
    post(&mut *stack.kafka_client(), &[foreign(stack, &command, id, suffix)]);
    client.settle(PATIENCE);
    assert_eq!(client.refusal(command.id), None, "{schema}");
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn transfers_in_schemas_with_references_are_decided() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let _handler = Handler::start(&stack);
    let [account] = client.open_accounts(1, 1_000).try_into().unwrap();
    let reference = |name: &str, subject: &Subject<'_>| {
        let subject = &subject.name;
        json!({"name": name, "subject": subject, "version": 1})
    };
    let uuid_name = "nl.openweb.data.Uuid";
    let (uuid, extra) = (Subject::new(&stack), Subject::new(&stack));
    let fixed = json!({"type": "fixed", "name": uuid_name, "size": 16});
    uuid.register(&fixed, &json!([]));
    let fields = json!([{"name": "id", "type": uuid_name}]);
    let record = json!({"type": "record", "name": "com.other.Extra", "fields": fields});
    extra.register(&record, &json!([reference(uuid_name, &uuid)]));

    let mut schema = ours();
    schema["fields"][0]["type"] = "Uuid".into();
    let references = json!([reference(uuid_name, &uuid)]);
    let id = Subject::of_transfers(&stack).register(&schema, &references);
    decide(&mut client, &stack, &account, (id, &[]), &schema);

    let more = json!({"name": "more", "type": "com.other.Extra"});
    schema["fields"].as_array_mut().unwrap().push(more);
    let references = json!([reference("com.other.Extra", &extra)]);
    let id = Subject::new(&stack).register(&schema, &references);
    decide(&mut client, &stack, &account, (id, &[7; 16]), &schema);
    client.check();
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn schema_registered_after_its_record_is_found() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let _handler = Handler::start(&stack);
    let [account] = client.open_accounts(1, 1_000).try_into().unwrap();
    let subject = Subject::of_transfers(&stack);
    // Ids are given out in ascending order.
    let wanted = subject.register(&ours(), &json!([])) + 2;
    let command = account.pays(1, SHOP);
    client.expect([command.id]);
    post(&mut *stack.kafka_client(), &[foreign(&stack, &command, wanted, &[])]);
    client.read(Duration::from_secs(1));
    until("the schema has its id", PATIENCE, || {
        let id = subject.register(&ours(), &json!([]));
        assert!(id <= wanted, "id {wanted} was skipped");
        (id == wanted).then_some(())
    });
    client.settle(PATIENCE);
    assert_eq!(client.refusal(command.id), None);
    assert!(client.dead_letters.is_empty(), "{:?}", client.dead_letters);
    client.check();
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn unusable_schemas_make_records_undecodable() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let [account] = client.open_accounts(1, 1_000).try_into().unwrap();
    let mut kafka = stack.kafka_client();
    let mut huge = ours();
    huge["doc"] = "x".repeat(2 << 20).into();
    let huge = Subject::new(&stack).register(&huge, &json!([]));
    let protobuf = json!({
        "schemaType": "PROTOBUF", "schema": "syntax = \"proto3\"; message A { string b = 1; }"
    });
    let protobuf = Subject::new(&stack).post(&protobuf);
    for (id, expected) in [(huge, "bytes"), (protobuf, "not a schema")] {
        let record = foreign(&stack, &account.pays(1, SHOP), id, &[]);
        let found = buried(&mut client, &mut *kafka, &[record]);
        assert!(found[0].1.contains(expected), "{}", found[0].1);
        assert_eq!(client.decide(&account.pays(1, SHOP)), None);
    }
    assert!(handler.exits().is_empty(), "{:?}", handler.exits());
    client.check();
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn values_of_foreign_records_are_never_shown() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let [account] = client.open_accounts(1, 1_000).try_into().unwrap();
    let mut kafka = stack.kafka_client();
    let secret = 3_141_592_653_589_793_238_i64;
    let zigzag = (secret as u64) << 1;
    let mut digits = Vec::new();
    for shift in (0..70).step_by(7) {
        let more = if shift == 63 { 0 } else { 0x80 };
        digits.push((zigzag >> shift) as u8 & 0x7f | more);
    }
    let mut schema = ours();
    schema["fields"][1]["type"] = "long".into();
    let foreign_id = Subject::new(&stack).register(&schema, &json!([]));
    // The second record has the id of our schema: its number is read as the length of a text.
    for id in [foreign_id, stack.schema_ids[CONFIRM_MONEY_TRANSFER.name]] {
        let command = account.pays(1, SHOP);
        let mut record = foreign(&stack, &command, id, &[]);
        let value = record.value.as_mut().unwrap();
        value.splice(21..=21 + command.token.len(), digits.iter().copied());
        let (_, reason) = buried(&mut client, &mut *kafka, &[record]).remove(0);
        assert!(!reason.contains("314159"), "{reason}");
        assert!(reason.contains("token"), "{reason}");
    }
    assert!(!handler.log().contains("314159"), "{}", handler.log());
    assert!(!handler.log().contains(&account.token), "{}", handler.log());
    client.check();
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn run_of_dead_letters_makes_the_handler_unready() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let [account] = client.open_accounts(1, 1_000).try_into().unwrap();
    let mut kafka = stack.kafka_client();
    let bad: Vec<Post> = (0..RUN as u8)
        .map(|n| {
            let key = Uuid::new_v4().to_string();
            Post::keyed(&CONFIRM_MONEY_TRANSFER, key, vec![1, n])
        })
        .collect();
    buried(&mut client, &mut *kafka, &bad);
    until("the handler is not ready", PATIENCE, || (!handler.is_ready()).then_some(()));
    let lines = handler.log().lines().filter(|line| line.contains("magic byte")).count();
    assert!(lines <= 2, "one reason is logged {lines} times");
    assert_eq!(client.decide(&account.pays(1, SHOP)), None);
    handler.wait_ready(PATIENCE);
    assert!(handler.exits().is_empty());
    client.check();
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn oversized_dead_letter_is_cut() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let [account] = client.open_accounts(1, 1_000).try_into().unwrap();
    let mut kafka = stack.kafka_client();
    // With the bank's own limits every dead letter fits, so its contract has no cut ones. An
    // operator has set this limit.
    let limit = 100_000;
    set_config(&stack, DEAD_LETTER.name, "max.message.bytes", &limit.to_string());
    let length = 200_000;
    let key = b"k".to_vec();
    let at = partition(&key, CONFIRM_MONEY_TRANSFER.partitions);
    let value = vec![7; length];
    let topic = CONFIRM_MONEY_TRANSFER.name;
    let record = Post { topic, partition: at, key: Some(key), value: Some(value.clone()) };
    let (found, reason) = buried(&mut client, &mut *kafka, &[record]).remove(0);
    assert!(reason.contains(&format!("first {} of {length} bytes", found.value.len())), "{reason}");
    assert!((limit / 4..limit).contains(&found.value.len()), "{} bytes", found.value.len());
    assert!(value.starts_with(&found.value));
    let own = DEAD_LETTER.batch_bytes_max.to_string();
    set_config(&stack, DEAD_LETTER.name, "max.message.bytes", &own);
    assert_eq!(client.decide(&account.pays(1, SHOP)), None);
    assert!(!handler.log().contains("record dropped"), "{}", handler.log());
    assert!(handler.exits().is_empty());
}
