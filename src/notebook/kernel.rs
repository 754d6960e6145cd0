//! Talks to a running kernel over the Jupyter protocol.
//!
//! One silent request goes to the kernel, which runs it when it has nothing else to do: it counts as
//! no execution and stays in no history. What it does is told in `python/state.py`; only JSON comes
//! back. Messages are signed with the key of the connection file. See
//! <https://jupyter-client.readthedocs.io/en/stable/messaging.html>.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::time::timeout;

use super::state;
use super::wire::{Address, Dealer};
use crate::error::{Error, ErrorKind, IoContext as _, Result};

/// How long a kernel that lives may take to say so, busy or not.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What is between the addresses and the message itself.
const DELIMITER: &[u8] = b"<IDS|MSG>";

/// The version of the protocol that we speak.
const VERSION: &str = "5.3";

/// The key under which the answer comes back.
const ANSWER: &str = "atelier";

/// What a kernel is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Write its variables into the directory.
    Capture,
    /// Take its variables from the directory.
    Restore,
}

/// A kernel that is expected to run.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The id by which Jupyter calls it.
    pub id: String,
    file: PathBuf,
    connection: Connection,
}

/// What a connection file says of a kernel.
#[derive(Clone, Debug, Deserialize)]
struct Connection {
    transport: String,
    ip: String,
    shell_port: u16,
    hb_port: u16,
    key: String,
    signature_scheme: String,
}

impl Connection {
    /// Where a port is: Jupyter calls a Unix socket by a path and a number, too.
    fn address(&self, port: u16) -> Address {
        match self.transport.as_str() {
            "ipc" => Address::Ipc(format!("{}-{port}", self.ip)),
            _ => Address::Tcp(self.ip.clone(), port),
        }
    }

    fn signature(&self, parts: &[&[u8]]) -> io::Result<Hmac<Sha256>> {
        if self.signature_scheme != "hmac-sha256" {
            return Err(io::Error::other(format!("signed by {}", self.signature_scheme)));
        }
        let mut mac = Hmac::new_from_slice(self.key.as_bytes()).map_err(io::Error::other)?;
        parts.iter().for_each(|part| mac.update(part));
        Ok(mac)
    }
}

impl Kernel {
    /// Reads how a kernel is reached from its connection file.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` when it isn't a connection file.
    pub fn open(file: &Path) -> Result<Self> {
        let shown = file.display();
        let bytes = std::fs::read(file).context(|| format!("no kernel is known at {shown}"))?;
        let connection = serde_json::from_slice(&bytes).map_err(|error| {
            let message = format!("{shown} isn't a kernel's connection file");
            Error::new(ErrorKind::InvalidInput, message).with_source(error)
        })?;
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let id = stem.strip_prefix("kernel-").unwrap_or(&stem).to_owned();
        Ok(Self { id, file: file.to_owned(), connection })
    }

    /// Whether it runs, be it busy or not.
    pub async fn lives(&self) -> bool {
        let beat = async {
            let mut heart =
                Dealer::connect(&self.connection.address(self.connection.hb_port)).await?;
            heart.send(&[b"", b"ping"]).await?;
            heart.receive().await
        };
        matches!(timeout(HEARTBEAT, beat).await, Ok(Ok(_)))
    }

    /// Has it capture or restore its variables, and waits until it has.
    ///
    /// A request that isn't begun by the deadline isn't done any more.
    ///
    /// # Errors
    /// `NotFound` when it doesn't run; `TimedOut` when it is busy; `Unsupported` when something is
    /// missing in it; `Io` when it fails.
    pub async fn ask(&self, request: Request, dir: &Path, deadline: Duration) -> Result<Value> {
        if !self.lives().await {
            let message = format!("kernel {} doesn't run any more", self.id);
            return Err(Error::new(ErrorKind::NotFound, message)
                .with_hint("start it again in its notebook, or name another with --kernel"));
        }
        let expires = SystemTime::now() + deadline;
        let expires = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let asked = json!({
            "code": "",
            "silent": true,
            "store_history": false,
            "user_expressions": { ANSWER: expression(request, dir, expires) },
            "allow_stdin": false,
            "stop_on_error": false,
        });
        let Ok(reply) = timeout(deadline, self.exchange("execute_request", &asked)).await else {
            return Err(self.busy(deadline));
        };
        let answer = self.answer(&reply?)?;
        if answer.get("expired").is_some() {
            return Err(self.busy(deadline));
        }
        if let Some(missing) = answer.get("missing").and_then(Value::as_str) {
            let python = answer.get("python").and_then(Value::as_str).unwrap_or("python3");
            let message = format!("the Python of kernel {} has no package {missing}", self.id);
            return Err(Error::new(ErrorKind::Unsupported, message)
                .with_hint(format!("`{python} -m pip install {missing}`")));
        }
        if let Some(failed) = answer.get("failed").and_then(Value::as_str) {
            let message = format!("kernel {} can't do it: {failed}", self.id);
            return Err(Error::new(ErrorKind::Io, message));
        }
        Ok(answer)
    }

    /// Sends a request of any kind and waits, however long it takes, for the content of the reply.
    ///
    /// # Errors
    /// `Io`, `NotFound` when the kernel can't be talked to.
    pub async fn exchange(&self, kind: &str, content: &Value) -> Result<Value> {
        self.converse(kind, content).await.context(|| {
            let file = self.file.display();
            format!("kernel {} of {file} doesn't answer", self.id)
        })
    }

    async fn converse(&self, kind: &str, content: &Value) -> io::Result<Value> {
        let mut shell =
            Dealer::connect(&self.connection.address(self.connection.shell_port)).await?;
        let id = unique();
        let header = json!({
            "msg_id": id,
            "session": unique(),
            "username": "atelier",
            "date": jiff::Timestamp::now().to_string(),
            "msg_type": kind,
            "version": VERSION,
        });
        let parts = [header.to_string(), "{}".into(), "{}".into(), content.to_string()];
        let [header, parent, metadata, content] = parts.each_ref().map(String::as_bytes);
        let parts = [header, parent, metadata, content];
        let mac = self.connection.signature(&parts)?.finalize().into_bytes();
        let signature = HEXLOWER.encode(&mac);
        let [header, parent, metadata, content] = parts;
        shell.send(&[DELIMITER, signature.as_bytes(), header, parent, metadata, content]).await?;
        loop {
            let frames = shell.receive().await?;
            if let Some(content) = self.reply_to(&id, &frames)? {
                return Ok(content);
            }
        }
    }

    /// The content of a message, if it is the reply to a request.
    fn reply_to(&self, request: &str, frames: &[Vec<u8>]) -> io::Result<Option<Value>> {
        #[derive(Deserialize)]
        struct Parent {
            msg_id: String,
        }
        let message = frames.iter().skip_while(|frame| *frame != DELIMITER).skip(1);
        let message: Vec<&[u8]> = message.map(Vec::as_slice).take(5).collect();
        let [signature, parts @ ..] = &message[..] else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let [_, parent, _, content] = parts else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        // A kernel without a key signs nothing.
        if !self.connection.key.is_empty() {
            let signature = HEXLOWER.decode(signature).map_err(io::Error::other)?;
            let mac = self.connection.signature(parts)?;
            mac.verify_slice(&signature)
                .map_err(|_| io::Error::other("its answer isn't signed"))?;
        }
        let ours =
            serde_json::from_slice(parent).is_ok_and(|parent: Parent| parent.msg_id == request);
        if !ours {
            return Ok(None);
        }
        serde_json::from_slice(content).map(Some).map_err(io::Error::other)
    }

    fn answer(&self, reply: &Value) -> Result<Value> {
        let strange = || {
            let message = format!("kernel {} isn't one of IPython", self.id);
            Error::new(ErrorKind::Unsupported, message)
        };
        let answer = reply.pointer(&format!("/user_expressions/{ANSWER}")).ok_or_else(strange)?;
        if answer["status"] == "error" {
            let said = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
            let (name, value) = (said("ename"), said("evalue"));
            let message = format!("kernel {} can't do it: {name}: {value}", self.id);
            return Err(Error::new(ErrorKind::Io, message));
        }
        let text = answer.pointer("/data/text~1plain").and_then(Value::as_str);
        serde_json::from_str(text.ok_or_else(strange)?)
            .map_err(|error| strange().with_source(error))
    }

    fn busy(&self, deadline: Duration) -> Error {
        let Self { id, .. } = self;
        let message = format!("kernel {id} is busy: a cell has run for more than {deadline:?}");
        Error::new(ErrorKind::TimedOut, message)
            .with_hint("it isn't interrupted; wait for the cell, or wait longer with --deadline")
    }
}

/// What the kernel evaluates; it leaves no name behind.
fn expression(request: Request, dir: &Path, expires: f64) -> String {
    // JSON strings are Python strings, too.
    let quoted = |text: &str| Value::from(text).to_string();
    let what = match request {
        Request::Capture => "capture",
        Request::Restore => "restore",
    };
    format!(
        "(lambda own: (__import__('builtins').exec({code}, own), \
         own['answer']('{what}', {dir}, {expires}))[1])({{'__name__': 'atelier.state'}})",
        code = quoted(state::CODE),
        dir = quoted(&dir.to_string_lossy()),
    )
}

/// A name that nothing else has.
fn unique() -> String {
    let mut bytes = [0; 16];
    // Names that are alike would only mix up answers of one conversation.
    let _ = getrandom::fill(&mut bytes);
    HEXLOWER.encode(&bytes)
}
