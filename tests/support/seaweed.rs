//! A real S3 server: SeaweedFS on free ports, gone with its data when dropped.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atelier::metrics::Metrics;
use atelier::object::s3::{Connection, Credentials, Limits, S3Store};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::program;

/// The id of the key that may do everything.
pub(crate) const KEY_ID: &str = "ATELIERTESTS";
/// Its secret.
pub(crate) const SECRET: &str = "a-secret-for-tests";
/// The id of a key that may do nothing here.
pub(crate) const STRANGER_ID: &str = "STRANGER";
/// Its secret.
pub(crate) const STRANGER_SECRET: &str = "another-secret";
/// The bucket that is there from the start.
pub(crate) const BUCKET: &str = "cats";

/// A running server.
pub(crate) struct Seaweed {
    guard: Child,
    ports: Vec<u16>,
    _data: TempDir,
}

impl Seaweed {
    /// Starts a server and waits until it serves [`BUCKET`].
    pub(crate) async fn start() -> Self {
        for _ in 0..3 {
            if let Some(server) = Self::try_start().await {
                return server;
            }
        }
        panic!("SeaweedFS doesn't start: try `.venv/bin/weed mini`");
    }

    /// The URL of its S3 service.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// The port of its S3 service.
    pub(crate) fn port(&self) -> u16 {
        self.ports[0]
    }

    /// A connection to [`BUCKET`] below `prefix`, without a proxy.
    pub(crate) async fn store(&self, prefix: &str) -> S3Store {
        store_at(self.endpoint(), prefix, limits()).await
    }

    /// Stops the server where it is: its connections stay open and nothing comes.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen server go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process_group(Pid::from_child(&self.guard), signal).unwrap();
    }

    async fn try_start() -> Option<Self> {
        let data = tempfile::tempdir().unwrap();
        let ports = free_ports(10);
        let guard = command(&data, &ports).spawn().unwrap();
        let server = Self { guard, ports, _data: data };
        let store = server.store("").await;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(15) {
            if store.probe().await.is_ok() {
                return Some(server);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }
}

/// A connection to [`BUCKET`] below `prefix`, by way of `endpoint`.
pub(crate) async fn store_at(endpoint: String, prefix: &str, limits: Limits) -> S3Store {
    counted_store_at(endpoint, prefix, limits, Arc::default()).await
}

/// One that counts what it does.
pub(crate) async fn counted_store_at(
    endpoint: String,
    prefix: &str,
    limits: Limits,
    metrics: Arc<Metrics>,
) -> S3Store {
    let connection = Connection {
        endpoint: Some(endpoint),
        region: Some("us-east-1".to_owned()),
        prefix: prefix.to_owned(),
        ..Connection::new(BUCKET)
    };
    S3Store::connect(connection, credentials(), limits, metrics).await.unwrap()
}

/// The key that may do everything.
pub(crate) fn credentials() -> Credentials {
    Credentials::Static { key_id: KEY_ID.to_owned(), secret: SECRET.into(), token: None }
}

/// Limits that let a test see a deadline pass.
pub(crate) fn limits() -> Limits {
    Limits {
        deadline: Duration::from_secs(4),
        connect: Duration::from_secs(1),
        stall: Duration::from_millis(1500),
        attempts: 4,
    }
}

fn command(data: &TempDir, ports: &[u16]) -> Command {
    let identities = data.path().join("identities.json");
    fs::write(&identities, identities_json()).unwrap();
    let weed = program::find("weed");
    // The shell ends the server when its standard input ends, which it does even if this process
    // is killed; a server that is killed leaves its sockets behind.
    let mut command = Command::new("sh");
    command
        .args(["-c", "\"$@\" & server=$!; read _; kill -9 $server; rm -f $SOCKETS", "sh"])
        .env("SOCKETS", sockets(ports))
        .arg(weed)
        .args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false", "-webdav=false"])
        .args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"])
        .arg(format!("-dir={}", data.path().display()))
        .arg(format!("-s3.config={}", identities.display()))
        .arg(format!("-bucket={BUCKET}"));
    for (service, pair) in ["s3", "master", "volume", "filer", "admin"].iter().zip(ports.chunks(2))
    {
        command.arg(format!("-{service}.port={}", pair[0]));
        command.arg(format!("-{service}.port.grpc={}", pair[1]));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command
}

/// The Unix sockets of a server, as patterns.
fn sockets(ports: &[u16]) -> String {
    let patterns: Vec<_> =
        ports.iter().map(|port| format!("/tmp/seaweedfs-*-{port}.sock")).collect();
    patterns.join(" ")
}

fn identities_json() -> String {
    let identity = |name: &str, id: &str, secret: &str, actions: &[&str]| {
        serde_json::json!({
            "name": name,
            "credentials": [{ "accessKey": id, "secretKey": secret }],
            "actions": actions,
        })
    };
    serde_json::json!({ "identities": [
        identity("tests", KEY_ID, SECRET, &["Admin", "Read", "Write", "List", "Tagging"]),
        identity("stranger", STRANGER_ID, STRANGER_SECRET, &["Read:elsewhere"]),
    ] })
    .to_string()
}

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        self.thaw();
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
