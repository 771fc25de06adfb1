//! The HTTP listener. It checks every request and enforces limits before tiny_http receives it.
//!
//! tiny_http 0.12 must not be exposed to a network:
//! - One request with a huge Content-Length aborts the process.
//! - An accept error closes its listener permanently.
//! - Half-sent bodies block its workers.
//! - Heads and pipelines grow without bound.
//!
//! Therefore clients connect to this listener. One thread per connection reads one whole request
//! within the limits and rejects everything that is not plain HTTP. It rebuilds the head and passes
//! the request to tiny_http over a unix socket. One connection carries one request.
//!
//! The unix socket has an abstract name (Linux), since a scratch image has no writable folder. Such
//! a name has no permissions: any process in the same network namespace can bypass the listener. A
//! process in that namespace can reach the brokers as well.

mod limits;
mod listener;
mod request;
mod response;

pub(crate) use limits::Timed;
pub use limits::{BODY_BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX, REQUEST_TIME, RESPONSE_PART_TIME};
pub use listener::{Capacity, Error, Handler, everywhere, serve};
pub use request::Handshake;
pub use response::{reply, text};
