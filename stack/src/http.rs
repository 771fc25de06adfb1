//! Readiness checks over HTTP.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Timeout of a response.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// True if GET `path` on `port` returns status 200.
pub fn is_ok(port: u16, path: &str) -> bool {
    status(port, path).is_ok_and(|line| line.split(' ').nth(1) == Some("200"))
}

/// The first bytes of the response, which contain its status.
fn status(port: u16, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut line = [0; "HTTP/1.1 200 ".len()];
    stream.read_exact(&mut line)?;
    Ok(String::from_utf8_lossy(&line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    fn answer(text: &'static str) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            stream.write_all(text.as_bytes()).unwrap();
        });
        let ok = is_ok(port, "/readyz");
        server.join().unwrap();
        ok
    }

    #[test]
    fn status_200_alone_is_ready() {
        assert!(answer("HTTP/1.1 200 OK\r\n\r\n"));
        assert!(!answer("HTTP/1.1 503 Service Unavailable\r\n\r\n"));
        assert!(!answer("HTTP"));
    }
}
