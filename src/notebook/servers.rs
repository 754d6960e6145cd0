//! Finds the kernel that runs a notebook.
//!
//! A kernel's connection file doesn't say which notebook it runs; the Jupyter server that started it
//! does, under `/api/sessions`. Servers leave a file `jpserver-PID.json` with their address and token
//! in the directory in which connection files are, too.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::kernel::Kernel;
use crate::error::{Error, ErrorKind, Result};

/// How long a server may take to tell its sessions.
const ANSWER: Duration = Duration::from_secs(5);

/// Most that is read of an answer, in bytes.
const LONGEST: u64 = 16 << 20;

/// A kernel by its id or the start of it, or by its connection file.
///
/// # Errors
/// `NotFound`; `InvalidInput` when several ids begin so.
pub fn named(runtime: &Path, name: &str) -> Result<Kernel> {
    if name.contains('/') || is_json(Path::new(name)) {
        return Kernel::open(Path::new(name));
    }
    let files = connection_files(runtime);
    let starting = |prefix: &str| -> Vec<&PathBuf> {
        let wanted = format!("kernel-{prefix}");
        let begins = |file: &&PathBuf| {
            file.file_name().is_some_and(|own| own.to_string_lossy().starts_with(&wanted))
        };
        files.iter().filter(begins).collect()
    };
    if let [exact] = starting(&format!("{name}.json"))[..] {
        return Kernel::open(exact);
    }
    match starting(name)[..] {
        [one] => Kernel::open(one),
        [] => Err(Error::new(ErrorKind::NotFound, format!("there is no kernel {name}"))
            .with_hint(format!("kernels are looked for in {}", runtime.display()))),
        _ => Err(Error::new(ErrorKind::InvalidInput, format!("several kernels begin with {name}"))
            .with_hint("write more of the id")),
    }
}

/// The kernel that runs the notebook which is at one of `places`, else the only one there is.
///
/// # Errors
/// `NotFound` when there is none; `InvalidInput`, naming them, when there are several.
pub async fn of_notebook(runtime: &Path, places: &[PathBuf]) -> Result<Kernel> {
    let sessions: HashMap<_, _> = join_all(servers(runtime).iter().map(Server::sessions))
        .await
        .into_iter()
        .flatten()
        .collect();
    let places: Vec<_> = places.iter().filter_map(|place| place.canonicalize().ok()).collect();
    for (id, notebook) in &sessions {
        let place = notebook.canonicalize().unwrap_or_else(|_| notebook.clone());
        if places.contains(&place) {
            return named(runtime, id);
        }
    }
    let files = connection_files(runtime);
    let kernels = files.iter().filter_map(|file| Kernel::open(file).ok());
    // Those of other notebooks aren't meant.
    let kernels: Vec<_> = kernels.filter(|kernel| !sessions.contains_key(&kernel.id)).collect();
    let live = join_all(kernels.iter().map(Kernel::lives)).await;
    let mut live: Vec<_> = kernels
        .into_iter()
        .zip(live)
        .filter_map(|(kernel, lives)| lives.then_some(kernel))
        .collect();
    match (live.pop(), &live[..]) {
        (Some(one), []) => Ok(one),
        (None, _) => {
            let message = "no running kernel is found for the notebook".to_owned();
            Err(Error::new(ErrorKind::NotFound, message)
                .with_hint(format!("kernels are looked for in {}", runtime.display())))
        }
        (Some(last), others) => {
            let ids: Vec<_> = others.iter().chain([&last]).map(|one| one.id.as_str()).collect();
            let message = format!("{} kernels run: {}", ids.len(), ids.join(", "));
            Err(Error::new(ErrorKind::InvalidInput, message)
                .with_hint("name the notebook's with --kernel"))
        }
    }
}

fn connection_files(runtime: &Path) -> Vec<PathBuf> {
    files(runtime, "kernel-")
}

fn files(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let named = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(prefix) && is_json(file)
    };
    let mut files: Vec<_> = entries.map(|entry| entry.path()).filter(named).collect();
    files.sort();
    files
}

fn is_json(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "json")
}

/// A running Jupyter server, as its file tells of it.
#[derive(Deserialize)]
struct Server {
    url: String,
    #[serde(default)]
    token: String,
    root_dir: PathBuf,
    pid: u32,
}

fn servers(runtime: &Path) -> Vec<Server> {
    let files = files(runtime, "jpserver-");
    let servers =
        files.iter().filter_map(|file| serde_json::from_slice(&fs::read(file).ok()?).ok());
    servers.filter(|server: &Server| Path::new(&format!("/proc/{}", server.pid)).exists()).collect()
}

#[derive(Deserialize)]
struct Session {
    path: String,
    kernel: Option<SessionKernel>,
}

#[derive(Deserialize)]
struct SessionKernel {
    id: String,
}

impl Server {
    /// Its kernels and the notebooks that they run; none when it doesn't tell.
    async fn sessions(&self) -> Vec<(String, PathBuf)> {
        let Ok(Some(sessions)) = timeout(ANSWER, self.ask()).await else { return Vec::new() };
        let known = sessions.into_iter().filter_map(|session| {
            Some((session.kernel?.id, self.root_dir.join(session.path.trim_start_matches('/'))))
        });
        known.collect()
    }

    /// Asks over plain HTTP/1.0, which ends an answer with the connection.
    async fn ask(&self) -> Option<Vec<Session>> {
        let (host, base) = self.url.strip_prefix("http://")?.split_once('/')?;
        let mut stream = TcpStream::connect(host).await.ok()?;
        let base = base.trim_end_matches('/');
        let path = if base.is_empty() { String::new() } else { format!("/{base}") };
        let request = format!(
            "GET {path}/api/sessions HTTP/1.0\r\nHost: {host}\r\nAuthorization: token {}\r\n\r\n",
            self.token
        );
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(LONGEST).read_to_end(&mut answer).await.ok()?;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        serde_json::from_slice(&answer[end + 4..]).ok()
    }
}
