//! The configuration of the endpoint, read from the environment at startup.

use crate::token::{digest, digest_of_hex};
use messaging::producer::ProducerConfig;
use service::database;
use service::database::retention::{RETAIN_DAYS, Retention};
use service::env::{self, Env, SCHEMA_REGISTRY_URL, Secret, Variable};
use service::http::{self, HTTP_ADDR};
use service::url;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The variables of this service in addition to those of Kafka and the producer.
pub const VARIABLES: &[Variable] = &[
    SCHEMA_REGISTRY_URL,
    GRAPHQL_PORT,
    HTTP_ADDR,
    TRUSTED_PROXIES,
    VISITORS,
    PUBLIC_LEDGER,
    EMPLOYEE_TOKEN,
    EMPLOYEE_TOKENS,
    EMPLOYEE_TOKENS_FILE,
    CORS_ORIGINS,
    INTROSPECTION,
    GRAPHIQL,
    CASH_DEPOSITS,
    ANSWER_TIMEOUT_MS,
    REGISTRATION,
    REGISTRATIONS_PER_HOUR,
    CONSUMER_GROUP_PROTOCOL,
    RETAIN_DAYS,
];

const GRAPHQL_PORT: Variable =
    Variable::new("GRAPHQL_PORT", "8888", "port of /graphql and of GraphiQL at /, 1 to 65535");
const TRUSTED_PROXIES: Variable = Variable::new(
    "TRUSTED_PROXIES",
    "",
    "IP addresses of proxies in front of the endpoint, separated by commas. The last address in \
     their X-Forwarded-For counts as the address of the client",
);
const VISITORS: Variable = Variable::new(
    "VISITORS",
    "2000",
    "maximum of open connections, 4 to 20000; also limited by the open files limit. One address \
     can have three quarters of them",
);
const PUBLIC_LEDGER: Variable = Variable::new(
    "PUBLIC_LEDGER",
    "true",
    "true: clients read all transactions, as in the talk; false: an account's token reads that \
     account, the token of an employee reads all",
);
const EMPLOYEE_TOKEN: Variable = Variable::new(
    "EMPLOYEE_TOKEN",
    "",
    "token that reads all transactions if PUBLIC_LEDGER is false, 16 to 256 characters. Tokens \
     with names are in EMPLOYEE_TOKENS",
)
.secret();
const EMPLOYEE_TOKENS: Variable = Variable::new(
    "EMPLOYEE_TOKENS",
    "",
    "further tokens of employees: NAME=DIGEST, separated by commas or line breaks, at most 100. \
     The name has 1 to 64 of the characters A-Z, a-z, 0-9, dot, hyphen and underscore. The digest \
     is the SHA-256 of a random token in hexadecimal. See docs/security.md",
)
.secret();
const EMPLOYEE_TOKENS_FILE: Variable = Variable::new(
    "EMPLOYEE_TOKENS_FILE",
    "",
    "path of a file with the tokens of employees, instead of EMPLOYEE_TOKENS. It is read once, at \
     startup",
);
const CORS_ORIGINS: Variable = Variable::new(
    "CORS_ORIGINS",
    "",
    "origins whose pages may send requests, as in https://bank.example, separated by commas; \
     * for all. Requests to the names of these hosts are accepted, besides localhost and IP \
     addresses",
);
const INTROSPECTION: Variable =
    Variable::new("INTROSPECTION", "true", "whether clients may query the schema, true or false");
const GRAPHIQL: Variable = Variable::new(
    "GRAPHIQL",
    "true",
    "whether the endpoint has GraphiQL, a page to try queries, at /; true or false",
);
const CASH_DEPOSITS: Variable = Variable::new(
    "CASH_DEPOSITS",
    "true",
    "whether clients may transfer from cash, which needs no token, true or false. make demo and \
     make bench need true",
);
const ANSWER_TIMEOUT_MS: Variable = Variable::new(
    "ANSWER_TIMEOUT_MS",
    "10000",
    "timeout of get_account and money_transfer for the outcome, 100 to 60000 ms",
);
const REGISTRATION: Variable = Variable::new(
    "REGISTRATION",
    "true",
    "true: get_account opens an account for a new user name; false: it refuses new user names",
);
const REGISTRATIONS_PER_HOUR: Variable = Variable::new(
    "REGISTRATIONS_PER_HOUR",
    "1000",
    "maximum of new accounts for each client address in an hour, 1 to 1000000; addresses of IPv6 \
     count by their first 64 bits",
);
const CONSUMER_GROUP_PROTOCOL: Variable = Variable::new(
    "CONSUMER_GROUP_PROTOCOL",
    "none",
    "none: leases in the database assign the partitions to endpoints; classic: a consumer group \
     assigns them, which needs the built-in client",
);

#[derive(Debug, Clone)]
pub struct Config {
    pub producer: ProducerConfig,
    pub registry_url: String,
    /// transactiondb.
    pub database: postgres::Config,
    /// `HTTP_ADDR` and `GRAPHQL_PORT`.
    pub addr: SocketAddr,
    pub proxies: Vec<IpAddr>,
    /// `VISITORS`.
    pub connections_max: usize,
    pub public_ledger: bool,
    /// `EMPLOYEE_TOKEN` and `EMPLOYEE_TOKENS`.
    pub employees: Vec<Employee>,
    pub origins: Origins,
    pub introspection: bool,
    pub graphiql: bool,
    pub cash_deposits: bool,
    pub answer_timeout: Duration,
    /// `REGISTRATION`.
    pub registration: bool,
    pub registrations_per_hour: u32,
    /// True if `CONSUMER_GROUP_PROTOCOL` is `classic`.
    pub is_member: bool,
    /// `RETAIN_DAYS`; `None`: rows are kept forever.
    pub retention: Option<Retention>,
}

/// Reads all transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Employee {
    /// `EMPLOYEE_TOKEN` for the token of that variable.
    pub name: String,
    pub token_digest: [u8; 32],
}

/// The web origins whose pages may send requests (CORS).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    All,
    /// In lower case.
    These(Vec<String>),
}

impl Origins {
    /// True if pages of `origin` may send requests.
    pub fn allow(&self, origin: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(origins) => origins.iter().any(|it| it.eq_ignore_ascii_case(origin)),
        }
    }

    /// True if `host`, without a port, is the host of one of the origins.
    pub fn have_host(&self, host: &str) -> bool {
        let host_of = |origin: &str| {
            let host = origin.split_once("://").map_or("", |(_, host)| host);
            host.split_once(':').map_or(host, |(host, _)| host).to_owned()
        };
        match self {
            Self::All => true,
            Self::These(origins) => origins.iter().any(|it| host_of(it).eq_ignore_ascii_case(host)),
        }
    }
}

impl Config {
    /// Reads and checks the environment.
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        const SWITCH: [(&str, bool); 2] = [("true", true), ("false", false)];
        let mut producer = ProducerConfig::from_env(env)?;
        let is_member = producer.kafka.joins_group(env, &CONSUMER_GROUP_PROTOCOL)?;
        Ok(Self {
            producer,
            registry_url: env.text(&SCHEMA_REGISTRY_URL)?,
            database: database::config(env)?,
            addr: SocketAddr::new(
                env.parse(&HTTP_ADDR, http::IP_ADDRESS)?,
                env.number(&GRAPHQL_PORT, 1..=u16::MAX)?,
            ),
            proxies: proxies(env.text(&TRUSTED_PROXIES)?)?,
            connections_max: env.number(&VISITORS, 4..=20_000)?,
            public_ledger: env.choice(&PUBLIC_LEDGER, &SWITCH)?,
            employees: employees(env)?,
            origins: origins(env.text(&CORS_ORIGINS)?)?,
            introspection: env.choice(&INTROSPECTION, &SWITCH)?,
            graphiql: env.choice(&GRAPHIQL, &SWITCH)?,
            cash_deposits: env.choice(&CASH_DEPOSITS, &SWITCH)?,
            answer_timeout: env.millis(&ANSWER_TIMEOUT_MS, 100..=60_000)?,
            registration: env.choice(&REGISTRATION, &SWITCH)?,
            registrations_per_hour: env.number(&REGISTRATIONS_PER_HOUR, 1..=1_000_000)?,
            is_member,
            retention: Retention::from_env(env)?,
        })
    }
}

fn proxies(text: String) -> Result<Vec<IpAddr>, env::Error> {
    let addresses = text.split(',').map(str::trim).filter(|it| !it.is_empty());
    let parsed: Result<_, _> = addresses.map(str::parse).collect();
    parsed.map_err(|_| {
        let expected = "IP addresses, separated by commas".to_owned();
        env::invalid(&TRUSTED_PROXIES, text, expected)
    })
}

/// Maximum of employees, whose names are labels of a metric.
const EMPLOYEES_MAX: usize = 100;
const EMPLOYEE_NAME_LENGTH_MAX: usize = 64;

fn employees(env: &Env<'_>) -> Result<Vec<Employee>, env::Error> {
    let only = env.token(&EMPLOYEE_TOKEN)?.map(|Secret(token)| Employee {
        name: EMPLOYEE_TOKEN.name.to_owned(),
        token_digest: digest(&token),
    });
    let mut employees = Vec::from_iter(only);
    let text: Option<String> = env.parse_secret(&EMPLOYEE_TOKENS, &EMPLOYEE_TOKENS_FILE, "text")?;
    let path = env.text(&EMPLOYEE_TOKENS_FILE)?;
    // The text may contain a token by mistake.
    let invalid = |expected: String| match path.as_str() {
        "" => env::invalid(&EMPLOYEE_TOKENS, String::new(), expected),
        path => env::invalid(&EMPLOYEE_TOKENS_FILE, path.to_owned(), expected),
    };
    let text = text.unwrap_or_default();
    let entries = text.split([',', '\n']).map(str::trim).filter(|it| !it.is_empty());
    for (number, entry) in (1..).zip(entries) {
        if number > EMPLOYEES_MAX {
            return Err(invalid(format!("at most {EMPLOYEES_MAX} entries")));
        }
        let employee = employee(entry).map_err(|it| invalid(format!("{it} in entry {number}")))?;
        let same_name = employees.iter().any(|it| it.name == employee.name);
        if same_name || employees.iter().any(|it| it.token_digest == employee.token_digest) {
            let what = if same_name { "name" } else { "token" };
            let why = "an earlier entry or EMPLOYEE_TOKEN has the same";
            return Err(invalid(format!("another {what} in entry {number}: {why}")));
        }
        employees.push(employee);
    }
    Ok(employees)
}

/// Parses an entry of `EMPLOYEE_TOKENS`. The error is what is expected.
fn employee(entry: &str) -> Result<Employee, &'static str> {
    let (name, hex) = entry.split_once('=').ok_or("NAME=DIGEST")?;
    let fits = |it: u8| it.is_ascii_alphanumeric() || b"._-".contains(&it);
    if !(1..=EMPLOYEE_NAME_LENGTH_MAX).contains(&name.len()) || !name.bytes().all(fits) {
        return Err("a name of 1 to 64 of the characters A-Z, a-z, 0-9, dot, hyphen, underscore");
    }
    let token_digest = digest_of_hex(hex).ok_or("a digest of 64 hexadecimal digits")?;
    Ok(Employee { name: name.to_owned(), token_digest })
}

fn origins(text: String) -> Result<Origins, env::Error> {
    if text.trim() == "*" {
        return Ok(Origins::All);
    }
    let origins: Vec<String> = text
        .split(',')
        .map(|it| it.trim().to_ascii_lowercase())
        .filter(|it| !it.is_empty())
        .collect();
    let is_origin = |origin: &String| {
        origin.split_once("://").is_some_and(|(scheme, host)| {
            matches!(scheme, "http" | "https") && url::is_address(host)
        })
    };
    if origins.iter().all(is_origin) {
        Ok(Origins::These(origins))
    } else {
        let expected = "origins as in https://bank.example, separated by commas, or *".to_owned();
        Err(env::invalid(&CORS_ORIGINS, text, expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &'static str, value: &'static str) -> Result<Config, env::Error> {
        let set = [
            ("KAFKA_BROKERS", "a:9092"),
            ("SCHEMA_REGISTRY_URL", "http://r"),
            ("DATABASE_URL", "postgres://bank:secret@db:5432/transactiondb"),
            (name, value),
        ];
        let lookup = |wanted: &str| {
            set.iter().rev().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned())
        };
        Config::from_env(&Env::new(&lookup))
    }

    #[test]
    fn three_variables_are_required() {
        assert!(read("X", "").is_ok());
        for name in ["KAFKA_BROKERS", "SCHEMA_REGISTRY_URL", "DATABASE_URL"] {
            assert!(read(name, "").is_err(), "{name}");
        }
    }

    #[test]
    fn origins_are_schemes_with_hosts() {
        let origins = |text| read("CORS_ORIGINS", text).map(|config| config.origins);
        assert_eq!(origins(""), Ok(Origins::These(vec![])));
        assert_eq!(origins("*"), Ok(Origins::All));
        let two = origins("http://localhost:8181, https://Bank.example").unwrap();
        assert!(two.allow("https://bank.example") && two.allow("http://localhost:8181"));
        assert!(!two.allow("http://bank.example") && !two.allow("null") && !two.allow(""));
        assert!(two.have_host("BANK.example") && two.have_host("localhost"));
        assert!(!two.have_host("example") && !two.have_host(""));
        for wrong in [
            "bank.example",
            "ftp://a",
            "http://",
            "http://a/",
            "http://a b",
            "http://a,*",
            "http://*.a",
            "http://a:0",
            "http://a@b",
        ] {
            assert!(origins(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn trusted_proxies_are_addresses() {
        let proxies = |text| read("TRUSTED_PROXIES", text).map(|config| config.proxies);
        let expected: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(proxies("10.0.0.1, ::1").unwrap(), expected);
        assert!(proxies("").unwrap().is_empty());
        for wrong in ["proxy", "10.0.0.0/8", "10.0.0.1:80"] {
            assert!(proxies(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn employee_token_is_long_and_never_printed() {
        let config = read("EMPLOYEE_TOKEN", "0123456789abcdef").unwrap();
        let [employee] = &config.employees[..] else { panic!("one employee") };
        assert_eq!(employee.name, "EMPLOYEE_TOKEN");
        assert_eq!(employee.token_digest, digest("0123456789abcdef"));
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
        let err = read("EMPLOYEE_TOKEN", "0123456789abcde").unwrap_err();
        assert!(!err.to_string().contains("0123456789abcde"), "{err}");
    }

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn parsed(text: &str) -> Result<Vec<Employee>, String> {
        let lookup = |name: &str| match name {
            "EMPLOYEE_TOKEN" => Some("0123456789abcdef".to_owned()),
            "EMPLOYEE_TOKENS" => Some(text.to_owned()),
            _ => None,
        };
        employees(&Env::new(&lookup)).map_err(|err| err.to_string())
    }

    #[test]
    fn employees_have_names_and_digests() {
        let other = HEX.replace('b', "c");
        let found = parsed(&format!("anna={HEX}, b.o-b_2={other}\n")).unwrap();
        let names: Vec<&str> = found.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["EMPLOYEE_TOKEN", "anna", "b.o-b_2"]);
        assert_eq!(found[1].token_digest, digest("abc"));
        let of_only_token = digest("0123456789abcdef").map(|byte| format!("{byte:02x}")).concat();
        let long = "x".repeat(EMPLOYEE_NAME_LENGTH_MAX + 1);
        for (text, expected) in [
            ("anna".to_owned(), "NAME=DIGEST in entry 1"),
            (format!("anna={HEX},secret-token-of-ben"), "NAME=DIGEST in entry 2"),
            (format!("={HEX}"), "a name of 1 to 64"),
            (format!("{long}={HEX}"), "a name of 1 to 64"),
            (format!("an na={HEX}"), "a name of 1 to 64"),
            (format!("anna={}", &HEX[1..]), "a digest of 64 hexadecimal digits in entry 1"),
            ("anna=secret-token-of-anna".to_owned(), "a digest of 64 hexadecimal digits"),
            (format!("anna={HEX},anna={other}"), "another name in entry 2"),
            (format!("EMPLOYEE_TOKEN={HEX}"), "another name in entry 1"),
            (format!("anna={HEX},ben={HEX}"), "another token in entry 2"),
            (format!("anna={of_only_token}"), "another token in entry 1"),
        ] {
            let err = parsed(&text).unwrap_err();
            let start = format!("EMPLOYEE_TOKENS=\"***\": expected {expected}");
            assert!(err.starts_with(&start), "{text}: {err}");
            assert!(!err.contains("secret-token"), "{err}");
        }
    }

    #[test]
    fn number_of_employees_is_limited() {
        let entries = |count: usize| {
            let entry = |number| format!("name{number}={number:064x}");
            (0..count).map(entry).collect::<Vec<_>>().join(",")
        };
        assert_eq!(parsed(&entries(EMPLOYEES_MAX)).unwrap().len(), EMPLOYEES_MAX + 1);
        let err = parsed(&entries(EMPLOYEES_MAX + 1)).unwrap_err();
        assert!(err.ends_with("expected at most 100 entries"), "{err}");
    }

    #[test]
    fn employees_are_read_from_a_file() {
        let file = std::env::temp_dir().join(format!("employees-{}", std::process::id()));
        let path = file.to_str().unwrap().to_owned();
        let lookup = |name: &str| (name == "EMPLOYEE_TOKENS_FILE").then(|| path.clone());
        let read = |text: String| {
            std::fs::write(&file, text).unwrap();
            employees(&Env::new(&lookup)).map_err(|err| err.to_string())
        };
        let found = read(format!("anna={HEX}\nben={}\n", HEX.replace('b', "c"))).unwrap();
        let err = read("secret-token-of-anna\n".to_owned()).unwrap_err();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(found.len(), 2);
        assert!(err.contains(&path) && err.contains("expected NAME=DIGEST in entry 1"), "{err}");
        assert!(!err.contains("secret-token"), "{err}");
    }
}
