//! A proxy that stands before an S3 server, counts requests and makes them fail.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// What happens to a request instead of its answer.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// The body stops for a while after so many bytes, and then goes on.
    Pause(usize, Duration),
    /// The body comes byte by byte for so many bytes.
    Trickle(usize),
    /// The server isn't asked; this is the whole answer, head and body.
    Answer(&'static str),
    /// A header of the answer has this value instead, or is gone if it is empty.
    Header(&'static str, &'static str),
    /// The body's length is told in chunks instead of ahead.
    Chunked,
    /// The answer says that its body is so many bytes longer than it is, or shorter.
    Claim(i64),
    /// The end of the body is missing, and the head says nothing of it.
    Cut(usize),
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
    keeps: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The next faults, each for requests whose first line holds the text.
    faults: VecDeque<(&'static str, Fault)>,
    /// The heads of the requests.
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
            keeps: AtomicBool::new(false),
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
        self.fail_those("", times, fault);
    }

    /// Makes the next `times` requests fail whose first line holds `text`.
    pub(crate) fn fail_those(&self, text: &'static str, times: usize, fault: Fault) {
        self.shared.lock().faults.extend(std::iter::repeat_n((text, fault), times));
    }

    /// Breaks all connections and takes no more, as a server does that is stopped.
    pub(crate) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for (_, stream) in self.shared.lock().open.drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Keeps connections for more requests from now on.
    pub(crate) fn keep_connections(&self) {
        self.shared.keeps.store(true, Ordering::SeqCst);
    }

    /// Forgets the connections that are open, as a router does that was restarted: they stay, and
    /// nothing that comes by them is answered. How many there are.
    pub(crate) fn forget_connections(&self) -> usize {
        self.shared.lock().open.drain().count()
    }

    /// Takes connections again, and forgets the faults that are left.
    pub(crate) fn resume(&self) {
        self.shared.lock().faults.clear();
        self.shared.stopped.store(false, Ordering::SeqCst);
    }

    /// The requests since the last call, as `METHOD /path?query RANGE`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.heads().iter().map(|head| summary(head)).collect()
    }

    /// The heads of the requests since the last call.
    pub(crate) fn heads(&self) -> Vec<String> {
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
        while self.serve(client).is_ok_and(|kept| kept) {}
        self.lock().open.remove(&peer.port());
    }

    /// Serves a request; whether the connection is kept for another.
    fn serve(&self, mut client: &TcpStream) -> io::Result<bool> {
        if self.stopped.load(Ordering::SeqCst) {
            return reset(client).map(|()| false);
        }
        let (head, body) = read_message(client)?;
        if !self.lock().open.contains_key(&client.peer_addr()?.port()) {
            // Until the client has had enough.
            return client.read(&mut [0]).map(|_| false);
        }
        let fault = {
            let mut state = self.lock();
            state.requests.push(head.clone());
            let line = head.lines().next().unwrap_or_default();
            let next = state.faults.iter().position(|(text, _)| line.contains(text));
            next.and_then(|next| state.faults.remove(next)).map(|(_, fault)| fault)
        };
        match fault {
            Some(Fault::Status(status)) => {
                let answer = format!(
                    "HTTP/1.1 {status} Fault\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                return client.write_all(answer.as_bytes()).map(|()| false);
            }
            Some(Fault::Answer(answer)) => {
                return client.write_all(answer.as_bytes()).map(|()| false);
            }
            Some(Fault::Delay(delay)) => std::thread::sleep(delay),
            _ => {}
        }
        let (head, body) = self.ask(&head, &body)?;
        if fault.is_none() && self.keeps.load(Ordering::SeqCst) {
            return answer(client, &with(&head, "connection", ""), &body).map(|()| true);
        }
        let cut = |len: usize| len.min(body.len());
        let sent = match fault {
            Some(Fault::Truncate(len)) => answer(client, &head, &body[..cut(len)]),
            Some(Fault::Reset(len)) => {
                answer(client, &head, &body[..cut(len)])?;
                reset(client)
            }
            Some(Fault::Stall(len)) => {
                answer(client, &head, &body[..cut(len)])?;
                // Until the client has had enough.
                client.read(&mut [0]).map(|_| ())
            }
            Some(Fault::Pause(len, pause)) => {
                answer(client, &head, &body[..cut(len)])?;
                std::thread::sleep(pause);
                client.write_all(&body[cut(len)..])
            }
            Some(Fault::Trickle(len)) => {
                client.set_nodelay(true)?;
                answer(client, &head, b"")?;
                for byte in body[..cut(len)].chunks(1) {
                    client.write_all(byte)?;
                    std::thread::sleep(Duration::from_millis(1));
                }
                client.write_all(&body[cut(len)..])
            }
            Some(Fault::Header(name, value)) => answer(client, &with(&head, name, value), &body),
            Some(Fault::Chunked) => {
                let head = with(&with(&head, "content-length", ""), "transfer-encoding", "chunked");
                answer(client, &head, b"")?;
                for chunk in body.chunks(100_000) {
                    client.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                    client.write_all(chunk)?;
                    client.write_all(b"\r\n")?;
                }
                client.write_all(b"0\r\n\r\n")
            }
            Some(Fault::Claim(more)) => {
                let len = (body.len() as u64).saturating_add_signed(more);
                answer(client, &with(&head, "content-length", &len.to_string()), &body)
            }
            Some(Fault::Cut(len)) => {
                let body = &body[..body.len().saturating_sub(len)];
                answer(client, &with(&head, "content-length", &body.len().to_string()), body)
            }
            _ => answer(client, &head, &body),
        };
        sent.map(|()| false)
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

fn answer(mut client: &TcpStream, head: &str, body: &[u8]) -> io::Result<()> {
    client.write_all(head.as_bytes())?;
    client.write_all(body)
}

/// The head with another value of a header, or without it if that is empty.
fn with(head: &str, name: &str, value: &str) -> String {
    let kept = head.lines().filter(|line| !line.is_empty() && !is(line, name));
    let added = (!value.is_empty()).then(|| format!("{name}: {value}"));
    let lines: Vec<_> = kept.map(str::to_owned).chain(added).collect();
    format!("{}\r\n\r\n", lines.join("\r\n"))
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
