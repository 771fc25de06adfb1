//! The services of the bank, each under a supervisor, and the synchronizer, which runs before them.

use crate::clock;
use crate::environment;
use crate::error::{Context, Result, failed};
use crate::foreground::{self, Report};
use crate::http;
use crate::output::{say, seconds};
use crate::parts::{self, Part, SYNCHRONIZER};
use crate::postgres;
use crate::settings::{self, Settings};
use crate::stack::{Launch, Stack};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Longer than the synchronizer's own timeout.
const SYNCHRONIZER_LIMIT: Duration = Duration::from_secs(120);
/// A migration may rewrite a large table.
const MIGRATION_LIMIT: Duration = Duration::from_secs(3600);
/// Name of the log of the migrations.
const MIGRATIONS: &str = "migrations";

/// The path of a binary. Fails if it is missing.
fn binary(stack: &Stack, name: &str) -> Result<PathBuf> {
    let path = stack.bin_dir()?.join(name);
    let executable = std::fs::metadata(&path)
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    if executable {
        Ok(path)
    } else {
        Err(failed(format!("{} is missing: run `make build`", path.display())))
    }
}

/// The command that starts a service.
pub fn launch(stack: &Stack, part: Part) -> Result<Launch> {
    let binary = binary(stack, &part.to_string())?;
    let mut variables = variables(stack, part)?;
    variables.extend(clock::variables(stack, part)?);
    Ok(Launch::Service { binary, variables })
}

/// True if the service is ready.
pub fn is_ready(settings: &Settings, part: Part) -> bool {
    http::is_ok(part.health_port(settings), "/readyz")
}

/// Environment variables of all programs of the bank.
fn common_variables(stack: &Stack) -> Vec<(String, String)> {
    vec![
        ("KAFKA_BROKERS".to_owned(), environment::kafka_brokers(&stack.settings)),
        ("SCHEMA_REGISTRY_URL".to_owned(), environment::registry_url(&stack.settings)),
    ]
}

/// Environment variables of one service.
fn variables(stack: &Stack, part: Part) -> Result<Vec<(String, String)>> {
    let settings = &stack.settings;
    let mut variables = common_variables(stack);
    let mut add = |name: &str, value: String| variables.push((name.to_owned(), value));
    add("HEALTH_PORT", part.health_port(settings).to_string());
    let Some(service) = part.service() else { return Ok(variables) };
    if let Some(database) = service.database {
        let role = postgres::role(service);
        add("DATABASE_URL", postgres::service_url(stack, &role, database));
        add("DATABASE_PASSWORD", postgres::password(stack, &role)?);
    }
    if let Some(name) = service.own_port {
        add(name, parts::own_port(settings, name).to_string());
    }
    // The page and the endpoint have different ports, so they are different origins. Each gets the
    // address of the other.
    let given = |name: &str, default: String| {
        settings::variable(name).map(|given| given.unwrap_or(default))
    };
    if matches!(service.name, "graphql-endpoint" | "frontend") {
        add("HTTP_ADDR", given("HTTP_ADDR", "127.0.0.1".to_owned())?);
    }
    match service.name {
        "graphql-endpoint" => {
            let port = settings.frontend_port;
            let both = format!("http://localhost:{port},http://127.0.0.1:{port}");
            add("CORS_ORIGINS", given("CORS_ORIGINS", both)?);
        }
        "frontend" => {
            let root = stack.root.display();
            let results = format!("{root}/target/results:{root}/docs/results:{root}/docs");
            let graphql = format!(":{}/graphql", settings.graphql_port);
            add("GRAPHQL_URL", given("GRAPHQL_URL", graphql)?);
            add("RESULTS_DIR", given("RESULTS_DIR", results)?);
        }
        _ => {}
    }
    Ok(variables)
}

/// Creates topics, schemas and tables, before the services start.
pub fn prepare(stack: &Stack) -> Result<()> {
    synchronize(stack)?;
    migrate(stack)
}

/// Runs the synchronizer, which creates topics and schemas.
fn synchronize(stack: &Stack) -> Result<()> {
    let since = Instant::now();
    let log = stack.log(SYNCHRONIZER);
    foreground::rotate(&log)?;
    let mut command = Command::new(binary(stack, SYNCHRONIZER)?);
    command.envs(common_variables(stack));
    let run = foreground::run_logged(
        &mut command,
        SYNCHRONIZER,
        &log,
        "",
        Report::Progress,
        SYNCHRONIZER_LIMIT,
    );
    let status = run.map_err(|err| err.logged_in(SYNCHRONIZER))?;
    if !status.success() {
        return Err(failed(format!("{SYNCHRONIZER} failed: {status}")).logged_in(SYNCHRONIZER));
    }
    say(format!("{SYNCHRONIZER:<18} done in {}", seconds(since.elapsed())));
    Ok(())
}

/// Migrates the databases as their owner, and grants each service the rights that it needs.
fn migrate(stack: &Stack) -> Result<()> {
    let log = stack.log(MIGRATIONS);
    foreground::rotate(&log)?;
    for service in &parts::SERVICES {
        let Some(database) = service.database else { continue };
        let mut command = Command::new(binary(stack, service.name)?);
        command.arg("--migrate");
        command.env("DATABASE_URL", postgres::url(stack, database)?);
        command.env("DATABASE_SERVICE_ROLE", postgres::role(service));
        let what = format!("the migration of {database}");
        let run = foreground::run_logged(
            &mut command,
            &what,
            &log,
            "",
            Report::Progress,
            MIGRATION_LIMIT,
        );
        let status = run.map_err(|err| err.logged_in(MIGRATIONS))?;
        if !status.success() {
            return Err(failed(format!("{what} failed: {status}")).logged_in(MIGRATIONS));
        }
    }
    Ok(())
}

/// Builds the services, unless `BIN_DIR` is set.
pub fn build(stack: &Stack) -> Result<()> {
    const BUILD_LIMIT: Duration = Duration::from_secs(3600);
    let settings = &stack.settings;
    if !settings.text("BIN_DIR").is_empty() {
        return Ok(());
    }
    stack.prerequisites("build")?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--locked", "--workspace", "--bins", "--profile"]);
    cargo.arg(settings.text("PROFILE")).arg("--manifest-path").arg(stack.root.join("Cargo.toml"));
    if !settings.text("FEATURES").is_empty() {
        cargo.args(["--features", settings.text("FEATURES")]);
    }
    let status = foreground::run(&mut cargo, "cargo build", BUILD_LIMIT, Report::Nothing)?;
    if status.success() { Ok(()) } else { Err(failed(format!("cargo build failed: {status}"))) }
}

/// Downloads the jars of the servers with Maven, once for each pom.xml and version of Kafka.
pub fn download_servers(stack: &Stack, version: &str) -> Result<()> {
    const DOWNLOAD_LIMIT: Duration = Duration::from_secs(1800);
    let dir = &stack.servers_dir;
    let pom = stack.root.join("stack/pom.xml");
    let wanted = std::fs::read(&pom).context(pom.display())?;
    let complete = dir.join(format!("complete-{version}"));
    let is_complete = |path: &PathBuf| std::fs::read(path).is_ok_and(|found| found == wanted);
    if is_complete(&complete) {
        return Ok(());
    }
    // The registry may be running in a stack with another version of Kafka.
    let has_registry =
        ["3.9", "4"].map(|it| dir.join(format!("complete-{it}"))).iter().any(is_complete);
    say(format!("Downloading Kafka {version} and the registry with Maven (190 MB, once)."));
    std::fs::create_dir_all(dir).context(dir.display())?;
    let mut stale = vec![stack.kafka_jars(version), dir.join("maven")];
    if !has_registry {
        stale.push(dir.join("registry"));
    }
    for path in stale.iter().filter(|path| path.exists()) {
        std::fs::remove_dir_all(path).context(path.display())?;
    }
    let mut maven = Command::new("mvn");
    maven.arg("--batch-mode").arg("--file").arg(&pom);
    if version != "3.9" {
        maven.arg(format!("-Pkafka-{version}"));
    }
    maven.arg(format!("-Dservers={}", dir.display()));
    maven.arg(format!("-Dregistry.skip={has_registry}")).arg("package");
    let log = stack.log("maven");
    let run =
        foreground::run_logged(&mut maven, "maven", &log, "", Report::Progress, DOWNLOAD_LIMIT);
    let status = run.map_err(|err| err.logged_in("maven"))?;
    if !status.success() {
        return Err(failed(format!("Maven failed: {status}")).logged_in("maven"));
    }
    std::fs::write(&complete, wanted).context(complete.display())
}
