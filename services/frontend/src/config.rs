//! The configuration of the frontend, read from the environment at startup.

use service::env::{self, Env, Variable};
use service::http::{self, HTTP_ADDR};
use service::url;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The variables of this service.
pub const VARIABLES: &[Variable] = &[FRONTEND_PORT, HTTP_ADDR, GRAPHQL_URL, RESULTS_DIR];

const FRONTEND_PORT: Variable =
    Variable::new("FRONTEND_PORT", "8181", "port of the pages, 1 to 65535");
const GRAPHQL_URL: Variable = Variable::new(
    "GRAPHQL_URL",
    ":8888/graphql",
    "address of the GraphQL endpoint for browsers: a URL as in https://bank.example/graphql, \
     :PORT/PATH on the host of the page, or /PATH on its origin. Except for /PATH, CORS_ORIGINS of \
     the endpoint must contain the origin of the page",
);
const RESULTS_DIR: Variable = Variable::new(
    "RESULTS_DIR",
    "",
    "folders with results to show, separated by colons: graphs (.svg, .png), raw data (.csv), \
     figures (.json)",
);

#[derive(Debug)]
pub struct Config {
    /// `HTTP_ADDR` and `FRONTEND_PORT`.
    pub addr: SocketAddr,
    pub graphql_url: GraphqlUrl,
    /// `RESULTS_DIR`. The folders need not exist.
    pub results_dirs: Vec<PathBuf>,
}

impl Config {
    /// Reads and checks the environment.
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        let url = env.text(&GRAPHQL_URL)?;
        let Some(graphql_url) = GraphqlUrl::parse(&url) else {
            let expected = "a URL as in https://bank.example/graphql, or :PORT/PATH, or /PATH";
            let shown = url::without_credentials(&url);
            return Err(env::invalid(&GRAPHQL_URL, shown, expected.to_owned()));
        };
        let dirs = env.text(&RESULTS_DIR)?;
        Ok(Self {
            addr: SocketAddr::new(
                env.parse(&HTTP_ADDR, http::IP_ADDRESS)?,
                env.number(&FRONTEND_PORT, 1..=u16::MAX)?,
            ),
            graphql_url,
            results_dirs: dirs.split(':').filter(|dir| !dir.is_empty()).map(Into::into).collect(),
        })
    }
}

/// `GRAPHQL_URL`. None of its characters has a special meaning in HTML or in a
/// Content-Security-Policy.
#[derive(Debug, PartialEq, Eq)]
pub struct GraphqlUrl {
    /// As configured, for the `meta` element of the page.
    pub text: String,
    pub host: Host,
}

/// The host of the endpoint, relative to the page.
#[derive(Debug, PartialEq, Eq)]
pub enum Host {
    /// Another host: the origins of its websockets and of its responses, as in
    /// `wss://bank.example https://bank.example`.
    Other(String),
    /// The host of the page, with this port.
    SamePage(u16),
    /// The origin of the page.
    SameOrigin,
}

impl GraphqlUrl {
    fn parse(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/[]".contains(&byte);
        if !text.bytes().all(plain) {
            return None;
        }
        let host = if let Some(rest) = text.strip_prefix("https://") {
            Host::Other(origins("s", authority(rest)?))
        } else if let Some(rest) = text.strip_prefix("http://") {
            Host::Other(origins("", authority(rest)?))
        } else if let Some(rest) = text.strip_prefix(':') {
            let (port, _path) = rest.split_once('/')?;
            Host::SamePage(port.parse().ok().filter(|port| *port > 0)?)
        } else if text.starts_with('/') && !text.starts_with("//") {
            Host::SameOrigin
        } else {
            return None;
        };
        Some(Self { text: text.to_owned(), host })
    }
}

/// The two origins of a host. `s` is "s" or empty.
pub fn origins(s: &str, authority: &str) -> String {
    format!("ws{s}://{authority} http{s}://{authority}")
}

/// Host and port of a URL without its scheme.
fn authority(rest: &str) -> Option<&str> {
    rest.split('/').next().filter(|authority| url::is_address(authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &'static str, value: &'static str) -> Result<Config, env::Error> {
        let lookup = |wanted: &str| (wanted == name).then(|| value.to_owned());
        Config::from_env(&Env::new(&lookup))
    }

    #[test]
    fn variables_have_defaults() {
        let config = read("", "").unwrap();
        assert_eq!(config.addr.port(), 8181);
        assert_eq!(config.graphql_url.host, Host::SamePage(8888));
        assert!(config.results_dirs.is_empty());
    }

    #[test]
    fn endpoint_url_is_absolute_or_relative() {
        let host = |url| read("GRAPHQL_URL", url).map(|config| config.graphql_url.host);
        let other = |origins: &str| Ok(Host::Other(origins.to_owned()));
        assert_eq!(host("http://a:8888/graphql"), other("ws://a:8888 http://a:8888"));
        let https = other("wss://bank.example https://bank.example");
        assert_eq!(host("https://bank.example/graphql"), https);
        assert_eq!(host("http://[::1]:8888/graphql"), other("ws://[::1]:8888 http://[::1]:8888"));
        assert_eq!(host(":1/"), Ok(Host::SamePage(1)));
        assert_eq!(host(":65535/a/b"), Ok(Host::SamePage(65535)));
        assert_eq!(host("/graphql"), Ok(Host::SameOrigin));
        for wrong in [
            "graphql",
            "ws://a/graphql",
            "http://",
            "https:///graphql",
            "https://:8888/graphql",
            "https://a:0/graphql",
            "https://a:b/graphql",
            "http://::1/graphql",
            "//a/graphql",
            ":8888",
            ":0/graphql",
            ":65536/graphql",
            "http://a/\"><script>",
            "http://a/graphql; script-src *",
            "http://a/graphql?b",
            "/gräphql",
        ] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
        let err = host("https://ann:hunter2@bank.example/graphql").unwrap_err().to_string();
        assert!(err.contains("https://***@bank.example") && !err.contains("hunter2"), "{err}");
    }

    #[test]
    fn results_folders_are_separated_by_colons() {
        let dirs = read("RESULTS_DIR", "/a::b/c:").unwrap().results_dirs;
        assert_eq!(dirs, [PathBuf::from("/a"), PathBuf::from("b/c")]);
    }
}
