//! Metrics over HTTP, for Prometheus to fetch.
//!
//! The little of HTTP/1.1 that this takes (RFC 9112): one request a connection, no body. Whoever is
//! slow or sends something else is cut off, and keeps nobody from being served.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::About;
use super::text::{CONTENT_TYPE, render};
use crate::error::{IoContext as _, Result};
use crate::metrics::Metrics;

/// How long a client may take to ask and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest request, in bytes; a browser's is shorter.
const LONGEST: usize = 8 << 10;

/// How many clients are served at once; others wait, no longer than the patience with these.
const CLIENTS: usize = 16;

/// An address at which metrics can be fetched, until this is dropped.
pub struct Exporter {
    listener: Option<TcpListener>,
    address: SocketAddr,
    task: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Takes an address; port 0 is any that is free.
    ///
    /// # Errors
    /// `AddrInUse` and others of the system, as `Io`.
    pub async fn bind(address: SocketAddr) -> Result<Self> {
        let taken = || format!("metrics can't be served at {address}");
        let listener = TcpListener::bind(address).await.context(taken)?;
        let address = listener.local_addr().context(taken)?;
        Ok(Self { listener: Some(listener), address, task: None })
    }

    /// The address that it has.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves what `metrics` hold from now on.
    pub fn serve(&mut self, about: About, metrics: Arc<Metrics>) {
        if let Some(listener) = self.listener.take() {
            let about = Arc::new(about);
            self.task = Some(tokio::spawn(accept(listener, about, metrics)));
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

async fn accept(listener: TcpListener, about: Arc<About>, metrics: Arc<Metrics>) {
    let free = Arc::new(Semaphore::new(CLIENTS));
    while let Ok(place) = Arc::clone(&free).acquire_owned().await {
        let Ok((mut client, _)) = listener.accept().await else {
            // Out of descriptors, most likely: there will be some again.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (about, metrics) = (Arc::clone(&about), Arc::clone(&metrics));
        tokio::spawn(async move {
            let served = tokio::time::timeout(PATIENCE, serve(&mut client, &about, &metrics)).await;
            if !matches!(served, Ok(Ok(()))) {
                tracing::debug!(?served, "a client of the metrics was cut off");
            }
            drop(place);
        });
    }
}

async fn serve(client: &mut TcpStream, about: &About, metrics: &Metrics) -> io::Result<()> {
    let request = read_head(client).await?;
    let (status, body) = match target(&request) {
        Some(("GET" | "HEAD", "/metrics")) => ("200 OK", render(about, metrics)),
        Some(("GET" | "HEAD", _)) => ("404 Not Found", "metrics are at /metrics\n".to_owned()),
        Some(_) => ("405 Method Not Allowed", "metrics can only be read\n".to_owned()),
        None => ("400 Bad Request", "this isn't HTTP\n".to_owned()),
    };
    let kind = if status.starts_with("200") { CONTENT_TYPE } else { "text/plain" };
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Allow: GET, HEAD\r\nConnection: close\r\n\r\n",
        body.len(),
    );
    if !request.starts_with(b"HEAD ") {
        answer.push_str(&body);
    }
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await
}

/// Reads up to the empty line that ends the head of a request, or as much as is allowed.
async fn read_head(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(1 << 10);
    while head.len() < LONGEST && !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if client.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(head)
}

/// The method and the path of a complete request; `None` if it isn't one.
fn target(request: &[u8]) -> Option<(&str, &str)> {
    let end = request.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&request[..end]).ok()?;
    let mut words = head.lines().next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let plain = method.bytes().all(|byte| byte.is_ascii_uppercase()) && !method.is_empty();
    let path = target.split('?').next()?;
    (plain && version.starts_with("HTTP/1.") && words.next().is_none()).then_some((method, path))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let ended = [&bytes[..], b"\r\n\r\n"].concat();
            for request in [&bytes, &ended] {
                if let Some((method, _)) = super::target(request) {
                    prop_assert!(method.bytes().all(|byte| byte.is_ascii_uppercase()));
                }
            }
        }
    }

    #[test]
    fn only_a_request_is_taken_for_one() {
        let target = |text: &str| {
            super::target(text.as_bytes()).map(|(method, path)| format!("{method} {path}"))
        };
        let asked = "GET /metrics?a=b HTTP/1.1\r\nHost: here\r\n\r\n";
        assert_eq!(target(asked).as_deref(), Some("GET /metrics"));
        assert_eq!(target("POST / HTTP/1.0\r\n\r\n").as_deref(), Some("POST /"));
        for text in ["", "GET /metrics HTTP/1.1\r\n", "GET\r\n\r\n", "GET / SPDY\r\n\r\n"] {
            assert_eq!(target(text), None, "{text}");
        }
        assert_eq!(super::target(b"\xff\xfe / HTTP/1.1\r\n\r\n"), None);
    }
}
