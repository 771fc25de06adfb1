//! GraphiQL at `/`. Its compressed files are in this binary, so it needs no other server.

use crate::response::header;
use service::http;
use tiny_http::{Method, Request, Response};

/// Path, content type and content of each file. `graphiql/build.sh` builds the files.
const FILES: [(&str, &str, &[u8]); 6] = [
    ("/", "text/html; charset=utf-8", include_bytes!("../graphiql/index.html.gz")),
    ("/graphiql/start.js", SCRIPT, include_bytes!("../graphiql/start.js.gz")),
    ("/graphiql/graphiql.js", SCRIPT, include_bytes!("../graphiql/graphiql.js.gz")),
    ("/graphiql/react.js", SCRIPT, include_bytes!("../graphiql/react.js.gz")),
    ("/graphiql/react-dom.js", SCRIPT, include_bytes!("../graphiql/react-dom.js.gz")),
    (
        "/graphiql/graphiql.css",
        "text/css; charset=utf-8",
        include_bytes!("../graphiql/graphiql.css.gz"),
    ),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Allows nothing from other origins. GraphiQL sets inline styles.
const POLICY: &str = "default-src 'none'; script-src 'self'; \
     style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src 'self' data:; \
     font-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Responds to a request for a file of GraphiQL.
pub fn answer(request: Request, path: &str) {
    let file = FILES.iter().find(|(name, ..)| *name == path);
    // An error means that the client closed the connection.
    let _ = match (file, request.method()) {
        (Some((_, content_type, bytes)), Method::Get | Method::Head) => request.respond(
            // All browsers accept gzip, so there is no other encoding.
            Response::from_data(*bytes)
                .with_header(header("Content-Type", content_type))
                .with_header(header("Content-Encoding", "gzip"))
                .with_header(header("Cache-Control", "no-cache"))
                .with_header(header("Content-Security-Policy", POLICY))
                .with_header(header("X-Content-Type-Options", "nosniff")),
        ),
        (Some(_), _) => request.respond(
            http::text(405, "method not allowed: use GET or HEAD")
                .with_header(header("Allow", "GET, HEAD")),
        ),
        (None, _) => request
            .respond(http::text(404, "not found: the endpoint is at /graphql, GraphiQL at /")),
    };
}
