//! An S3 server that takes every key but those with a newline: moto, gone when dropped.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::program;
use super::seaweed::BUCKET;

/// A running server that has [`BUCKET`]. It takes any credentials.
pub(crate) struct Moto {
    guard: Child,
    port: u16,
}

impl Moto {
    /// Starts a server and waits until it serves.
    pub(crate) fn start() -> Self {
        for _ in 0..3 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            let server = Self { guard: command(port).spawn().unwrap(), port };
            let start = Instant::now();
            while start.elapsed() < Duration::from_mins(1) {
                if server.make_bucket().is_ok() {
                    return server;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        panic!("moto doesn't start: try `.venv-s3/bin/moto_server`");
    }

    /// The URL of its S3 service.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Keeps the versions of all objects from now on.
    pub(crate) fn keep_versions(&self) {
        let status = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        self.ask(&format!("PUT /{BUCKET}?versioning"), status).unwrap();
    }

    /// The versions of all objects, the newest of each first.
    pub(crate) fn versions(&self) -> Vec<String> {
        let listed = self.ask(&format!("GET /{BUCKET}?versions"), "").unwrap();
        let ids = listed.split("<VersionId>").skip(1).filter_map(|rest| rest.split('<').next());
        ids.map(str::to_owned).collect()
    }

    /// Stores an object with further headers, each a line with its end.
    pub(crate) fn put(&self, key: &str, headers: &str, body: &str) {
        self.ask_with(&format!("PUT /{BUCKET}/{key}"), headers, body).unwrap();
    }

    fn make_bucket(&self) -> std::io::Result<()> {
        self.ask(&format!("PUT /{BUCKET}"), "").map(|_| ())
    }

    fn ask(&self, request: &str, body: &str) -> std::io::Result<String> {
        self.ask_with(request, "", body)
    }

    fn ask_with(&self, request: &str, headers: &str, body: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        // The name of the service, which moto takes from the signature, is all that counts in it.
        let signature = "AWS4-HMAC-SHA256 Credential=K/20260101/us-east-1/s3/aws4_request, \
                         SignedHeaders=host, Signature=0";
        write!(
            stream,
            "{request} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {signature}\r\n\
             {headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let done = answer.starts_with("HTTP/1.1 200");
        if done { Ok(answer) } else { Err(std::io::Error::other(answer)) }
    }
}

fn command(port: u16) -> Command {
    // The shell ends the server when its standard input ends, which it does even if this process
    // is killed.
    let mut command = Command::new("sh");
    command
        .args(["-c", "\"$@\" & server=$!; read _; kill -9 $server", "sh"])
        .arg(program::find("moto_server"))
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    command
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
