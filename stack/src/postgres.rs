//! PostgreSQL with the databases balancedb and transactiondb, both owned by the role `bank`, and a
//! role for each service with a database. If there is a standby, the primary waits for it at each
//! commit. PostgreSQL refuses to run as root, so root runs it as `POSTGRES_USER`.

use crate::clock;
use crate::error::{Context, Result, failed};
use crate::foreground::{self, Report};
use crate::interrupt;
use crate::parts::{self, Part, Service};
use crate::settings;
use crate::stack::Stack;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The role that owns the databases. Migrations, tests and measurements use it.
const OWNER: &str = "bank";
const INIT_LIMIT: Duration = Duration::from_secs(120);
/// Limit of a copy of the primary's data, of the wait for the primary, and of a promotion.
const COPY_LIMIT: Duration = Duration::from_secs(600);
const CHECK_LIMIT: Duration = Duration::from_secs(5);
/// Time for the backends to end after their postmaster was killed.
const BACKENDS_LIMIT: Duration = Duration::from_secs(10);

fn data(stack: &Stack, part: Part) -> PathBuf {
    stack.data_dir().join(part.to_string())
}

/// Contains the name of the primary after a promotion.
fn primary_file(stack: &Stack) -> PathBuf {
    stack.data_dir().join("postgres.primary")
}

/// The server that accepts writes.
fn primary(stack: &Stack) -> Part {
    let name = fs::read_to_string(primary_file(stack)).unwrap_or_default();
    if name.trim() == Part::Standby.to_string() { Part::Standby } else { Part::Postgres }
}

/// The folder of `postgres`, `initdb` and `pg_isready`: `POSTGRES_BIN`, or that of the newest
/// PostgreSQL.
fn bin() -> Result<PathBuf> {
    let complete = |dir: &PathBuf| {
        ["postgres", "initdb", "pg_isready"].iter().all(|program| dir.join(program).is_file())
    };
    if let Some(given) = settings::folder("POSTGRES_BIN")? {
        if complete(&given) {
            return Ok(given);
        }
        return Err(failed(format!(
            "POSTGRES_BIN={} does not contain postgres, initdb and pg_isready",
            given.display()
        )));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = debian_folders().into_iter().chain(std::env::split_paths(&path)).find(complete);
    found.ok_or_else(|| failed("PostgreSQL not found: set POSTGRES_BIN to its folder"))
}

/// Folders of Debian's PostgreSQL packages, the newest version first.
fn debian_folders() -> Vec<PathBuf> {
    let Ok(versions) = fs::read_dir("/usr/lib/postgresql") else { return Vec::new() };
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.split('.').next()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    versions.into_iter().rev().map(|(_, dir)| dir).collect()
}

fn user() -> Result<String> {
    Ok(settings::variable("POSTGRES_USER")?.unwrap_or_else(|| "postgres".to_owned()))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The beginning of a command line that runs it as a user whom PostgreSQL accepts.
fn as_user(stack: &Stack) -> Result<Vec<String>> {
    if !is_root() {
        return Ok(Vec::new());
    }
    let user = user()?;
    let base = ["setpriv".to_owned(), format!("--reuid={user}"), format!("--regid={user}")];
    let base = [&base[..], &["--init-groups".to_owned()]].concat();
    // If the checkout is below root's home, that user can't enter the folders above it. The user
    // then gets a capability: the smaller one if possible. A container has only the larger one.
    for capability in [None, Some("dac_read_search"), Some("dac_override")] {
        let mut words = base.clone();
        if let Some(name) = capability {
            words.push(format!("--inh-caps=+{name}"));
            words.push(format!("--ambient-caps=+{name}"));
        }
        // Not access(2), as in `test -x`, since it ignores capabilities.
        let mut check = Command::new(&words[0]);
        check.args(&words[1..]).arg("stat").arg(stack.dir.join("."));
        if foreground::succeeds(&mut check, CHECK_LIMIT) {
            return Ok(words);
        }
        interrupt::check()?;
    }
    Err(failed(format!(
        "user {user}, as whom root runs PostgreSQL, cannot reach {}: \
         set STACK_DIR to another folder",
        stack.dir.display()
    )))
}

/// Waits until an earlier PostgreSQL has ended. Creates the databases and roles once. The data of a
/// standby are replaced by a copy of the primary's.
pub fn prepare(stack: &Stack, part: Part) -> Result<()> {
    let data = data(stack, part);
    wait_until_backends_end(&data)?;
    if part != primary(stack) {
        return copy_primary(stack, &data);
    }
    if !data.is_dir() {
        create(stack, &data)?;
    }
    // Data of an earlier version has no roles of services.
    for service in parts::SERVICES.iter().filter(|service| service.database.is_some()) {
        create_role(stack, &data, service)?;
    }
    Ok(())
}

fn copy_primary(stack: &Stack, data: &Path) -> Result<()> {
    let port = primary(stack).first_port(&stack.settings);
    let since = Instant::now();
    while !is_ready(port) {
        if since.elapsed() > COPY_LIMIT {
            return Err(failed(format!("no primary answers on port {port}")));
        }
        interrupt::pause(Duration::from_millis(200))?;
    }
    create_folder(stack, data)?;
    let password = password(stack, OWNER)?;
    let primary = format!("host=127.0.0.1 port={port} user={OWNER} password={password}");
    let arguments = ["-D", &data.display().to_string(), "-c", "fast", "-R", "-d", &primary];
    run(stack, "pg_basebackup", &arguments, "", COPY_LIMIT)
}

/// Makes the standby `part` the primary.
pub fn promote(stack: &Stack, part: Part) -> Result<()> {
    let data = data(stack, part).display().to_string();
    run(stack, "pg_ctl", &["promote", "-w", "-D", &data], "", COPY_LIMIT)?;
    let file = primary_file(stack);
    fs::write(&file, format!("{part}\n")).context(file.display())
}

/// Creates a folder for the user who runs PostgreSQL, instead of an existing one.
fn create_folder(stack: &Stack, path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).context(path.display())?;
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(stack.data_dir())
        .context(path.display())?;
    DirBuilder::new().mode(0o700).create(path).context(path.display())?;
    if is_root() {
        let mut chown = Command::new("chown");
        chown.arg(format!("{}:", user()?)).arg(path);
        if !foreground::succeeds(&mut chown, CHECK_LIMIT) {
            return Err(failed(format!("could not give {} to user {}", path.display(), user()?)));
        }
    }
    Ok(())
}

fn create(stack: &Stack, data: &Path) -> Result<()> {
    // Created under another name, so a folder with the final name is complete.
    let new = stack.data_dir().join("postgres.new");
    create_folder(stack, &new)?;
    let password = new_password()?;
    store_password(stack, OWNER, &password)?;
    init(stack, &new, &password)?;
    fs::rename(&new, data).context(data.display())
}

fn password_file(stack: &Stack, role: &str) -> PathBuf {
    let name = if role == OWNER { "postgres" } else { role };
    stack.data_dir().join(format!("{name}.password"))
}

fn new_password() -> Result<String> {
    let mut bytes = [0_u8; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn store_password(stack: &Stack, role: &str, password: &str) -> Result<()> {
    let path = password_file(stack, role);
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(true).mode(0o600);
    options.open(&path).and_then(|mut file| writeln!(file, "{password}")).context(path.display())
}

/// The password of a role.
pub fn password(stack: &Stack, role: &str) -> Result<String> {
    let path = password_file(stack, role);
    Ok(fs::read_to_string(&path).context(path.display())?.trim().to_owned())
}

fn run(
    stack: &Stack,
    program: &str,
    arguments: &[&str],
    input: &str,
    limit: Duration,
) -> Result<()> {
    let mut words = as_user(stack)?;
    words.push(bin()?.join(program).display().to_string());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(arguments);
    let log = stack.log("postgres");
    let status =
        foreground::run_logged(&mut command, program, &log, input, Report::Nothing, limit)?;
    if status.success() { Ok(()) } else { Err(failed(format!("{program} failed: {status}"))) }
}

/// Runs `statements`, one in each line, without a server.
fn execute(stack: &Stack, dir: &Path, statements: &str) -> Result<()> {
    let arguments = ["--single", "-D", &dir.display().to_string(), "template1"];
    run(stack, "postgres", &arguments, statements, INIT_LIMIT)
}

fn init(stack: &Stack, dir: &Path, password: &str) -> Result<()> {
    let dir_text = dir.display().to_string();
    let arguments = ["-D", &dir_text, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"];
    run(stack, "initdb", &arguments, "", INIT_LIMIT)?;
    // DROP DATABASE WITH (FORCE) can end the work of `autovacuum` only as this member.
    let statements = format!(
        "\
CREATE EXTENSION pg_stat_statements
CREATE ROLE {OWNER} LOGIN CREATEDB REPLICATION PASSWORD '{password}'
GRANT pg_monitor, pg_signal_backend TO {OWNER}
CREATE DATABASE balancedb OWNER {OWNER}
CREATE DATABASE transactiondb OWNER {OWNER}
"
    );
    execute(stack, dir, &statements)?;
    let access = dir.join("pg_hba.conf");
    let lines = format!(
        "host all all 127.0.0.1/32 scram-sha-256\n\
         host replication {OWNER} 127.0.0.1/32 scram-sha-256\n"
    );
    fs::write(&access, lines).context(access.display())
}

/// Creates the role of a service once. It may connect to its own database only.
fn create_role(stack: &Stack, dir: &Path, service: &Service) -> Result<()> {
    let role = role(service);
    let Some(database) = service.database else { return Ok(()) };
    if password_file(stack, &role).is_file() {
        return Ok(());
    }
    let password = new_password()?;
    // ALTER ROLE sets the password also if the role is left from a start that was interrupted here.
    // The tests create roles, as the owner.
    let statements = format!(
        "\
CREATE ROLE {role} LOGIN
ALTER ROLE {role} PASSWORD '{password}'
REVOKE ALL ON DATABASE {database} FROM PUBLIC
GRANT CONNECT ON DATABASE {database} TO {role}
ALTER ROLE {OWNER} CREATEROLE
"
    );
    execute(stack, dir, &statements)?;
    store_password(stack, &role, &password)
}

/// The role of a service.
pub fn role(service: &Service) -> String {
    service.name.replace('-', "_")
}

/// The command line.
pub fn command(stack: &Stack, part: Part) -> Result<Vec<String>> {
    let mut words = as_user(stack)?;
    words.extend(clock::prefix(stack, part)?);
    words.push(bin()?.join("postgres").display().to_string());
    words.extend(["-D".to_owned(), data(stack, part).display().to_string()]);
    let port = format!("port={}", part.first_port(&stack.settings));
    let replicates = stack.settings.standby_port.is_some() && part == primary(stack);
    let synchronous = replicates.then_some("synchronous_standby_names=*");
    // Durability has PostgreSQL's defaults (fsync, synchronous_commit). The other settings are for
    // a small machine with many writes.
    let options = [
        "listen_addresses=127.0.0.1",
        &port,
        "unix_socket_directories=",
        "shared_buffers=1GB",
        "wal_buffers=16MB",
        "max_wal_size=4GB",
        "checkpoint_timeout=15min",
        "wal_retrieve_retry_interval=500ms",
        "wal_receiver_timeout=5s",
        "wal_sender_timeout=5s",
        "jit=off",
        "timezone=UTC",
        "log_timezone=UTC",
    ];
    let more = stack.settings.text("POSTGRES_OPTIONS").split_whitespace();
    for option in options.into_iter().chain(synchronous).chain(more) {
        words.extend(["-c".to_owned(), option.to_owned()]);
    }
    Ok(words)
}

/// True if it accepts connections.
pub fn is_ready(port: u16) -> bool {
    let Ok(bin) = bin() else { return false };
    let mut command = Command::new(bin.join("pg_isready"));
    command.args(["-q", "-h", "127.0.0.1", "-d", "balancedb", "-U", "bank", "-t", "2"]);
    command.arg("-p").arg(port.to_string());
    foreground::succeeds(&mut command, CHECK_LIMIT)
}

/// The URL of a database, for its owner, with the password.
pub fn url(stack: &Stack, database: &str) -> Result<String> {
    // The password consists of hexadecimal digits, which a URL need not encode.
    let password = password(stack, OWNER)?;
    Ok(format!("postgres://{OWNER}:{password}@{}", address(stack, database)))
}

/// The URL of a database, for the role of its service, without a password.
pub fn service_url(stack: &Stack, role: &str, database: &str) -> String {
    format!("postgres://{role}@{}", address(stack, database))
}

/// The servers and the database in a URL. With a standby, clients search for the primary.
fn address(stack: &Stack, database: &str) -> String {
    let first = format!("127.0.0.1:{}", stack.settings.postgres_port);
    match stack.settings.standby_port {
        None => format!("{first}/{database}"),
        Some(port) => {
            format!("{first},127.0.0.1:{port}/{database}?target_session_attrs=read-write")
        }
    }
}

/// After a kill of PostgreSQL its backends still run for a moment, and its data can't be opened
/// until they end. Their working directory is the data folder. A postmaster.pid whose process is a
/// zombie would keep the next PostgreSQL from starting.
fn wait_until_backends_end(data: &Path) -> Result<()> {
    let since = Instant::now();
    while works_in(data) {
        if since.elapsed() > BACKENDS_LIMIT {
            return Err(failed(format!(
                "processes of an earlier PostgreSQL still use {}: stop them and try again",
                data.display()
            )));
        }
        interrupt::pause(Duration::from_millis(50))?;
    }
    match fs::remove_file(data.join("postmaster.pid")) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(err).context(data.display()),
        _ => Ok(()),
    }
}

/// True if a process has `dir` as its working directory.
fn works_in(dir: &Path) -> bool {
    fs::read_dir("/proc").is_ok_and(|processes| {
        processes.filter_map(std::result::Result::ok).any(|process| {
            fs::read_link(process.path().join("cwd")).is_ok_and(|working| working == dir)
        })
    })
}
