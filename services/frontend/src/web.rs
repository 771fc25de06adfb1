//! HTTP handler for the page, its files and the results.

use crate::config::{GraphqlUrl, Host};
use crate::metrics::{self, ResponseKind};
use crate::page::{self, Asset, Index};
use crate::results::{ResultFile, Results};
use service::http::{self, Handler};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use tiny_http::{Header, Method, Request, Response};

/// Path of the list of results and prefix of the result files.
const RESULTS: &str = "/results/";
/// Maximum of results that are sent at a time. Each has a thread, since a slow client blocks a
/// large result.
const RESULTS_AT_ONCE: usize = 32;

/// Allows the page's own files only. The origin of the endpoint is appended to `connect-src`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; connect-src 'self'";
/// For a result in a tab of its own. A graph may contain styles, but no scripts and nothing from
/// other origins.
const RESULT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; sandbox";

/// Clients revalidate the file with each request.
const CHECKED: &str = "no-cache";
/// Clients never request the file again: other content has another path.
const KEPT: &str = "public, max-age=31536000, immutable";

pub struct Site {
    index: Index,
    assets: Vec<Asset>,
    endpoint: Host,
    results: Results,
    /// See [`SendingResult`].
    sending: Arc<AtomicUsize>,
}

impl Handler for Site {
    fn answer(&self, request: Request) {
        let path = request.url().split('?').next().unwrap_or_default().to_owned();
        if !matches!(request.method(), Method::Get | Method::Head) {
            let reply = http::text(405, "method not allowed: use GET or HEAD");
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
            let reason = format!(
                "not found: the pages are {}, results are in {RESULTS}",
                page::PATHS.join(", ")
            );
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
        send(request, ResponseKind::Page, &self.index.etag, CHECKED, headers, html, html.len());
    }

    fn send_list(&self, request: Request) {
        let list =
            serde_json::to_vec(&self.results.list()).expect("texts and numbers can be serialized");
        let reply = http::reply(200, "application/json", list)
            .with_header(header("Cache-Control", CHECKED))
            .with_header(header("X-Content-Type-Options", "nosniff"));
        metrics::count(ResponseKind::Result);
        // An error means that the client closed the connection.
        let _ = request.respond(reply);
    }

    fn send_result(&self, request: Request, name: &str) {
        let Some(ResultFile { file, bytes, content_type, etag }) = self.results.open(name) else {
            return refuse(
                request,
                http::text(404, "result not found: /results/ lists the results"),
            );
        };
        let Some(sending) = SendingResult::start(&self.sending) else {
            return refuse(request, http::text(503, "too many results are being sent, try again"));
        };
        let headers = vec![
            header("Content-Type", content_type),
            header("Content-Security-Policy", RESULT_POLICY),
        ];
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        // If no thread can be started, the connection is closed.
        let _ = thread::Builder::new().name("result".into()).spawn(move || {
            let _sending = sending;
            // At most Content-Length, in case the file grows meanwhile.
            send(request, ResponseKind::Result, &etag, CHECKED, headers, file.take(bytes), len);
        });
    }
}

/// A result that is being sent, counted until dropped.
struct SendingResult(Arc<AtomicUsize>);

impl SendingResult {
    /// `None` if [`RESULTS_AT_ONCE`] are being sent.
    fn start(count: &Arc<AtomicUsize>) -> Option<Self> {
        let below = |count| (count < RESULTS_AT_ONCE).then_some(count + 1);
        count.fetch_update(Ordering::AcqRel, Ordering::Acquire, below).ok()?;
        Some(Self(count.clone()))
    }
}

impl Drop for SendingResult {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn send_asset(request: Request, asset: &Asset) {
    let headers = vec![
        header("Content-Type", asset.content_type),
        // All browsers accept gzip, so there is no other encoding.
        header("Content-Encoding", "gzip"),
    ];
    send(request, ResponseKind::Asset, &asset.etag, KEPT, headers, asset.gzip, asset.gzip.len());
}

/// Sends `body`, or status 304 if the client has the current version.
fn send(
    request: Request,
    kind: ResponseKind,
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
    // Proxies that compress mark the ETag as weak.
    let is_current = |tag: &str| tag.trim().trim_start_matches("W/") == etag;
    let known =
        value(&request, "If-None-Match").is_some_and(|tags| tags.split(',').any(is_current));
    // An error means that the client closed the connection.
    let _ = if known {
        metrics::count(ResponseKind::Unchanged);
        request.respond(Response::new(304.into(), headers, io::empty(), None, None))
    } else {
        metrics::count(kind);
        let whole = Response::new(200.into(), headers, body, Some(len), None);
        request.respond(whole.with_chunked_threshold(usize::MAX))
    };
}

fn refuse(request: Request, reply: Response<io::Cursor<Vec<u8>>>) {
    metrics::count(ResponseKind::Refusal);
    // An error means that the client closed the connection.
    let _ = request.respond(reply);
}

/// The host of the request, for a Content-Security-Policy. `*` for hosts that a policy cannot
/// contain, such as IPv6 addresses.
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

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("own headers are ASCII")
}
