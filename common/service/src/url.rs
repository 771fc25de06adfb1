//! Checks of URLs in environment variables, at startup: clients would retry a URL that can never
//! work forever.

#[cfg(feature = "database")]
use postgres::config::Host;

/// What is wrong with a value and what to do: the end of a sentence that begins with the name of
/// the variable. It does not repeat the value, which may have a password.
pub type Problem = &'static str;

/// A check of the value of a variable.
pub type Check = fn(&str) -> Result<(), Problem>;

const BLANKS: Problem = "has a blank or a line break: remove it. In a file with Windows line ends \
                         each value ends with a carriage return";
const NOT_ENCODED: Problem = "has a character that no URL may have: percent-encode it";
const NOT_ASCII: Problem = "has a character that is not ASCII: percent-encode it";

/// Checks the base URL of an HTTP server, as in `http://user:password@host:port/path`.
pub fn check_http(url: &str) -> Result<(), Problem> {
    const HTTP: Problem = "has no scheme: begin it with http://";
    check_characters(url)?;
    let (scheme, rest) = url.split_once("://").ok_or(HTTP)?;
    match &*scheme.to_ascii_lowercase() {
        "http" => {}
        "https" => {
            return Err("begins with https, and TLS is not built in: use http, for example to a \
                        proxy on this host that adds TLS");
        }
        _ => return Err("has another scheme than http: begin it with http://"),
    }
    if rest.contains(['?', '#']) {
        return Err("has a ? or #: remove it and what follows. In a password, write %3F or %23");
    }
    let authority = rest.split('/').next().unwrap_or_default();
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    if authority.matches('@').count() > 1 || !is_address(address) {
        return Err(
            "has no valid host and port after http://. In a password, write / as %2F and @ \
                    as %40",
        );
    }
    // The type with which requests are sent.
    url.parse::<::http::Uri>().map(drop).map_err(|_| NOT_ENCODED)
}

/// Checks the address of a PostgreSQL database: `postgres://user@host:port/database`, or pairs as
/// in `host=db user=bank`.
pub fn check_postgres(url: &str) -> Result<(), Problem> {
    const POSTGRES: Problem =
        "has no scheme: begin it with postgres://, or write host=... user=... dbname=...";
    match url.split_once("://") {
        Some((scheme, _)) if !scheme.contains('=') => {
            check_characters(url)?;
            if !matches!(scheme, "postgres" | "postgresql") {
                return Err("has another scheme than postgres: begin it with postgres://");
            }
        }
        _ if url != url.trim() => return Err(BLANKS),
        _ if !url.contains('=') => return Err(POSTGRES),
        _ => {}
    }
    #[cfg(feature = "database")]
    check_connection(url)?;
    Ok(())
}

/// Refuses settings with which no connection is ever possible.
#[cfg(feature = "database")]
fn check_connection(url: &str) -> Result<(), Problem> {
    use postgres::config::{ChannelBinding, SslMode};
    const TLS: Problem = "requires TLS, which is not built in: remove sslmode and channel_binding, \
                          and connect on this host or through a tunnel";
    match url.parse::<postgres::Config>() {
        Ok(config) => match (config.get_ssl_mode(), config.get_channel_binding()) {
            (SslMode::Require, _) | (_, ChannelBinding::Require) => Err(TLS),
            _ if !names_hosts(&config) => {
                Err("names no host: add it, as in postgres://user@host:5432/database")
            }
            _ if !lists_match(&config) => {
                Err("has port 0, or not as many ports or addresses as hosts")
            }
            _ => Ok(()),
        },
        // Two modes of libpq that the crate does not know.
        Err(_) if url.contains("sslmode=verify-") => Err(TLS),
        // `Env::parse` reports the expected form.
        Err(_) => Ok(()),
    }
}

/// True if each host has a name or an address.
#[cfg(feature = "database")]
fn names_hosts(config: &postgres::Config) -> bool {
    let is_empty = |host: &Host| matches!(host, Host::Tcp(name) if name.is_empty());
    let hosts = config.get_hosts();
    !hosts.iter().any(is_empty) && (!hosts.is_empty() || !config.get_hostaddrs().is_empty())
}

/// True if lists of the same hosts have the same length. One port may be that of all hosts.
#[cfg(feature = "database")]
fn lists_match(config: &postgres::Config) -> bool {
    let (hosts, addresses) = (config.get_hosts().len(), config.get_hostaddrs().len());
    let (ports, all) = (config.get_ports(), hosts.max(addresses));
    [0, all].contains(&hosts)
        && [0, all].contains(&addresses)
        && [0, 1, all].contains(&ports.len())
        && !ports.contains(&0)
}

fn check_characters(url: &str) -> Result<(), Problem> {
    if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(BLANKS);
    }
    if url.is_ascii() { Ok(()) } else { Err(NOT_ASCII) }
}

/// True for `host` and `host:port`. A host is a name, an IPv4 address, or an IPv6 address in
/// brackets: without them, its last part would be taken for the port.
pub fn is_address(address: &str) -> bool {
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (address, None),
    };
    let is_name = |host: &str| {
        !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    in_brackets.map_or_else(|| is_name(host), |ip| ip.parse::<std::net::Ipv6Addr>().is_ok())
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Returns `url` with `***` instead of user and password, for logs and errors.
pub fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_at(url.find("://").map_or(0, |at| at + 3));
    match rest.rsplit_once('@') {
        Some((_, address)) => format!("{scheme}***@{address}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_urls_are_checked() {
        for url in [
            "http://registry",
            "http://localhost:8081/",
            "HTTP://registry-1.bank_net:8081/apis/ccompat/v7",
            "http://[::1]:65535/x",
            "http://127.0.0.1:1",
            "http://user:p%40ss@registry:8081/x",
        ] {
            assert_eq!(check_http(url), Ok(()), "{url}");
        }
        for (url, problem) in [
            ("registry:8081", "has no scheme"),
            ("localhost", "has no scheme"),
            ("//registry", "has no scheme"),
            ("https://registry", "begins with https, and TLS is not built in"),
            ("HTTPS://registry", "begins with https"),
            ("ftp://registry", "has another scheme"),
            ("http://registry:8081\r", "has a blank or a line break"),
            (" http://registry", "has a blank"),
            ("http://registry ", "has a blank"),
            ("http://reg istry", "has a blank"),
            ("http://registry/\u{a0}", "has a blank"),
            ("http://régistry", "has a character that is not ASCII"),
            ("http://", "has no valid host"),
            ("http:///x", "has no valid host"),
            ("http://:8081", "has no valid host"),
            ("http://registry:", "has no valid host"),
            ("http://registry:0", "has no valid host"),
            ("http://registry:65536", "has no valid host"),
            ("http://registry:http", "has no valid host"),
            ("http://::1:8081", "has no valid host"),
            ("http://[::1", "has no valid host"),
            ("http://user:pa/ss@registry", "has no valid host"),
            ("http://user:p@ss@registry", "has no valid host"),
            ("http://registry?x", "has a ? or #"),
            ("http://user:pa#ss@registry", "has a ? or #"),
            ("http://user:pa<ss@registry", "has a character that no URL may have"),
            ("http://registry/a`b", "has a character that no URL may have"),
        ] {
            let found = check_http(url).unwrap_err();
            assert!(found.starts_with(problem), "{url}: {found}");
        }
    }

    #[test]
    #[cfg(feature = "database")]
    fn postgres_urls_are_checked() {
        for url in [
            "postgres://bank@db:5432/balancedb",
            "postgresql://bank:p%40ss@db/balancedb?sslmode=disable",
            "postgres://bank@/balancedb?host=/run/postgresql",
            "host=db user=bank password='a b://c' dbname=balancedb",
            "host=db sslmode=prefer",
            "host=a,b port=1,2",
            "host=a,b hostaddr=127.0.0.1,::1 port=1",
        ] {
            assert_eq!(check_postgres(url), Ok(()), "{url}");
        }
        for (url, problem) in [
            ("bank@db:5432/balancedb", "has no scheme"),
            ("db", "has no scheme"),
            ("jdbc:postgresql://db/balancedb?user=bank", "has another scheme"),
            ("mysql://db/balancedb", "has another scheme"),
            ("postgres://bank@db/balancedb\r", "has a blank or a line break"),
            ("postgres://bank@db/balancedb ", "has a blank"),
            ("postgres://bank@db/balance db", "has a blank"),
            ("host=db user=bank\n", "has a blank"),
            ("postgres://bank@db/balancedb?sslmode=require", "requires TLS"),
            ("postgres://bank@db/balancedb?sslmode=verify-full", "requires TLS"),
            ("host=db sslmode=require", "requires TLS"),
            ("host=db channel_binding=require", "requires TLS"),
            ("user=bank dbname=balancedb", "names no host"),
            ("host=a,,b", "names no host"),
            ("host=a,b hostaddr=127.0.0.1", "has port 0, or not as many"),
            ("host=a,b,c port=1,2", "has port 0, or not as many"),
            ("postgres://bank@db:0/balancedb", "has port 0, or not as many"),
        ] {
            let found = check_postgres(url).unwrap_err();
            assert!(found.starts_with(problem), "{url}: {found}");
        }
    }

    #[test]
    fn credentials_are_hidden() {
        for (url, shown) in [
            ("http://registry:8081/x", "http://registry:8081/x"),
            ("http://ann:hunter2@registry:8081/x", "http://***@registry:8081/x"),
            ("http://ann:a@b@registry", "http://***@registry"),
            ("ann:hunter2@registry", "***@registry"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }
}
