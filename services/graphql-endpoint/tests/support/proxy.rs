//! A TCP proxy between an endpoint and PostgreSQL, which makes faults of the network.

use std::io::{Read, Write};
use std::mem;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

pub struct DatabaseProxy {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    faults: Mutex<Faults>,
    changed: Condvar,
}

#[derive(Default)]
struct Faults {
    /// Nothing is forwarded.
    held: bool,
    /// What happens to the next COMMIT of a session that stores rows in this table.
    commit: CommitFault,
    table: &'static str,
    /// The session that has sent LISTEN.
    listener: Option<TcpStream>,
    /// The server's side of a session with a COMMIT that is not sent yet.
    delayed: Option<(TcpStream, Vec<u8>)>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum CommitFault {
    #[default]
    None,
    /// The server executes it. The client's connection is closed instead of the response.
    LoseResponse,
    /// The client's connection is closed. The server gets it later.
    Delay,
}

impl DatabaseProxy {
    /// Starts a proxy to the server of transactiondb.
    pub fn start() -> Self {
        let url = std::env::var("TRANSACTION_DATABASE_URL")
            .expect("TRANSACTION_DATABASE_URL: make test-integration sets it");
        let host = url.split(['@', '/']).nth(3).unwrap();
        let server = host.to_socket_addrs().unwrap().next().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = url.replace(host, &listener.local_addr().unwrap().to_string());
        let shared = Arc::<Shared>::default();
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let shared = accepting.clone();
                thread::spawn(move || shared.serve(client.unwrap(), server));
            }
        });
        Self { url, shared }
    }

    /// `DATABASE_URL` of an endpoint.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on nothing is forwarded, while connections are still accepted.
    pub fn hold(&self) {
        self.shared.faults().held = true;
    }

    /// Forwards what was held.
    pub fn release(&self) {
        self.shared.faults().held = false;
        self.shared.changed.notify_all();
    }

    /// The server executes the next COMMIT of the session that stores rows in `table`. The client
    /// loses its connection before the response.
    pub fn lose_next_commit_response(&self, table: &'static str) {
        let mut faults = self.shared.faults();
        (faults.commit, faults.table) = (CommitFault::LoseResponse, table);
    }

    /// The client loses its connection at the next COMMIT of the session that stores rows in
    /// `table`. The server gets it later.
    pub fn delay_next_commit(&self, table: &'static str) {
        let mut faults = self.shared.faults();
        (faults.commit, faults.table) = (CommitFault::Delay, table);
    }

    /// Sends the delayed COMMIT to the server.
    pub fn send_delayed_commit(&self) {
        let (mut server, commit) = self.shared.faults().delayed.take().expect("a COMMIT waits");
        server.write_all(&commit).unwrap();
    }

    /// Closes the connection that receives notifications.
    pub fn close_listener(&self) {
        let listener = self.shared.faults().listener.take().expect("a session has sent LISTEN");
        listener.shutdown(Shutdown::Both).unwrap();
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream, server: SocketAddr) {
        let mut server = TcpStream::connect(server).unwrap();
        // True if the session ends instead of the next response.
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            let (mut from_server, mut to_client) =
                (server.try_clone().unwrap(), client.try_clone().unwrap());
            let ends = &ends;
            scope.spawn(move || {
                let mut buffer = [0; 64 << 10];
                while let Ok(count @ 1..) = from_server.read(&mut buffer) {
                    self.wait_while_held();
                    if ends.load(Ordering::SeqCst) || to_client.write_all(&buffer[..count]).is_err()
                    {
                        break;
                    }
                }
                let _ = to_client.shutdown(Shutdown::Both);
            });
            // A session prepares its statements first.
            let mut statements = Vec::new();
            let mut buffer = [0; 64 << 10];
            while let Ok(count @ 1..) = client.read(&mut buffer) {
                self.wait_while_held();
                let sent = &buffer[..count];
                if contains(sent, b"INSERT INTO ") {
                    statements.extend_from_slice(sent);
                }
                if contains(sent, b"LISTEN ") {
                    self.faults().listener = Some(client.try_clone().unwrap());
                }
                let mut faults = self.faults();
                let insert = format!("INSERT INTO {} ", faults.table);
                if contains(sent, b"COMMIT\0") && contains(&statements, insert.as_bytes()) {
                    match mem::take(&mut faults.commit) {
                        CommitFault::None => {}
                        CommitFault::LoseResponse => ends.store(true, Ordering::SeqCst),
                        CommitFault::Delay => {
                            let delayed = server.try_clone().unwrap();
                            faults.delayed = Some((delayed, sent.to_vec()));
                            // The other thread ends the session after the response.
                            ends.store(true, Ordering::SeqCst);
                            let _ = client.shutdown(Shutdown::Both);
                            return;
                        }
                    }
                }
                drop(faults);
                if server.write_all(sent).is_err() {
                    break;
                }
            }
            let _ = server.shutdown(Shutdown::Write);
        });
    }

    fn wait_while_held(&self) {
        drop(self.changed.wait_while(self.faults(), |faults| faults.held).unwrap());
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap()
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}
