//! The socket of a mount, and asking it: one line of JSON each way.
//!
//! `{"version":1,"request":"status"}` is answered by `{"version":1,"status":{…}}`, anything else by
//! `{"version":1,"error":"…"}`. A socket is named by the mount's device number, which the table of
//! mounts has too, and by the process: so one that doesn't answer can still be told.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future;
use rustix::fs::OFlags;
use rustix::process::Pid;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::{About, Report};
use crate::error::{IoContext as _, Result};
use crate::metrics::Metrics;

/// The version of what is said.
const VERSION: u64 = 1;

/// How long one who asks may take to say what.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a mount may take to answer before it counts as frozen: it reads a few numbers.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// How often a socket that is to go is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How many who ask are heard at once, each with a descriptor and a little memory.
const CLIENTS: usize = 64;

/// The longest request and the longest answer, in bytes.
const LONGEST_REQUEST: u64 = 4 << 10;
const LONGEST_ANSWER: u64 = 1 << 20;

/// A mount's socket, which is there until this is dropped.
pub struct Socket {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Socket {
    /// Answers for the mount on `device` (`major:minor`) in the first of `dirs` where a socket can
    /// be made.
    ///
    /// # Errors
    /// The last directory's, when there is none.
    pub fn serve(
        dirs: &[PathBuf],
        device: &str,
        about: About,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
        let name = format!("{device}.{}.sock", about.pid);
        let mut result = Err(io::ErrorKind::NotFound.into());
        for dir in dirs {
            result = listen(dir, &name).map(|listener| (dir.join(&name), listener));
            if result.is_ok() {
                break;
            }
        }
        let (path, listener) = result.context(|| {
            let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
            format!("no socket can be made in {}", dirs.join(" or in "))
        })?;
        let task = tokio::spawn(accept(listener, Arc::new(about), metrics));
        Ok(Self { path, task })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
        // It is of no use to anybody any more; who finds it takes it away.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes a socket that only its owner can use; one that is left from a process of the same number
/// goes.
fn listen(dir: &Path, name: &str) -> io::Result<UnixListener> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    match fs::remove_file(dir.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (open, short) = short(dir)?;
    let found = open.metadata()?;
    if found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others can write there"));
    }
    let listener = UnixListener::bind(short.join(name))?;
    fs::set_permissions(dir.join(name), Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A short name of a directory, since a socket's path has room for 107 bytes only; it holds for as
/// long as the file is open.
fn short(dir: &Path) -> io::Result<(File, PathBuf)> {
    let flags = (OFlags::PATH | OFlags::DIRECTORY).bits().cast_signed();
    let open = OpenOptions::new().read(true).custom_flags(flags).open(dir)?;
    let name = Path::new("/proc/self/fd").join(open.as_raw_fd().to_string());
    Ok((open, name))
}

async fn accept(listener: UnixListener, about: Arc<About>, metrics: Arc<Metrics>) {
    let start = Instant::now();
    let places = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok((mut client, _)) = listener.accept().await else {
            // Out of descriptors, most likely: there will be some again.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Who may not ask, and who comes when all places are taken, is cut off at once.
        let place = Arc::clone(&places).try_acquire_owned();
        let (true, Ok(place)) = (may_ask(&client), place) else { continue };
        let (about, metrics) = (Arc::clone(&about), Arc::clone(&metrics));
        tokio::spawn(async move {
            let _place = place;
            let answered = tokio::time::timeout(PATIENCE, async {
                let mut line = Vec::new();
                let mut asked = BufReader::new(&mut client).take(LONGEST_REQUEST);
                asked.read_until(b'\n', &mut line).await?;
                let mut answer = reply(&line, || Report::new(&about, start, &metrics)).to_string();
                answer.push('\n');
                client.write_all(answer.as_bytes()).await
            });
            if !matches!(answered.await, Ok(Ok(()))) {
                tracing::debug!("one who asked for the status didn't wait for it");
            }
        });
    }
}

/// Whether the other end is the same user, or root, whatever the modes of directory and socket say:
/// `SO_PEERCRED` of `unix(7)`.
fn may_ask(client: &UnixStream) -> bool {
    let me = rustix::process::geteuid().as_raw();
    client.peer_cred().is_ok_and(|peer| peer.uid() == me || peer.uid() == 0)
}

/// The answer to a line of whatever bytes.
pub fn reply(line: &[u8], report: impl FnOnce() -> Report) -> Json {
    let refused = |why: &str| json!({ "version": VERSION, "error": why });
    let Ok(request) = serde_json::from_slice::<Json>(line) else {
        return refused("a request is a line of JSON");
    };
    if request.get("version").and_then(Json::as_u64) != Some(VERSION) {
        return refused("only version 1 is spoken here");
    }
    match request.get("request").and_then(Json::as_str) {
        Some("status") => json!({ "version": VERSION, "status": report() }),
        _ => refused("only the request status is known"),
    }
}

/// The sockets of mounts, in the directories where they can be.
pub struct Sockets(Vec<Named>);

/// A socket, and what its name says.
struct Named {
    dir: PathBuf,
    name: String,
    device: String,
    pid: u32,
}

/// What became of asking a mount.
#[derive(Debug)]
pub struct Answer {
    /// The device number of its mount.
    pub device: String,
    /// The process that serves it, or did.
    pub pid: u32,
    /// Its report; `None` when it doesn't answer.
    pub report: Option<Report>,
    /// Whether the process is there.
    pub is_alive: bool,
}

impl Sockets {
    /// Finds all sockets in `dirs`; where there is no directory there are none.
    pub fn find(dirs: &[PathBuf]) -> Self {
        let mut sockets = Vec::new();
        for dir in dirs {
            let names = fs::read_dir(dir).into_iter().flatten().flatten();
            sockets.extend(names.filter_map(|entry| Named::parse(dir, &entry.file_name())));
        }
        Self(sockets)
    }

    /// Those of the mount on `device` (`major:minor`).
    #[must_use]
    pub fn of(mut self, device: &str) -> Self {
        self.0.retain(|named| named.device == device);
        self
    }

    /// Waits until the mounts have given back all that they held, for `within` at most: the socket
    /// of a mount goes last.
    pub async fn until_gone(&self, within: Duration) {
        let gone = async {
            while self.0.iter().any(Named::is_there) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(within, gone).await.is_err() {
            tracing::debug!("what served the mount is still there");
        }
    }

    /// Asks all of them at once, and waits a second at most.
    pub async fn ask(&self) -> Vec<Answer> {
        future::join_all(self.0.iter().map(Named::ask)).await
    }

    /// Takes away the socket of a mount that is gone.
    pub fn remove(&self, answer: &Answer) {
        let gone = |named: &&Named| named.device == answer.device && named.pid == answer.pid;
        for named in self.0.iter().filter(gone) {
            let _ = fs::remove_file(named.dir.join(&named.name));
        }
    }
}

impl Named {
    fn parse(dir: &Path, name: &std::ffi::OsStr) -> Option<Self> {
        let name = name.to_str()?;
        let (device, pid) = name.strip_suffix(".sock")?.rsplit_once('.')?;
        let pid = pid.parse().ok().filter(|pid| *pid > 0)?;
        Some(Self { dir: dir.to_owned(), name: name.to_owned(), device: device.to_owned(), pid })
    }

    fn is_there(&self) -> bool {
        self.dir.join(&self.name).exists() && is_alive(self.pid)
    }

    async fn ask(&self) -> Answer {
        let report = tokio::time::timeout(ANSWER_WITHIN, self.report()).await;
        let report = report.ok().and_then(|report| {
            report.inspect_err(|error| tracing::debug!(%error, "no status came")).ok()
        });
        let is_alive = report.is_some() || is_alive(self.pid);
        Answer { device: self.device.clone(), pid: self.pid, report, is_alive }
    }

    async fn report(&self) -> io::Result<Report> {
        let (_open, short) = short(&self.dir)?;
        let mut stream = BufReader::new(UnixStream::connect(short.join(&self.name)).await?);
        let mut request = json!({ "version": VERSION, "request": "status" }).to_string();
        request.push('\n');
        stream.write_all(request.as_bytes()).await?;
        let mut line = String::new();
        stream.take(LONGEST_ANSWER).read_line(&mut line).await?;
        let mut answer: Json = serde_json::from_str(&line)?;
        match answer.get_mut("status").map(Json::take) {
            Some(status) => Ok(serde_json::from_value(status)?),
            None => Err(io::Error::other(format!("it was answered {}", answer["error"]))),
        }
    }
}

fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // Whose it is doesn't matter: a process that we may not signal is there.
    let asked = pid.map(rustix::process::test_kill_process);
    asked.is_some_and(|answer| answer != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_tells_device_and_process() {
        let parse = |name: &str| Named::parse(Path::new("/run"), name.as_ref());
        let named = parse("0:98.1234.sock").unwrap();
        assert_eq!((named.device.as_str(), named.pid), ("0:98", 1234));
        assert!(parse("0:98.sock").is_none());
        assert!(parse("0:98.0.sock").is_none());
        assert!(parse("note").is_none());
    }

    #[test]
    fn what_is_not_a_request_is_refused() {
        let report =
            || Report::new(&super::super::tests::about(), Instant::now(), &Metrics::default());
        let said = |line: &str| reply(line.as_bytes(), report);
        assert_eq!(said("{\"version\":1,\"request\":\"status\"}")["status"]["pid"], 7);
        for line in ["", "nonsense", "{}", "{\"version\":2}", "{\"version\":1}", "[1]"] {
            assert!(said(line)["error"].is_string(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0_usize..40) {
            let report =
                || Report::new(&super::super::tests::about(), Instant::now(), &Metrics::default());
            let request = br#"{"version":1,"request":"status"}"#;
            for line in [&bytes[..], &request[..cut.min(request.len())]] {
                let answer = reply(line, report);
                prop_assert_eq!(answer["error"].is_string(), answer["status"].is_null());
            }
        }
    }

    #[tokio::test]
    async fn a_socket_answers_its_owner_and_goes_with_its_mount() {
        let dir = tempfile::tempdir().unwrap();
        // Far too long for a socket's path.
        let dirs = [dir.path().join("a".repeat(200)).join("run")];
        let about = About { pid: std::process::id(), ..super::super::tests::about() };
        let socket = Socket::serve(&dirs, "0:98", about.clone(), Arc::default()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dirs[0]), mode(&socket.path)), (0o700, 0o600));
        let answers = Sockets::find(&dirs).ask().await;
        assert_eq!(answers[0].report.as_ref().unwrap().about, about);
        let sockets = Sockets::find(&dirs).of("0:98");
        sockets.until_gone(Duration::from_millis(30)).await;
        assert!(sockets.0[0].is_there(), "that wasn't waited for without an end");
        drop(socket);
        sockets.until_gone(Duration::MAX).await;
        assert!(Sockets::find(&dirs).ask().await.is_empty());
    }

    #[tokio::test]
    async fn one_that_is_left_over_does_not_answer() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned()];
        // Without a listener, of a process that can't be.
        drop(std::os::unix::net::UnixListener::bind(dir.path().join("0:98.4194305.sock")).unwrap());
        // With a listener that says nothing.
        let silent = format!("0:99.{}.sock", std::process::id());
        let _silent = std::os::unix::net::UnixListener::bind(dir.path().join(silent)).unwrap();
        let sockets = Sockets::find(&dirs);
        let mut answers = sockets.ask().await;
        answers.sort_by(|one, other| one.device.cmp(&other.device));
        assert!(answers.iter().all(|answer| answer.report.is_none()));
        assert_eq!([answers[0].is_alive, answers[1].is_alive], [false, true]);
        sockets.remove(&answers[0]);
        assert_eq!(Sockets::find(&dirs).0.len(), 1);
    }
}
