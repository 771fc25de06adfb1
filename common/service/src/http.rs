//! The HTTP/1.1 server of all services. Sources: RFC 9110, RFC 9112.
//!
//! One thread serves all connections of a listener (`server.rs`), so neither an idle client nor a
//! slow one occupies a thread. It reads one whole request within the limits (`request.rs`,
//! `limits.rs`). The handler responds at once or later, from any thread (`outbox.rs`). A connection
//! carries one request. It can become a stream, for server-sent events and websockets.
//!
//! Why no library: docs/decisions/0029-http-server.md.

use crate::env::Variable;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod limits;
mod outbox;
mod request;
mod response;
mod server;

pub const HTTP_ADDR: Variable = Variable::new(
    "HTTP_ADDR",
    "::",
    "IP address that the HTTP port listens on; :: for all of IPv6 and IPv4",
);

/// What [`Env::parse`](crate::env::Env::parse) expects of an address to listen on.
pub const IP_ADDRESS: &str = "an IP address, as in 127.0.0.1, or :: for all";

pub use ::http::Method;
pub(crate) use limits::Timed;
pub use limits::{
    BODY_BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX, REQUEST_TIME, RESPONSE_TIME, client_of,
    client_share,
};
pub use outbox::{Disconnected, Outbox, Responder, Session};
pub use request::{Request, bearer};
pub use response::{Body, Response, reply, text};
pub use server::{Error, Handler, Limits, Listener, serve};
