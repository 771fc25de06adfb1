//! The opening handshake of a websocket. Source: RFC 6455, section 4.2.

use crate::config::Origins;
use crate::operation::PATH;
use service::http::Request;
use tungstenite::handshake::derive_accept_key;

/// The supported subprotocol.
pub const PROTOCOL: &str = "graphql-transport-ws";

#[derive(Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The complete HTTP response.
    pub response: String,
    /// True if the client offers [`PROTOCOL`].
    pub offers_protocol: bool,
}

/// HTTP status and reason of a refusal.
pub type Refusal = (u16, &'static str);

/// Checks a handshake.
pub fn accept(origins: &Origins, handshake: &Request) -> Result<Accepted, Refusal> {
    if handshake.path() != PATH {
        return Err((404, "not found: the endpoint is at /graphql"));
    }
    if handshake.header("sec-websocket-version") != Some("13") {
        return Err((426, "Sec-WebSocket-Version: expected 13"));
    }
    // 16 bytes in base64.
    let Some(key) = handshake.header("sec-websocket-key").filter(|key| key.len() == 24) else {
        return Err((400, "Sec-WebSocket-Key: expected 24 characters"));
    };
    if let Some(origin) = handshake.headers.get("origin")
        && !origin.to_str().is_ok_and(|origin| {
            is_same_origin(origin, handshake.header("host")) || origins.allow(origin)
        })
    {
        return Err((403, "CORS_ORIGINS does not name the origin of this page"));
    }
    let offers_protocol = handshake.list("sec-websocket-protocol").any(|it| it == PROTOCOL);
    let protocol = if offers_protocol {
        format!("Sec-WebSocket-Protocol: {PROTOCOL}\r\n")
    } else {
        String::new()
    };
    let accept = derive_accept_key(key.as_bytes());
    Ok(Accepted {
        response: format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
        ),
        offers_protocol,
    })
}

/// True for a page of this endpoint. Browsers let every page open websockets to any server. They
/// send the origin of the page.
fn is_same_origin(origin: &str, host: Option<&str>) -> bool {
    let own = origin.split_once("://").map(|(_, host)| host);
    own.is_some_and(|own| host.is_some_and(|host| host.eq_ignore_ascii_case(own)))
}
