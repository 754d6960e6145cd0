//! As much of `ZeroMQ` as it takes to ask a kernel something: a DEALER that speaks ZMTP 3.0 over TCP or
//! a Unix socket, with the NULL mechanism.
//!
//! A conversation is one connection, from its greeting to the answer. See
//! <https://rfc.zeromq.org/spec/23/>.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// Length of a greeting, in bytes.
const GREETING: usize = 64;
/// Most bytes of a frame that are taken; answers are short.
const LONGEST: u64 = 64 << 20;
/// Most frames of a message that are taken.
const MOST: usize = 64;

/// Bits of the first byte of a frame.
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A host and a port.
    Tcp(String, u16),
    /// The path of a Unix socket.
    Ipc(String),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to a ROUTER.
pub(super) struct Dealer(Box<dyn Stream>);

impl Dealer {
    /// Connects, and finds out that a ROUTER is there.
    pub(super) async fn connect(address: &Address) -> io::Result<Self> {
        let stream: Box<dyn Stream> = match address {
            Address::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Address::Ipc(path) => Box::new(UnixStream::connect(path).await?),
        };
        let mut dealer = Self(stream);
        dealer.greet().await?;
        Ok(dealer)
    }

    async fn greet(&mut self) -> io::Result<()> {
        let mut greeting = [0; GREETING];
        greeting[0] = 0xff;
        greeting[9] = 0x7f;
        greeting[10] = 3;
        greeting[12..16].copy_from_slice(b"NULL");
        self.0.write_all(&greeting).await?;
        let mut theirs = [0; GREETING];
        self.0.read_exact(&mut theirs).await?;
        let speaks = theirs[0] == 0xff && theirs[9] & 1 == 1 && theirs[10] >= 3;
        if !speaks || theirs[12..32] != greeting[12..32] {
            return Err(strange("it doesn't speak ZMTP 3 without encryption"));
        }
        let mut ready = b"\x05READY".to_vec();
        ready.extend(b"\x0bSocket-Type\0\0\0\x06DEALER");
        ready.extend(b"\x08Identity\0\0\0\0");
        self.write_frame(COMMAND, &ready).await?;
        self.0.flush().await?;
        match self.read_frame().await? {
            (flags, body) if flags & COMMAND != 0 && body.starts_with(b"\x05READY") => Ok(()),
            _ => Err(strange("it doesn't accept the connection")),
        }
    }

    /// Sends a message.
    pub(super) async fn send(&mut self, frames: &[&[u8]]) -> io::Result<()> {
        for (number, frame) in frames.iter().enumerate() {
            let more = if number + 1 < frames.len() { MORE } else { 0 };
            self.write_frame(more, frame).await?;
        }
        self.0.flush().await
    }

    /// Waits for a message.
    pub(super) async fn receive(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        loop {
            let (flags, body) = self.read_frame().await?;
            if flags & COMMAND != 0 {
                continue;
            }
            frames.push(body);
            if flags & MORE == 0 {
                return Ok(frames);
            }
            if frames.len() == MOST {
                return Err(strange("its message has too many frames"));
            }
        }
    }

    async fn write_frame(&mut self, flags: u8, body: &[u8]) -> io::Result<()> {
        if let Ok(len) = u8::try_from(body.len()) {
            self.0.write_all(&[flags, len]).await?;
        } else {
            self.0.write_all(&[flags | LONG]).await?;
            self.0.write_all(&(body.len() as u64).to_be_bytes()).await?;
        }
        self.0.write_all(body).await
    }

    async fn read_frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let flags = self.0.read_u8().await?;
        let len = match flags & LONG {
            0 => self.0.read_u8().await?.into(),
            _ => self.0.read_u64().await?,
        };
        if len > LONGEST {
            return Err(strange("its message is too long"));
        }
        // What is announced needn't come: memory is taken as it does.
        let mut body = Vec::new();
        (&mut self.0).take(len).read_to_end(&mut body).await?;
        if (body.len() as u64) < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((flags, body))
    }
}

fn strange(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a peer sends that has `answer` to say after its greeting, and what we make of it.
    async fn told(greeting: &[u8], answer: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        theirs.write_all(&[greeting, answer].concat()).await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut dealer = Dealer(Box::new(ours));
        dealer.greet().await?;
        dealer.receive().await
    }

    /// The greeting of libzmq 4.3 and its READY.
    fn router() -> Vec<u8> {
        let mut greeting = vec![0; GREETING];
        greeting[..10].copy_from_slice(b"\xff\0\0\0\0\0\0\0\x01\x7f");
        greeting[10..12].copy_from_slice(&[3, 1]);
        greeting[12..16].copy_from_slice(b"NULL");
        greeting.extend(b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06ROUTER");
        greeting
    }

    #[tokio::test]
    async fn a_message_is_all_its_frames_and_no_commands() {
        let mut sent = b"\x01\x01a\x04\x05\x04PING\x03".to_vec();
        sent.extend(300_u64.to_be_bytes());
        sent.extend([7; 300]);
        sent.extend(b"\x00\x00");
        let frames = told(&router(), &sent).await.unwrap();
        assert_eq!(frames, [b"a".to_vec(), vec![7; 300], Vec::new()]);
    }

    #[tokio::test]
    async fn whatever_a_peer_sends_is_an_error_at_worst() {
        let endless = [b"\x02".as_slice(), &u64::MAX.to_be_bytes()].concat();
        let many = b"\x01\x00".repeat(1000);
        for answer in [&b""[..], b"\x00\x05ab", &endless, &many] {
            told(&router(), answer).await.unwrap_err();
        }
        let mut curve = router();
        curve[12..17].copy_from_slice(b"CURVE");
        for greeting in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0; 200], &curve] {
            told(greeting, b"\x00\x01a").await.unwrap_err();
        }
    }
}
