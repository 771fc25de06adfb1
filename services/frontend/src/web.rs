//! HTTP: the page, its files, the results.

use crate::config::{GraphqlUrl, Host};
use crate::metrics::{self, Got};
use crate::page::{self, Asset, Index};
use crate::results::{Found, Results};
use service::http::{self, Handler};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use tiny_http::{Header, Method, Request, Response};

/// Where the list of results is; the files are below it.
const RESULTS: &str = "/results/";
/// Results that are on their way at the same time: a large one waits for a slow visitor, so each has a thread.
const RESULTS_AT_ONCE: usize = 32;

/// Nobody's scripts but our own, and what they may reach is put behind it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; connect-src 'self'";
/// For a result that is opened by itself. A graph may bring its own styles, but no script and nothing from elsewhere.
const RESULT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; sandbox";

/// Always asked for again, which costs little while it is the same.
const CHECKED: &str = "no-cache";
/// Never asked for again: another content has another path.
const KEPT: &str = "public, max-age=31536000, immutable";

/// Everything there is to visit.
pub struct Site {
    index: Index,
    assets: Vec<Asset>,
    endpoint: Host,
    results: Results,
    /// A clone for each result that is on its way.
    sending: Arc<()>,
}

impl Handler for Site {
    fn answer(&self, request: Request) {
        let path = request.url().split('?').next().unwrap_or_default().to_owned();
        if !matches!(request.method(), Method::Get | Method::Head) {
            let reply = http::text(405, "only GET and HEAD");
            return refuse(request, reply.with_header(header("Allow", "GET, HEAD")));
        }
        if page::PATHS.contains(&&path[..]) {
            self.send_page(request);
        } else if let Some(asset) = self.assets.iter().find(|asset| asset.path == path) {
            send_asset(request, asset);
        } else if path == RESULTS {
            self.send_list(request);
        } else if let Some(name) = path.strip_prefix(RESULTS) {
            self.send_result(request, name);
        } else {
            let reason = format!("there are {} and {RESULTS}", page::PATHS.join(", "));
            refuse(request, http::text(404, &reason));
        }
    }
}

impl Site {
    pub fn new(graphql_url: GraphqlUrl, results_dirs: Vec<PathBuf>) -> Self {
        let (index, assets) = page::render(&graphql_url);
        let (results, sending) = (Results(results_dirs), Arc::default());
        Self { index, assets, endpoint: graphql_url.host, results, sending }
    }

    fn send_page(&self, request: Request) {
        let policy = match &self.endpoint {
            Host::Other(origin) => format!("{POLICY} {origin}"),
            Host::SamePage(port) => format!("{POLICY} ws://{}:{port}", host_name(&request)),
            Host::SameOrigin => POLICY.to_owned(),
        };
        let headers = vec![
            header("Content-Security-Policy", &policy),
            header("Cross-Origin-Opener-Policy", "same-origin"),
            header("Content-Type", "text/html; charset=utf-8"),
        ];
        let html = self.index.html.as_bytes();
        send(request, Got::Page, &self.index.etag, CHECKED, headers, html, html.len());
    }

    fn send_list(&self, request: Request) {
        let list = serde_json::to_vec(&self.results.list()).expect("texts and numbers have a form");
        let reply = http::reply(200, "application/json", list)
            .with_header(header("Cache-Control", CHECKED))
            .with_header(header("X-Content-Type-Options", "nosniff"));
        metrics::count(Got::Result);
        // An error means that the visitor left.
        let _ = request.respond(reply);
    }

    fn send_result(&self, request: Request, name: &str) {
        let Some(Found { file, bytes, content_type, etag }) = self.results.open(name) else {
            return refuse(request, http::text(404, "no such result; /results/ lists them"));
        };
        let sending = self.sending.clone();
        if Arc::strong_count(&sending) > RESULTS_AT_ONCE + 1 {
            return refuse(request, http::text(503, "too many want results now, try again"));
        }
        let headers = vec![
            header("Content-Type", content_type),
            header("Content-Security-Policy", RESULT_POLICY),
        ];
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        // A visitor for whom there is no thread loses the connection.
        let _ = thread::Builder::new().name("result".into()).spawn(move || {
            let _sending = sending;
            // No more than was announced, should the file grow meanwhile.
            send(request, Got::Result, &etag, CHECKED, headers, file.take(bytes), len);
        });
    }
}

fn send_asset(request: Request, asset: &Asset) {
    let headers = vec![
        header("Content-Type", asset.content_type),
        // All browsers take gzip, on every connection; who does not can still unpack it.
        header("Content-Encoding", "gzip"),
    ];
    send(request, Got::Asset, &asset.etag, KEPT, headers, asset.gzip, asset.gzip.len());
}

/// Sends `body`, or that the visitor has it already.
fn send(
    request: Request,
    got: Got,
    etag: &str,
    cache: &str,
    mut headers: Vec<Header>,
    body: impl Read,
    len: usize,
) {
    headers.push(header("ETag", etag));
    headers.push(header("Cache-Control", cache));
    headers.push(header("X-Content-Type-Options", "nosniff"));
    headers.push(header("Referrer-Policy", "no-referrer"));
    headers.push(header("Cross-Origin-Resource-Policy", "same-origin"));
    // A proxy that compresses marks the tag as weak.
    let is_ours = |tag: &str| tag.trim().trim_start_matches("W/") == etag;
    let known = value(&request, "If-None-Match").is_some_and(|tags| tags.split(',').any(is_ours));
    // An error means that the visitor left.
    let _ = if known {
        metrics::count(Got::Unchanged);
        request.respond(Response::new(304.into(), headers, io::empty(), None, None))
    } else {
        metrics::count(got);
        let whole = Response::new(200.into(), headers, body, Some(len), None);
        request.respond(whole.with_chunked_threshold(usize::MAX))
    };
}

fn refuse(request: Request, reply: Response<io::Cursor<Vec<u8>>>) {
    metrics::count(Got::Refusal);
    // An error means that the visitor left.
    let _ = request.respond(reply);
}

/// The host that the visitor asked, for a policy; any, where it has no name that a policy can have (an IPv6 address).
fn host_name(request: &Request) -> &str {
    let host = value(request, "Host").unwrap_or_default();
    let name = host.split(':').next().unwrap_or_default();
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    if name.is_empty() || !name.bytes().all(fits) { "*" } else { name }
}

fn value<'a>(request: &'a Request, name: &'static str) -> Option<&'a str> {
    let header = request.headers().iter().find(|header| header.field.equiv(name));
    header.map(|header| header.value.as_str())
}

/// A header of ours.
fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("it is ASCII")
}
