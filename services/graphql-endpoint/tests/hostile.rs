//! Tests with malicious and stalled clients: the service keeps serving other clients.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use bank::records::BalanceChanged;
use bank_tests::stack::{PATIENCE, Post, Stack, post};
use bank_tests::wait::until;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use support::{Endpoint, change, read, record, subscribe};
use tungstenite::Message;
use tungstenite::protocol::frame::coding::CloseCode;

/// `count` records of balance_changed of about a kilobyte.
fn changes(stack: &Stack, iban: &str, count: usize) -> Vec<Post> {
    let long = |at: usize| {
        let description = format!("{at} {}", "x".repeat(1000));
        record(stack, &BalanceChanged { description, ..change(iban, at as i64 + 1) })
    };
    (0..count).map(long).collect()
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn slow_subscriber_is_cut_off_and_no_other() {
    // More than the buffers of the sockets hold.
    const COUNT: usize = 40_000;
    const STEP: usize = 1000;
    let stack = Stack::shared();
    let endpoint = Endpoint::start(&stack);
    let iban = bank_tests::nobody();
    let (mut slow, mut quick) = (endpoint.websocket(), endpoint.websocket());
    subscribe(&mut slow, "1", &iban);
    subscribe(&mut quick, "1", &iban);
    endpoint.wait_for_subscribers(2);
    let (progress, reached) = mpsc::channel();
    let reader = thread::spawn(move || {
        for at in 0..COUNT {
            if at % STEP == 0 {
                progress.send(at).unwrap();
            }
            let event: Value = serde_json::from_str(read(&mut quick).to_text().unwrap()).unwrap();
            let descr = event["payload"]["data"]["stream_transactions"]["descr"].as_str().unwrap();
            assert!(descr.starts_with(&format!("{at} ")), "in order and complete: {at}, {descr}");
        }
        quick
    });
    let mut kafka_client = stack.kafka_client();
    for batch in changes(&stack, &iban, COUNT).chunks(STEP) {
        // As fast as the quick client reads.
        reached.recv_timeout(PATIENCE).unwrap();
        post(&mut *kafka_client, batch);
    }
    until("the slow one is cut off", PATIENCE, || {
        (endpoint.metric("graphql_subscribers_cut_off_total") == 1).then_some(())
    });
    // Transactions in transit arrive first, then the close frame.
    let closed = loop {
        match read(&mut slow) {
            Message::Close(frame) => break frame.unwrap(),
            event => assert!(event.to_text().unwrap().contains("stream_transactions")),
        }
    };
    assert_eq!(closed.code, CloseCode::Again);
    assert_eq!(closed.reason.as_str(), "too slow: 8192 transactions were waiting");
    let _quick = reader.join().unwrap();
    endpoint.wait_for_subscribers(1);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn operation_budget_limits_rows_and_bytes() {
    let stack = Stack::shared();
    let endpoint = Endpoint::start(&stack);
    let iban = bank_tests::nobody();
    post(&mut *stack.kafka_client(), &changes(&stack, &iban, 1000));
    let list = |fields: &str| {
        endpoint.ask(
            &format!(
                "{{ transactions_by_iban(iban: \"{iban}\", max_items: 1000) {{ {fields} }} }}"
            ),
            &json!({}),
        )
    };
    until("all changes are stored", PATIENCE, || {
        let stored = list("id");
        (stored["data"]["transactions_by_iban"].as_array().unwrap().len() == 1000).then_some(())
    });
    let refusal = |answer: &Value| {
        let error = answer["errors"].get(0)?;
        assert_eq!(error["extensions"]["code"], "TOO_COSTLY", "{error}");
        error["message"].as_str().map(str::to_owned)
    };
    // A thousand descriptions have about a mebibyte.
    let all_fields = "id ref sequence time iban new_balance changed_by new_balance_cents \
                      changed_by_cents from_to descr direction";
    assert_eq!(refusal(&list(all_fields)), None);
    let repeated = list("a: descr b: descr c: descr");
    assert!(refusal(&repeated).unwrap().contains("exceeds 2097152 bytes"), "{repeated:.300}");
    // The same list as a page, also with fields in fragments or selected twice.
    let page = |fields: &str, fragments: &str| {
        let list = format!("transactions(iban: \"{iban}\", first: 1000)");
        endpoint.ask(&format!("{{ {list} {{ {fields} }} }} {fragments}"), &json!({}))
    };
    let whole = page(&format!("edges {{ cursor node {{ {all_fields} }} }}"), "");
    assert_eq!(refusal(&whole), None);
    let fragment = "fragment f on TransactionConnection {
        edges { node { a: descr b: descr } } ... { edges { node { c: descr } } } }";
    for (fields, fragments) in [
        ("edges { node { a: descr b: descr c: descr } }", ""),
        ("edges { node { a: descr } } edges { node { b: descr c: descr } }", ""),
        ("edges { x: node { descr } y: node { descr } z: node { descr } }", ""),
        ("x: edges { node { descr } } y: edges { node { a: descr b: descr } }", ""),
        ("...f", fragment),
    ] {
        let answer = page(fields, fragments);
        assert!(refusal(&answer).unwrap().contains("exceeds 2097152 bytes"), "{answer:.300}");
    }
    let lists = |count: usize| {
        let fields = (0..count).map(|n| format!("a{n}: all_last_transactions {{ id }} "));
        endpoint.ask(&format!("{{ {} }}", fields.collect::<String>()), &json!({}))
    };
    assert_eq!(refusal(&lists(2)), None);
    let answer = lists(60);
    assert!(refusal(&answer).unwrap().contains("reads more than 2000 rows"), "{answer:.300}");
    assert!(answer.to_string().len() < 1 << 20);
    let single = (0..101).map(|n| format!("a{n}: transaction_by_id(id: {n}) {{ id }} "));
    let answer = endpoint.ask(&format!("{{ {} }}", single.collect::<String>()), &json!({}));
    assert_eq!(answer["errors"].as_array().unwrap().len(), 1, "{answer:.300}");
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn shutdown_closes_subscriptions() {
    let stack = Stack::shared();
    let endpoint = Endpoint::start(&stack);
    let mut socket = endpoint.websocket();
    subscribe(&mut socket, "1", "nobody");
    endpoint.wait_for_subscribers(1);
    let took = endpoint.stop();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let Message::Close(Some(frame)) = read(&mut socket) else { panic!("expected a close") };
    assert_eq!(frame.code, CloseCode::Away);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn subscribers_receive_transactions_of_all_endpoints() {
    let stack = Stack::shared();
    let endpoints = [Endpoint::start(&stack), Endpoint::start(&stack)];
    let ibans: Vec<String> = (0..20).map(|_| bank_tests::nobody()).collect();
    let query = "subscription { stream_transactions { iban } }";
    let message = json!({ "type": "subscribe", "id": "1", "payload": { "query": query } });
    let mut sockets: Vec<_> = endpoints.iter().map(Endpoint::websocket).collect();
    for (socket, endpoint) in sockets.iter_mut().zip(&endpoints) {
        socket.send(Message::text(message.to_string())).unwrap();
        endpoint.wait_for_subscribers(1);
    }
    let posts: Vec<Post> = ibans.iter().flat_map(|iban| changes(&stack, iban, 1)).collect();
    post(&mut *stack.kafka_client(), &posts);
    for socket in &mut sockets {
        let mut missing: Vec<&str> = ibans.iter().map(String::as_str).collect();
        while !missing.is_empty() {
            let event: Value = serde_json::from_str(read(socket).to_text().unwrap()).unwrap();
            let iban = event["payload"]["data"]["stream_transactions"]["iban"].as_str().unwrap();
            missing.retain(|it| *it != iban);
        }
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn thousand_subscriptions_need_few_threads() {
    const SOCKETS: u32 = 40;
    const EACH: u32 = 25;
    let stack = Stack::shared();
    let endpoint = Endpoint::start(&stack);
    let iban = bank_tests::nobody();
    let mut sockets: Vec<_> = (0..SOCKETS).map(|_| endpoint.websocket()).collect();
    for socket in &mut sockets {
        for id in 0..EACH {
            subscribe(socket, &id.to_string(), &iban);
        }
    }
    endpoint.wait_for_subscribers(SOCKETS * EACH);
    let threads = endpoint.process_status("Threads");
    assert!(threads < 64, "{threads}");
    post(&mut *stack.kafka_client(), &changes(&stack, &iban, 1));
    for socket in &mut sockets {
        for _ in 0..EACH {
            assert!(read(socket).to_text().unwrap().contains(r#""descr":"0 x"#));
        }
    }
    // Half of them complete, the others disconnect.
    for socket in sockets.iter_mut().take(SOCKETS as usize / 2) {
        for id in 0..EACH {
            let message = json!({ "type": "complete", "id": id.to_string() });
            socket.send(Message::text(message.to_string())).unwrap();
        }
    }
    endpoint.wait_for_subscribers(SOCKETS * EACH / 2);
    drop(sockets);
    endpoint.wait_for_subscribers(0);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn slow_readers_hold_nobody_up() {
    let stack = Stack::shared();
    let endpoint = Endpoint::start(&stack);
    let iban = bank_tests::nobody();
    post(&mut *stack.kafka_client(), &changes(&stack, &iban, 1000));
    let fields = "descr new_balance";
    let query =
        format!("{{ transactions_by_iban(iban: \"{iban}\", max_items: 1000) {{{fields}}} }}");
    let list = || {
        let answer = endpoint.data(&query, &json!({}));
        answer["transactions_by_iban"].as_array().unwrap().len()
    };
    until("all changes are stored", PATIENCE, || (list() == 1000).then_some(()));
    let body = json!({ "query": query }).to_string();
    let ask = |_| {
        let mut socket = TcpStream::connect(("127.0.0.1", endpoint.port)).unwrap();
        let length = body.len();
        let head = format!(
            "POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        socket.write_all(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
        socket
    };
    let slow: Vec<TcpStream> = (0..40).map(ask).collect();
    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(list(), 1000);
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    }
    let peak = endpoint.process_status("VmHWM") >> 10;
    assert!(peak < 64, "{peak} MiB");
    drop(slow);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn request_to_another_host_is_misdirected() {
    let stack = Stack::shared();
    let origins = ("CORS_ORIGINS", "https://bank.example");
    let endpoint = Endpoint::start_with(&stack, &[origins]);
    let status = |host: &str, headers: &str| {
        let mut socket = TcpStream::connect(("127.0.0.1", endpoint.port)).unwrap();
        let request =
            format!("GET /graphql?query={{__typename}} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let mut status = [0; 12];
        socket.read_exact(&mut status).unwrap();
        str::from_utf8(&status[9..]).unwrap().to_owned()
    };
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    for host in ["localhost", "127.0.0.1:8888", "[::1]:8888", "bank.example", "bank.example:81"] {
        assert_eq!((status(host, "").as_str(), status(host, upgrade).as_str()), ("200", "101"));
    }
    for host in ["evil.example", "localhost.evil.example", "bank.example.evil.example"] {
        assert_eq!((status(host, "").as_str(), status(host, upgrade).as_str()), ("421", "421"));
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn hostile_requests_get_errors() {
    let stack = Stack::shared();
    let mut endpoint = Endpoint::start(&stack);
    let is_responsive = |endpoint: &Endpoint| {
        let asked = Instant::now();
        assert_eq!(endpoint.data("{ __typename }", &json!({}))["__typename"], "Query");
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
    };
    is_responsive(&endpoint);
    let agent = support::agent();
    let send = |body: &[u8]| {
        let sent = agent.post(endpoint.url()).header("Content-Type", "application/json").send(body);
        sent.map(|mut answer| {
            (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap_or_default())
        })
    };
    let document = |query: &str| json!({ "query": query }).to_string().into_bytes();
    // As large as a body may be.
    for hostile in [
        "{a".repeat(30_000),
        format!("{{{}}}", " a:__typename".repeat(5_000)),
        format!("{{{}}}", " __typename".repeat(5_900)),
        "query { ...a } fragment a on Query { ...b } fragment b on Query { ...a }".to_owned(),
        (0..30).fold("{ ...f0 }".to_owned(), |all, n| {
            all + &format!(" fragment f{n} on Query {{ ...f{m} ...f{m} }}", m = n + 1)
        }) + " fragment f30 on Query { __typename }",
        format!("{{ transaction_by_id(id: {}1) {{ id }} }}", "[".repeat(30_000)),
        format!("query($a: {}Int{}) {{ __typename }}", "[".repeat(30_000), "]".repeat(30_000)),
        "\u{feff}{".to_owned(),
        // juniper panics on these: document_rules.rs.
        "query($v: Boolean = null) { __typename @skip(if: $v) }".to_owned(),
        "subscription { ...f } fragment f on Subscription { __typename }".to_owned(),
    ] {
        let (status, answer) = send(&document(&hostile)).unwrap();
        assert_eq!(status, 200);
        assert!(
            answer.starts_with(r#"{"errors":["#) || answer.starts_with(r#"{"errors":{"#),
            "{answer:.300}"
        );
        is_responsive(&endpoint);
    }
    let deep = format!(
        r#"{{"query":"{{ __typename }}","variables":{{"a":{}{}}}}}"#,
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    assert_eq!(send(deep.as_bytes()).unwrap().0, 400);
    assert_eq!(send(b"{\"query\":\"\xff\xfe\"}").unwrap().0, 400);
    // Larger than a body may be. The connection may be closed while the client still sends.
    for large in
        [vec![b'x'; 10 << 20], document(&"{a".repeat(100_000)), document(&"a:b ".repeat(100_000))]
    {
        if let Ok((status, _)) = send(&large) {
            assert_eq!(status, 413);
        }
        is_responsive(&endpoint);
    }
    // Invalid frames, incomplete frames, half-closed sockets.
    let upgrade = "GET /graphql HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
        Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n";
    let raw = |frames: &[u8]| {
        let mut socket = TcpStream::connect(("127.0.0.1", endpoint.port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(upgrade.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        socket.write_all(frames).unwrap();
        socket
    };
    let masked = |head: &[u8], payload: &[u8]| [head, &[0; 4], payload].concat();
    for (frames, code) in [
        (vec![0x81, 0x01, b'x'], 1002),     // not masked
        (masked(&[0xff, 0x80], b""), 1002), // reserved bits, unknown opcode
        // 2^63 - 1 bytes.
        (masked(&[0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], b""), 1009),
        (masked(&[0x81, 0x82], b"\xff\xfe"), 1007), // not UTF-8
        (masked(&[0x80, 0x81], b"x"), 1002),        // continuation without a start
        (masked(&[0x81, 0x80], b""), 4400),         // empty message
        (Vec::new(), 4408),                         // no data
        (vec![0x81], 4408),                         // incomplete frame
    ] {
        let mut socket = raw(&frames);
        let mut received = Vec::new();
        socket.read_to_end(&mut received).unwrap();
        assert!(received.len() >= 4 && received[0] == 0x88, "{frames:?}: {received:?}");
        assert_eq!(u16::from_be_bytes([received[2], received[3]]), code, "{frames:?}");
        is_responsive(&endpoint);
    }
    let crowd = || {
        let idle: Vec<TcpStream> = (0..200).map(|_| raw(b"")).collect();
        for socket in idle.iter().take(100) {
            socket.shutdown(Shutdown::Write).unwrap();
        }
        is_responsive(&endpoint);
        for mut socket in idle {
            let mut rest = Vec::new();
            socket.read_to_end(&mut rest).unwrap();
        }
        is_responsive(&endpoint);
        endpoint.rss_mib()
    };
    // The allocator reuses stacks and arenas of ended threads, so a second crowd needs no more
    // memory than the first.
    let (first, second) = (crowd(), crowd());
    assert!(second < first + 4.0, "{first} MiB, then {second} MiB");
    assert!(endpoint.is_alive());
    assert!(!endpoint.log().contains("panicked"));
}
