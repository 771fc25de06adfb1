//! A TCP proxy that can become silent, as a network that loses all packets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

pub struct SilentProxy {
    addr: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    silent: Mutex<bool>,
    changed: Condvar,
}

impl SilentProxy {
    /// Starts a proxy to the server `host`, such as `127.0.0.1:5432`.
    ///
    /// # Panics
    /// If `host` has no address.
    pub fn start(host: &str) -> Self {
        let server = host.to_socket_addrs().ok().and_then(|mut it| it.next());
        let server = server.unwrap_or_else(|| panic!("{host} has no address"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the system has a port");
        let addr = listener.local_addr().expect("it is bound");
        let state = Arc::<State>::default();
        let accepting = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(server) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone(), to.try_clone());
                    let (from, to) = (from.expect("descriptors"), to.expect("descriptors"));
                    let state = accepting.clone();
                    thread::spawn(move || state.forward(from, to));
                }
            }
        });
        Self { addr, state }
    }

    /// Host and port of the proxy.
    pub fn addr(&self) -> String {
        self.addr.to_string()
    }

    /// If `silent`, nothing is forwarded from now on, while connections are still accepted.
    /// Otherwise forwards what was held back.
    ///
    /// # Panics
    /// If a thread of the proxy has panicked.
    pub fn set_silent(&self, silent: bool) {
        *self.state.silent.lock().expect("no thread panics with the lock") = silent;
        self.state.changed.notify_all();
    }
}

impl State {
    fn forward(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let silent = self.silent.lock().expect("no thread panics with the lock");
            drop(self.changed.wait_while(silent, |silent| *silent));
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}
