//! HTTP handler for the page, its files and the results.

use crate::config::{GraphqlUrl, Host, origins};
use crate::metrics::{self, ResponseKind};
use crate::page::{self, Asset, Index};
use crate::results::{ResultFile, Results};
use service::http::{self, Body, Method, Request, Response};
use std::path::PathBuf;

/// Path of the list of results and prefix of the result files.
const RESULTS: &str = "/results/";

/// Allows the page's own files only. The origins of the endpoint are appended to `connect-src`: the
/// page opens a websocket, and sends an HTTP request to find out why that failed.
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
}

impl Site {
    pub fn new(graphql_url: GraphqlUrl, results_dirs: Vec<PathBuf>) -> Self {
        let (index, assets) = page::render(&graphql_url);
        Self { index, assets, endpoint: graphql_url.host, results: Results(results_dirs) }
    }

    pub fn response(&self, request: &Request) -> Response {
        let path = request.path();
        if !matches!(request.method, Method::GET | Method::HEAD) {
            let reply = http::text(405, "method not allowed: use GET or HEAD");
            return refusal(reply.with_header("Allow", "GET, HEAD"));
        }
        if page::PATHS.contains(&path) {
            self.page(request)
        } else if let Some(asset) = self.assets.iter().find(|asset| asset.path == path) {
            asset_response(request, asset)
        } else if path == RESULTS {
            self.list()
        } else if let Some(name) = path.strip_prefix(RESULTS) {
            self.result(request, name)
        } else {
            let reason = format!(
                "not found: the pages are {}, results are in {RESULTS}",
                page::PATHS.join(", ")
            );
            refusal(http::text(404, &reason))
        }
    }

    fn page(&self, request: &Request) -> Response {
        let policy = match &self.endpoint {
            Host::Other(origins) => format!("{POLICY} {origins}"),
            Host::SamePage(port) => {
                format!("{POLICY} {}", origins("", &format!("{}:{port}", host_name(request))))
            }
            Host::SameOrigin => POLICY.to_owned(),
        };
        let html = self.index.html.clone();
        file_response(request, ResponseKind::Page, &self.index.etag, CHECKED, html.into())
            .with_header("Content-Security-Policy", policy)
            .with_header("Cross-Origin-Opener-Policy", "same-origin")
            .with_header("Content-Type", "text/html; charset=utf-8")
    }

    fn list(&self) -> Response {
        let list =
            serde_json::to_vec(&self.results.list()).expect("texts and numbers can be serialized");
        metrics::count(ResponseKind::Result);
        http::reply(200, "application/json", list)
            .with_header("Cache-Control", CHECKED)
            .with_header("X-Content-Type-Options", "nosniff")
    }

    fn result(&self, request: &Request, name: &str) -> Response {
        let Some(ResultFile { file, bytes, content_type, etag }) = self.results.open(name) else {
            return refusal(http::text(404, "result not found: /results/ lists the results"));
        };
        let body = Body::File(file, bytes);
        file_response(request, ResponseKind::Result, &etag, CHECKED, body)
            .with_header("Content-Type", content_type)
            .with_header("Content-Security-Policy", RESULT_POLICY)
    }
}

fn asset_response(request: &Request, asset: &Asset) -> Response {
    file_response(request, ResponseKind::Asset, &asset.etag, KEPT, asset.gzip.into())
        .with_header("Content-Type", asset.content_type)
        // All browsers accept gzip, so there is no other encoding.
        .with_header("Content-Encoding", "gzip")
}

/// A response with `body`, or with status 304 if the client has the current version.
fn file_response(
    request: &Request,
    kind: ResponseKind,
    etag: &str,
    cache: &'static str,
    body: Body,
) -> Response {
    // Proxies that compress mark the ETag as weak.
    let is_current = |tag: &str| tag.trim_start_matches("W/") == etag;
    let response = if request.list("if-none-match").any(is_current) {
        metrics::count(ResponseKind::Unchanged);
        Response::new(304, Vec::new())
    } else {
        metrics::count(kind);
        Response::new(200, body)
    };
    response
        .with_header("ETag", etag.to_owned())
        .with_header("Cache-Control", cache)
        .with_header("X-Content-Type-Options", "nosniff")
        .with_header("Referrer-Policy", "no-referrer")
        .with_header("Cross-Origin-Resource-Policy", "same-origin")
}

fn refusal(response: Response) -> Response {
    metrics::count(ResponseKind::Refusal);
    response
}

/// The host of the request, for a Content-Security-Policy. `*` for hosts that a policy cannot
/// contain, such as IPv6 addresses.
fn host_name(request: &Request) -> &str {
    let name = request.host_name();
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    if name.is_empty() || !name.bytes().all(fits) { "*" } else { name }
}
