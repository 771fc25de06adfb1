//! The HTTP listener: every request from outside is bounded and checked here before tiny_http sees
//! it.
//!
//! tiny_http 0.12 cannot face a network. One request with a huge Content-Length aborts the process,
//! an accept error closes its listener for good, half-sent bodies block its workers, and heads and
//! pipelines grow without bound. So clients connect here. A thread per connection reads one whole
//! request within limits, refuses what is not plain HTTP, and passes the rest to tiny_http over a
//! unix socket, with a rebuilt head. One connection carries one request.
//!
//! The unix socket has an abstract name (Linux), since a scratch image has no folder to write to.
//! Such a name has no permissions: a process in the same network namespace, which reaches the
//! brokers as well, can bypass the listener.

mod limits;
mod listener;
mod request;
mod response;

pub(crate) use limits::Timed;
pub use limits::{BODY_BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX, REQUEST_TIME, RESPONSE_PART_TIME};
pub use listener::{Capacity, Error, Handler, everywhere, serve};
pub use request::Handshake;
pub use response::{reply, text};
