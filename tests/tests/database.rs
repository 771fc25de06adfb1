//! Connections to PostgreSQL: passwords, settings, a connection pooler, a silent network.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use bank::records::{Atype, ConfirmAccountCreation};
use bank_tests::bank_client::BankClient;
use bank_tests::creation;
use bank_tests::handler::{Handler, Settings};
use bank_tests::proxy::SilentProxy;
use bank_tests::stack::{PATIENCE, Stack, binary};
use bank_tests::wait::until;
use service::database;
use service::env::Env;
use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// The address of the server in a URL.
fn host(url: &str) -> &str {
    url.split(['@', '/']).nth(3).expect("env gives a URL with a user")
}

/// A command to open an account is answered.
fn opens_an_account(client: &mut BankClient<'_>) {
    client.send_creations(&[creation(Atype::Manual)] as &[ConfirmAccountCreation]);
    client.settle(PATIENCE);
}

/// The handler gives up a connection without a response instead of its process.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn silent_network_ends_no_process() {
    const SILENCE: Duration = Duration::from_secs(40);
    const NOTICED: Duration = Duration::from_secs(15);
    let stack = Stack::shared();
    let url = stack.database_url();
    let proxy = SilentProxy::start(host(url));
    let url = url.replace(host(url), &proxy.addr());
    let mut client = BankClient::open(&stack);
    let env = [("DATABASE_URL", url.as_str())];
    let handler = Handler::start_with(&stack, Settings { env: &env, ..Settings::default() });
    opens_an_account(&mut client);

    proxy.set_silent(true);
    let started = Instant::now();
    client.send_creations(&[creation(Atype::Manual)]);
    until("the handler reports that it is not ready", SILENCE, || {
        (!handler.is_ready()).then_some(())
    });
    let noticed = started.elapsed();
    while started.elapsed() < SILENCE {
        thread::sleep(Duration::from_millis(100));
        assert!(!handler.is_ready(), "after {:?}", started.elapsed());
    }
    proxy.set_silent(false);
    handler.wait_ready(Duration::from_secs(15));
    client.settle(PATIENCE);
    opens_an_account(&mut client);
    assert!(handler.exits().is_empty(), "{:?}\n{}", handler.exits(), handler.log());
    assert!(handler.log().contains("no response from PostgreSQL before the deadline"));
    assert!(noticed < NOTICED, "after {noticed:?}");

    // A shutdown does not wait for the server either.
    proxy.set_silent(true);
    client.send_creations(&[creation(Atype::Manual)]);
    let (end, took) = handler.terminate();
    assert_eq!(end.code(), Some(0), "{}", handler.log());
    assert!(took < Duration::from_secs(4), "the shutdown took {took:?}");
    let _next = Handler::start(&stack);
    client.settle(PATIENCE);
    client.check();
}

/// A role with a password. Dropping it drops the role.
struct Role<'a> {
    stack: &'a Stack,
    name: String,
}

impl<'a> Role<'a> {
    fn new(stack: &'a Stack, password: &str) -> Self {
        let name = format!("test_{}", Uuid::new_v4().simple());
        let password = password.replace('\'', "''").replace('\\', r"\\");
        let sql = format!(
            "CREATE ROLE {name} LOGIN PASSWORD E'{password}'; \
             GRANT CONNECT ON DATABASE balancedb TO {name}"
        );
        stack.database().batch_execute(&sql).unwrap();
        Self { stack, name }
    }

    /// `DATABASE_URL` of this role without a password.
    fn url(&self) -> String {
        format!("postgres://{}@{}/balancedb", self.name, host(self.stack.database_url()))
    }
}

impl Drop for Role<'_> {
    fn drop(&mut self) {
        let sql =
            format!("REVOKE CONNECT ON DATABASE balancedb FROM {0}; DROP ROLE {0}", self.name);
        self.stack.database().batch_execute(&sql).unwrap();
    }
}

/// Connects as a service does with these variables. Returns the value of a setting.
fn setting(env: &[(&str, &str)], name: &str) -> Result<String, String> {
    let lookup = |name: &str| {
        let mut values = env.iter().filter(|(it, _)| *it == name);
        values.next().map(|(_, value)| (*value).to_owned())
    };
    let config = database::config(&Env::new(&lookup)).map_err(|err| err.to_string())?;
    let settings = "-c lock_timeout=10s -c jit=off";
    let mut client =
        database::connect(&config, "test", settings).map_err(|err| format!("{err:?}"))?;
    let row = client.query_one(&format!("SHOW {name}"), &[]).map_err(|err| err.to_string())?;
    Ok(row.get(0))
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn password_may_have_any_character() {
    let stack = Stack::shared();
    let printable: String = (' '..='~').collect();
    let file = stack.log_dir().join("password");
    for password in [
        printable.as_str(),
        " spaces at both ends ",
        "tab\tand line\nbreaks\r\n",
        "control \u{1}\u{7f}",
        "pässwörd €",
        "пароль 密码 🔑",
        "x",
    ] {
        let role = Role::new(&stack, password);
        let url = role.url();
        let show = |variable: &str, value: &str| {
            setting(&[("DATABASE_URL", &url), (variable, value)], "jit")
                .map_err(|err| format!("{password:?}: {err}"))
        };
        assert_eq!(show("DATABASE_PASSWORD", password).as_deref(), Ok("off"));
        fs::write(&file, format!("{password}\n")).unwrap();
        let path = file.to_str().unwrap();
        assert_eq!(show("DATABASE_PASSWORD_FILE", path).as_deref(), Ok("off"));
        let encoded: String = password.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let url = url.replace('@', &format!(":{encoded}@"));
        assert_eq!(setting(&[("DATABASE_URL", &url)], "jit").as_deref(), Ok("off"));
        let err = show("DATABASE_PASSWORD", "wrong").unwrap_err();
        assert!(err.contains("password authentication failed"), "{err}");
    }
    fs::remove_file(&file).unwrap();
}

/// Such a variable is not taken for an unset one.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn password_that_is_not_utf_8_is_refused() {
    let output = Command::new(binary("command-handler"))
        .env("DATABASE_PASSWORD", OsStr::from_bytes(b"p\xe4ss"))
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error, "command-handler: DATABASE_PASSWORD=\"***\": expected UTF-8\n");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn commits_are_durable_with_any_default() {
    let stack = Stack::shared();
    let role = Role::new(&stack, "x");
    let show = |name: &str, options: &str| {
        let url = format!("{}?options={options}", role.url());
        setting(&[("DATABASE_URL", &url), ("DATABASE_PASSWORD", "x")], name).unwrap()
    };
    for (default, expected) in [
        ("off", "on"),
        ("local", "on"),
        ("remote_write", "on"),
        ("on", "on"),
        ("remote_apply", "remote_apply"),
    ] {
        let sql = format!("ALTER ROLE {} SET synchronous_commit = {default}", role.name);
        stack.database().batch_execute(&sql).unwrap();
        assert_eq!(show("synchronous_commit", ""), expected, "{default}");
    }
    assert_eq!(show("synchronous_commit", "-c%20synchronous_commit%3Doff"), "on");
    // The URL may replace other settings.
    assert_eq!(show("lock_timeout", ""), "10s");
    assert_eq!(show("lock_timeout", "-c%20lock_timeout%3D7s"), "7s");
}

/// A PgBouncer before balancedb. Dropping it kills the process.
struct PgBouncer {
    process: Child,
    dir: PathBuf,
    port: u16,
}

impl PgBouncer {
    fn start(stack: &Stack, mode: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let server: postgres::Config = stack.database_url().parse().unwrap();
        let [postgres::config::Host::Tcp(host)] = server.get_hosts() else { panic!("a TCP host") };
        let password = String::from_utf8(server.get_password().unwrap().to_vec()).unwrap();
        let config = format!(
            "[databases]\n\
             balancedb = host={host} port={} dbname=balancedb user={} password={password}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = {mode}\n",
            server.get_ports()[0],
            server.get_user().unwrap(),
        );
        let dir = std::env::temp_dir().join(format!("pgbouncer-{}", Uuid::new_v4()));
        fs::create_dir(&dir).unwrap();
        let path = dir.join("pgbouncer.ini");
        fs::write(&path, config).unwrap();
        // Debian installs it into a folder that is not in the PATH of every user.
        let program = Path::new("/usr/sbin/pgbouncer");
        let program = if program.exists() { program } else { Path::new("pgbouncer") };
        let mut command = Command::new(program);
        // It refuses to run as root.
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            chown(&dir, Some(DAEMON), None).unwrap();
            chown(&path, Some(DAEMON), None).unwrap();
            command.args(["-u", "daemon"]);
        }
        let log = fs::File::create(stack.log_dir().join(format!("pgbouncer-{mode}.log"))).unwrap();
        let process = command
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("stack/stack.sh prerequisites installs pgbouncer");
        let bouncer = Self { process, dir, port };
        until("PgBouncer listens", PATIENCE, || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        });
        bouncer
    }

    fn url(&self) -> String {
        format!("postgres://bank@127.0.0.1:{}/balancedb", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The user `daemon`, which every Linux has.
const DAEMON: u32 = 1;

#[test]
#[ignore = "needs the stack: make test-integration"]
fn pgbouncer_works_with_session_pooling() {
    let stack = Stack::shared();
    let bouncer = PgBouncer::start(&stack, "session");
    let url = bouncer.url();
    let env = [("DATABASE_URL", url.as_str())];
    let settings = Settings { env: &env, ..Settings::default() };
    let mut client = BankClient::open(&stack);
    let handler = Handler::start_with(&stack, settings);
    opens_an_account(&mut client);
    let other = Handler::start_with(&stack, settings);
    opens_an_account(&mut client);
    handler.kill_for_good();
    opens_an_account(&mut client);
    other.stop();
    client.check();
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn pgbouncer_is_refused_in_other_modes() {
    let stack = Stack::shared();
    for mode in ["transaction", "statement"] {
        let bouncer = PgBouncer::start(&stack, mode);
        let url = bouncer.url();
        let env = [("DATABASE_URL", url.as_str())];
        let settings = Settings { env: &env, once: true, ..Settings::default() };
        let handler = Handler::launch(&stack, settings);
        let end = handler.wait_exits(1, PATIENCE);
        let log = handler.log();
        assert_eq!(end.code(), Some(1), "{mode}: {log}");
        let last = log.lines().last().unwrap();
        assert!(last.contains("or set pool_mode=session in PgBouncer"), "{mode}: {log}");
    }
}

/// A role without the rights of monitoring sees neither the queries of others nor their times.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn snapshot_of_another_role_is_measured() {
    const MEASURED: Duration = Duration::from_secs(20);
    let stack = Stack::shared();
    let owner = stack.database_url();
    let migrated = Command::new(binary("command-handler"))
        .arg("--migrate")
        .env("DATABASE_URL", owner)
        .env("DATABASE_SERVICE_ROLE", "command_handler")
        .status()
        .unwrap();
    assert!(migrated.success());
    let url = format!("postgres://command_handler@{}/balancedb", host(owner));
    let folder = std::env::var("STACK_DATA_DIR").unwrap();
    let password = format!("{folder}/command_handler.password");
    let env = [("DATABASE_URL", url.as_str()), ("DATABASE_PASSWORD_FILE", &password)];
    let mut client = BankClient::open(&stack);
    let handler = Handler::start_with(&stack, Settings { env: &env, ..Settings::default() });
    let age = || handler.metric("bank_oldest_snapshot_seconds");
    until("no snapshot is old", MEASURED, || (age()? == 0.0).then_some(()));

    for begin in
        ["BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1", "BEGIN; SELECT pg_current_xact_id()"]
    {
        let started = Instant::now();
        let mut other = stack.database();
        other.batch_execute(begin).unwrap();
        let measured = until("the snapshot is old", MEASURED, || age().filter(|age| *age >= 5.0));
        assert!(measured <= started.elapsed().as_secs_f64(), "{begin}: {measured} s");
        other.batch_execute("ROLLBACK").unwrap();
        until("the snapshot is gone", MEASURED, || (age()? == 0.0).then_some(()));
    }

    opens_an_account(&mut client);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let decided = handler.metric("bank_last_decision_timestamp_seconds").unwrap();
    assert!((now - 10.0..=now).contains(&decided), "{decided} at {now}");
    client.check();
}
