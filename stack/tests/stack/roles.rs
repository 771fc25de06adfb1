//! deploy/postgres/roles.sql and `--migrate`, as a deployment uses them, on a real PostgreSQL.

use super::{Outcome, Stack, root};
use std::process::Command;

/// Passwords with the characters that URLs, SQL, Compose files and shells treat specially.
const PASSWORDS: [(&str, &str); 4] = [
    ("BANK_OWNER_PASSWORD", "o@w/n%e#r"),
    ("COMMAND_HANDLER_PASSWORD", "h@n/d%40l#e'r\\ $x\":?&="),
    ("GRAPHQL_ENDPOINT_PASSWORD", "%2F#@/;"),
    ("REGISTRY_PASSWORD", "r"),
];

/// A server with the roles of a deployment.
struct Server<'a> {
    stack: &'a Stack,
    address: String,
}

impl<'a> Server<'a> {
    fn start(stack: &'a Stack) -> Self {
        stack.run(&["start", "postgres"]).succeeds();
        let env = stack.run(&["env"]).succeeds().stdout;
        let url = env.lines().find_map(|line| line.strip_prefix("BALANCE_DATABASE_URL=")).unwrap();
        let address = url.rsplit_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
        let server = Self { stack, address };
        // The databases of the stack are in the way.
        let admin = url.replace("/balancedb", "/postgres");
        for database in ["balancedb", "transactiondb"] {
            server.psql(&admin, &["-c", &format!("DROP DATABASE {database}")], &[]).succeeds();
        }
        let file = root().join("deploy/postgres/roles.sql");
        let file = file.to_str().unwrap();
        let missing = server.psql(&admin, &["-f", file], &PASSWORDS[..2]);
        missing.fails_with(3, "GRAPHQL_ENDPOINT_PASSWORD is not set");
        // The second run changes the passwords.
        let first = PASSWORDS.map(|(name, _)| (name, "first"));
        server.psql(&admin, &["-f", file], &first).succeeds();
        server.psql(&admin, &["-f", file], &PASSWORDS).succeeds();
        server
    }

    fn psql(&self, url: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Outcome {
        let mut psql = Command::new("psql");
        psql.arg("--no-psqlrc").arg("-d").arg(url).args(arguments);
        for (name, _) in PASSWORDS {
            psql.env_remove(name);
        }
        self.output(psql.envs(variables.iter().copied()))
    }

    /// Runs `sql` as `role`.
    fn sql(&self, role: &str, database: &str, sql: &str) -> Outcome {
        let password = password(role);
        let url = format!("postgres://{role}@{}/{database}", self.address);
        self.psql(&url, &["-v", "ON_ERROR_STOP=1", "-c", sql], &[("PGPASSWORD", password)])
    }

    /// Runs `SERVICE --migrate` as `role`.
    fn migrate(&self, service: &str, database: &str, role: &str, variable: &str) -> Outcome {
        let program = root().join("target/debug").join(service);
        let mut migrate = Command::new(program);
        migrate
            .arg("--migrate")
            .env("DATABASE_URL", format!("postgres://{role}@{}/{database}", self.address))
            .env("DATABASE_SERVICE_ROLE", service.replace('-', "_"))
            .env_remove("DATABASE_PASSWORD");
        if variable.ends_with("_FILE") {
            let file = self.stack.dir.join("password");
            std::fs::write(&file, format!("{}\n", password(role))).unwrap();
            migrate.env(variable, file);
        } else {
            migrate.env(variable, password(role));
        }
        self.output(&mut migrate)
    }

    fn output(&self, command: &mut Command) -> Outcome {
        let output = command.output().unwrap();
        Outcome {
            code: super::exit_code(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn password(role: &str) -> &'static str {
    let variable = format!("{}_PASSWORD", role.to_uppercase());
    PASSWORDS.iter().find(|(name, _)| *name == variable).unwrap().1
}

#[test]
#[ignore = "starts PostgreSQL: make test-stack"]
fn deployment_roles_have_only_their_rights() {
    let stack = Stack::in_folder("stack-roles");
    stack.run(&["wipe"]).succeeds();
    let server = Server::start(&stack);
    let (handler, endpoint, owner) = ("command_handler", "graphql_endpoint", "bank_owner");

    let refused = server.migrate("command-handler", "balancedb", handler, "DATABASE_PASSWORD");
    refused.fails_with(1, "permission denied for schema public");
    for _twice in 0..2 {
        server.migrate("command-handler", "balancedb", owner, "DATABASE_PASSWORD").succeeds();
        server
            .migrate("graphql-endpoint", "transactiondb", owner, "DATABASE_PASSWORD_FILE")
            .succeeds();
    }
    server.sql(handler, "balancedb", "SELECT count(*) FROM account").succeeds();
    server.sql(endpoint, "transactiondb", "SELECT count(*) FROM transaction").succeeds();
    for (role, database, sql) in [
        (handler, "balancedb", "DELETE FROM account"),
        (handler, "balancedb", "CREATE TABLE other (id integer)"),
        (handler, "balancedb", "DROP TABLE account"),
        (handler, "transactiondb", "SELECT"),
        (endpoint, "balancedb", "SELECT"),
        (handler, "registry", "SELECT"),
        ("registry", "balancedb", "SELECT"),
        (endpoint, "transactiondb", "CREATE DATABASE other"),
        (endpoint, "transactiondb", "SELECT pg_read_file('/etc/passwd')"),
    ] {
        let refused = server.sql(role, database, sql);
        assert_ne!(refused.code, 0, "{role} may run {sql} in {database}");
        assert!(
            ["permission denied", "must be owner"].iter().any(|it| refused.stderr.contains(it)),
            "{sql}: {}",
            refused.stderr
        );
    }
    drop(server);
    stack.run(&["wipe"]).succeeds();
}
