//! Tests with other GraphQL clients: npm's graphql, graphql-ws and graphql-sse, and PyPI's gql.
//! Also with types of graphql-codegen, and the audits of npm's graphql-http.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use bank_tests::handler::Handler;
use bank_tests::stack::{Stack, target_dir};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::Endpoint;

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// A folder under target/ with these `files`. If their content has changed, `make` fills it again.
fn prepared_dir(name: &str, files: &[&str], make: impl FnOnce(&Path)) -> PathBuf {
    let dir = target_dir().join(name);
    let complete = dir.join("complete");
    let wanted: String = files
        .iter()
        .map(|file| fs::read_to_string(Path::new(CLIENTS).join(file)).unwrap())
        .collect();
    if !fs::read_to_string(&complete).is_ok_and(|made| made == wanted) {
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        for file in files {
            fs::copy(Path::new(CLIENTS).join(file), dir.join(file)).unwrap();
        }
        make(&dir);
        fs::write(&complete, wanted).unwrap();
    }
    dir
}

fn run(dir: &Path, words: &[&str], hint: &str) {
    let done =
        Command::new(words[0]).args(&words[1..]).current_dir(dir).stdin(Stdio::null()).status();
    assert!(done.is_ok_and(|status| status.success()), "{words:?} failed: {hint}");
}

/// A folder with the packages of package-lock.json and this script. Node resolves packages from the
/// folder of the script.
fn npm_dir(script: &str) -> PathBuf {
    let dir = prepared_dir("graphql-clients-npm", &["package.json", "package-lock.json"], |dir| {
        run(
            dir,
            &["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            "apt-get install nodejs npm",
        );
    });
    fs::copy(Path::new(CLIENTS).join(script), dir.join(script)).unwrap();
    dir
}

/// A folder in `dir` with the talk's schema and each committed version of schema.graphql.
fn previous_schemas(dir: &Path) -> PathBuf {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        let done = git.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "git {arguments:?}, in a clone of the repository: {errors}");
        String::from_utf8(done.stdout).unwrap()
    };
    let schemas = dir.join("schemas");
    let _ = fs::remove_dir_all(&schemas);
    fs::create_dir(&schemas).unwrap();
    fs::copy(Path::new(CLIENTS).join("../talk-2019.graphql"), schemas.join("talk.graphql"))
        .unwrap();
    let commits = git(&["log", "--format=%H", "--", "schema.graphql"]);
    for commit in commits.lines() {
        let sdl = git(&["show", &format!("{commit}:./schema.graphql")]);
        fs::write(schemas.join(format!("{commit}.graphql")), sdl).unwrap();
    }
    schemas
}

/// Runs a client against `endpoint`. A failure, or `--nocapture`, shows the client's output.
fn passes(endpoint: &Endpoint, command: &mut Command) {
    let client = command
        .env("URL", endpoint.url())
        .env("METRICS", format!("http://127.0.0.1:{}/metrics", endpoint.health))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (output, errors) =
        (String::from_utf8_lossy(&client.stdout), String::from_utf8_lossy(&client.stderr));
    assert!(client.status.success(), "{}\n{output}\n{errors}", client.status);
    eprint!("{output}");
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn clients_from_npm_query_and_subscribe() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start(&stack);
    let dir = npm_dir("clients.mjs");
    let folder = Path::new(CLIENTS).parent().unwrap();
    let start = dir.join("start.cjs");
    fs::copy(folder.join("../graphiql/start.js"), &start).unwrap();
    let mut node = Command::new("node");
    node.arg(dir.join("clients.mjs")).env("SCHEMAS", previous_schemas(&dir)).env("START", start);
    passes(&endpoint, &mut node);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn generated_types_compile_and_fit_the_responses() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start(&stack);
    let dir = npm_dir("codegen.mjs");
    for file in ["operations.graphql", "typed_client.ts"] {
        fs::copy(Path::new(CLIENTS).join(file), dir.join(file)).unwrap();
    }
    passes(&endpoint, Command::new("node").arg("codegen.mjs").current_dir(&dir));
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn endpoint_passes_the_audits_of_graphql_http() {
    let endpoint = Endpoint::start(&Stack::shared());
    let mut node = Command::new("node");
    passes(&endpoint, node.arg(npm_dir("audits.mjs").join("audits.mjs")));
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn python_client_queries_and_subscribes() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start(&stack);
    let dir = prepared_dir("graphql-clients-pypi", &["requirements.txt"], |dir| {
        run(dir, &["python3", "-m", "venv", "venv"], "apt-get install python3-venv");
        run(
            dir,
            &["venv/bin/python", "-m", "pip", "install", "--quiet", "-r", "requirements.txt"],
            "pip needs a package index",
        );
    });
    let mut python = Command::new(dir.join("venv/bin/python"));
    passes(&endpoint, python.arg(Path::new(CLIENTS).join("client.py")));
}
