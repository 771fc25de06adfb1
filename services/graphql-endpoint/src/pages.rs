//! GraphiQL at `/`. Its compressed files are in this binary, so it needs no other server.

use service::http::{self, Method, Request, Response};

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

/// The response to a request for a file of GraphiQL, or for an unknown path.
pub fn response(request: &Request, has_graphiql: bool) -> Response {
    let file = FILES.iter().find(|(name, ..)| has_graphiql && *name == request.path());
    match (file, &request.method) {
        (Some((_, content_type, bytes)), &Method::GET | &Method::HEAD) => {
            // All browsers accept gzip, so there is no other encoding.
            http::reply(200, content_type, *bytes)
                .with_header("Content-Encoding", "gzip")
                .with_header("Cache-Control", "no-cache")
                .with_header("Content-Security-Policy", POLICY)
                .with_header("X-Content-Type-Options", "nosniff")
        }
        (Some(_), _) => {
            http::text(405, "method not allowed: use GET or HEAD").with_header("Allow", "GET, HEAD")
        }
        (None, _) if has_graphiql => {
            http::text(404, "not found: the endpoint is at /graphql, GraphiQL at /")
        }
        (None, _) => http::text(404, "not found: the endpoint is at /graphql"),
    }
}
