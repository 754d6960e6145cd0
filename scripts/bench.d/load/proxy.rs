//! A TCP proxy that makes a server seem far away, without making the way narrow.
//!
//! What comes in is stamped with the time at which it may go out and waits in a queue, so that
//! each byte is late but as many are under way as the connection takes. Whoever connects to the
//! control port is told the counters.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use crate::Outcome;

/// Bytes of one direction of one connection that may be under way: 800 MB/s at 10 ms, more than
/// the window of a usual TCP connection lets through.
const UNDER_WAY: u32 = 8 << 20;

/// Bytes taken from a connection at a time.
const CHUNK: usize = 256 << 10;

#[derive(Args)]
pub(crate) struct Proxy {
    /// The server, as HOST:PORT
    #[arg(long)]
    to: String,
    /// What a round trip costs, in milliseconds
    #[arg(long, default_value_t = 0.0)]
    latency: f64,
}

/// What went through.
#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counters {
    fn line(&self) -> Value {
        json!({
            "connections": self.connections.load(Ordering::Relaxed),
            "sent": self.sent.load(Ordering::Relaxed),
            "received": self.received.load(Ordering::Relaxed),
        })
    }
}

impl Proxy {
    pub(crate) fn run(self) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> Outcome {
        let round_trip = Duration::from_secs_f64(self.latency / 1e3);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let control = TcpListener::bind("127.0.0.1:0").await?;
        let ports = json!({ "port": listener.local_addr()?.port(), "control": control.local_addr()?.port() });
        writeln!(std::io::stdout(), "{ports}")?;
        let counters = Arc::new(Counters::default());
        tokio::spawn(tell(control, Arc::clone(&counters)));
        loop {
            let (client, _) = listener.accept().await?;
            let (counters, to) = (Arc::clone(&counters), self.to.clone());
            counters.connections.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                if let Ok(server) = TcpStream::connect(to).await {
                    connect(client, server, round_trip, counters);
                }
            });
        }
    }
}

async fn tell(control: TcpListener, counters: Arc<Counters>) {
    while let Ok((mut asking, _)) = control.accept().await {
        let line = format!("{}\n", counters.line());
        // Who goes away before the answer doesn't need it.
        let _ = asking.write_all(line.as_bytes()).await;
    }
}

fn connect(client: TcpStream, server: TcpStream, round_trip: Duration, counters: Arc<Counters>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = Arc::clone(&counters);
    // The handshake was with this proxy; one with the server would have taken a round trip.
    let connected = Instant::now() + round_trip;
    tokio::spawn(pass(from_client, to_server, connected, round_trip / 2, move |bytes| {
        there.sent.fetch_add(bytes, Ordering::Relaxed);
    }));
    tokio::spawn(pass(from_server, to_client, connected, round_trip / 2, move |bytes| {
        counters.received.fetch_add(bytes, Ordering::Relaxed);
    }));
}

/// One direction of a connection; ends when its source does, or when nobody takes any more.
async fn pass(
    mut from: OwnedReadHalf,
    to: OwnedWriteHalf,
    connected: Instant,
    delay: Duration,
    count: impl Fn(u64),
) {
    let room = Arc::new(Semaphore::new(UNDER_WAY as usize));
    let (queue, due) = mpsc::unbounded_channel();
    let sender = tokio::spawn(send(due, to));
    loop {
        let mut bytes = Vec::with_capacity(CHUNK);
        let Ok(len @ 1..) = from.read_buf(&mut bytes).await else { break };
        count(len as u64);
        let weight = u32::try_from(len).unwrap_or(UNDER_WAY).min(UNDER_WAY);
        let Ok(permit) = Arc::clone(&room).acquire_many_owned(weight).await else { break };
        let when = connected.max(Instant::now()) + delay;
        if queue.send(Chunk { when, bytes, _permit: permit }).is_err() {
            break;
        }
    }
    drop(queue);
    // It still sends what is under way, then closes its half.
    let _ = sender.await;
}

struct Chunk {
    when: Instant,
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

async fn send(mut due: mpsc::UnboundedReceiver<Chunk>, mut to: OwnedWriteHalf) {
    while let Some(chunk) = due.recv().await {
        if chunk.when > Instant::now() {
            tokio::time::sleep_until(chunk.when).await;
        }
        if to.write_all(&chunk.bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
