//! A proxy that stands before an S3 server, counts requests and makes them fail.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// What happens to a request instead of its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The server isn't asked; this status comes, without a body.
    Status(u16),
    /// The answer's connection is closed after so many bytes of the body.
    Truncate(usize),
    /// The answer's connection is reset after so many bytes of the body.
    Reset(usize),
    /// The answer stops after so many bytes of the body and its connection stays open.
    Stall(usize),
    /// The answer comes later.
    Delay(Duration),
}

/// A running proxy.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: u16,
    stopped: AtomicBool,
    ended: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    faults: VecDeque<Fault>,
    requests: Vec<String>,
    /// The clients' connections that are open, by their ports.
    open: HashMap<u16, TcpStream>,
}

impl Proxy {
    /// Starts a proxy before the server at `upstream` of this machine.
    pub(crate) fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            upstream,
            stopped: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            state: Mutex::default(),
        });
        let listening = shared.clone();
        let listener = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if listening.ended.load(Ordering::SeqCst) {
                    return;
                }
                let shared = listening.clone();
                std::thread::spawn(move || shared.take(&client));
            }
        });
        Self { shared, port, listener: Some(listener) }
    }

    /// The URL to use instead of the server's.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Makes the next `times` requests fail.
    pub(crate) fn fail(&self, times: usize, fault: Fault) {
        self.shared.lock().faults.extend(std::iter::repeat_n(fault, times));
    }

    /// Breaks all connections and takes no more, as a server does that is stopped.
    pub(crate) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for (_, stream) in self.shared.lock().open.drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Takes connections again, and forgets the faults that are left.
    pub(crate) fn resume(&self) {
        self.shared.lock().faults.clear();
        self.shared.stopped.store(false, Ordering::SeqCst);
    }

    /// The requests since the last call, as `METHOD /path?query RANGE`.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().requests)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.stop();
        // Wakes the listener, so that it sees the end.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn take(&self, client: &TcpStream) {
        let (Ok(peer), Ok(copy)) = (client.peer_addr(), client.try_clone()) else { return };
        self.lock().open.insert(peer.port(), copy);
        // A connection that breaks is what this is for.
        let _ = self.serve(client);
        self.lock().open.remove(&peer.port());
    }

    fn serve(&self, mut client: &TcpStream) -> io::Result<()> {
        if self.stopped.load(Ordering::SeqCst) {
            return reset(client);
        }
        let (head, body) = read_message(client)?;
        let fault = {
            let mut state = self.lock();
            state.requests.push(summary(&head));
            state.faults.pop_front()
        };
        match fault {
            Some(Fault::Status(status)) => {
                let answer = format!(
                    "HTTP/1.1 {status} Fault\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                return client.write_all(answer.as_bytes());
            }
            Some(Fault::Delay(delay)) => std::thread::sleep(delay),
            _ => {}
        }
        let (head, body) = self.ask(&head, &body)?;
        client.write_all(head.as_bytes())?;
        match fault {
            Some(Fault::Truncate(len)) => client.write_all(&body[..len.min(body.len())]),
            Some(Fault::Reset(len)) => {
                client.write_all(&body[..len.min(body.len())])?;
                reset(client)
            }
            Some(Fault::Stall(len)) => {
                client.write_all(&body[..len.min(body.len())])?;
                // Until the client has had enough.
                client.read(&mut [0]).map(|_| ())
            }
            _ => client.write_all(&body),
        }
    }

    /// Sends a request to the server; the head and the body of its answer.
    fn ask(&self, head: &str, body: &[u8]) -> io::Result<(String, Vec<u8>)> {
        let mut server = TcpStream::connect(("127.0.0.1", self.upstream))?;
        let lines: Vec<_> =
            head.lines().filter(|line| !line.is_empty() && !is(line, "connection")).collect();
        server
            .write_all(format!("{}\r\nconnection: close\r\n\r\n", lines.join("\r\n")).as_bytes())?;
        server.write_all(body)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        let end = head_end(&answer).unwrap_or(answer.len());
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        Ok((head, answer.split_off(end)))
    }
}

fn reset(stream: &TcpStream) -> io::Result<()> {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    Ok(())
}

/// The head of a request, its empty line included, and its body.
fn read_message(mut stream: &TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut message = Vec::new();
    let end = loop {
        if let Some(end) = head_end(&message) {
            break end;
        }
        let mut chunk = vec![0; 64 << 10];
        let len = stream.read(&mut chunk)?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        message.extend_from_slice(&chunk[..len]);
    };
    let mut body = message.split_off(end);
    let head = String::from_utf8_lossy(&message).into_owned();
    let len = header(&head, "content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    let missing = usize::saturating_sub(len, body.len());
    stream.take(missing as u64).read_to_end(&mut body)?;
    Ok((head, body))
}

fn head_end(message: &[u8]) -> Option<usize> {
    message.windows(4).position(|four| four == b"\r\n\r\n").map(|start| start + 4)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find(|line| is(line, name))
        .and_then(|line| line.split_once(':'))
        .map(|(_, v)| v.trim())
}

fn is(line: &str, name: &str) -> bool {
    line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name))
}

fn summary(head: &str) -> String {
    let line = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1");
    format!("{line} {}", header(head, "range").unwrap_or_default()).trim_end().to_owned()
}
