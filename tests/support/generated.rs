//! An S3 server of as many objects as one likes: it makes them up as they are asked for.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// The keys of a bucket: `key(0)` to `key(len - 1)`, in byte order.
#[derive(Clone, Copy)]
pub(crate) struct Keys {
    pub(crate) len: usize,
    pub(crate) key: fn(usize) -> String,
}

impl Keys {
    /// How many keys come before `bound`.
    fn before(self, bound: &str) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = usize::midpoint(low, high);
            if (self.key)(middle).as_str() < bound { low = middle + 1 } else { high = middle }
        }
        low
    }
}

/// A running server, which ends when dropped.
pub(crate) struct Generated {
    shared: Arc<Shared>,
    port: u16,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    keys: Keys,
    requests: AtomicUsize,
    ended: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Generated {
    /// Serves these keys, each an object of its own key's bytes, in a bucket of any name.
    pub(crate) fn start(keys: Keys) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            keys,
            requests: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let serving = shared.clone();
        let acceptor = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if serving.ended.load(Ordering::Acquire) {
                    break;
                }
                serving.open.lock().unwrap().push(stream.try_clone().unwrap());
                let serving = serving.clone();
                // A client that goes away ends its connection.
                thread::spawn(move || drop(serving.serve(&stream)));
            }
        });
        Self { shared, port, acceptor: Some(acceptor) }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How many requests came since this was asked last.
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Generated {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn serve(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                if line.trim().is_empty() {
                    break;
                }
                lines.push(line.trim().to_owned());
            }
            self.requests.fetch_add(1, Ordering::Relaxed);
            let (status, headers, body) = self.answer(&lines);
            let is_head = lines[0].starts_with("HEAD");
            let mut answer =
                format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
            if !is_head {
                answer.push_str(&body);
            }
            stream.write_all(answer.as_bytes())?;
        }
    }

    fn answer(&self, lines: &[String]) -> (&'static str, String, String) {
        let target = lines[0].split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let key = path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key);
        if !key.is_empty() {
            let range = lines.iter().find_map(|line| {
                let (name, value) = line.split_once(": bytes=")?;
                let (first, last) = value.split_once('-')?;
                name.eq_ignore_ascii_case("range").then_some(())?;
                Some((first.parse().ok()?, last.parse().ok()?))
            });
            return self.object(key, range.unwrap_or((0, usize::MAX)));
        }
        let parameter = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(found, _)| *found == name).map(|(_, value)| decode(value))
        };
        let prefix = parameter("prefix").unwrap_or_default();
        let delimiter = parameter("delimiter").filter(|delimiter| !delimiter.is_empty());
        let after = parameter("continuation-token").or_else(|| parameter("start-after"));
        let most = parameter("max-keys").and_then(|most| most.parse().ok()).unwrap_or(1000);
        let headers = "Content-Type: application/xml\r\n".to_owned();
        ("200 OK", headers, self.page(&prefix, delimiter.as_deref(), after, most.min(1000)))
    }

    /// The bytes of an object, which are its key, from the first to the last that is wanted.
    fn object(&self, key: &str, range: (usize, usize)) -> (&'static str, String, String) {
        let key = decode(key);
        let at = self.keys.before(&key);
        if at == self.keys.len || (self.keys.key)(at) != key {
            let body = "<Error><Code>NoSuchKey</Code></Error>".to_owned();
            return ("404 Not Found", String::new(), body);
        }
        let (first, last) = (range.0.min(key.len() - 1), range.1.min(key.len() - 1));
        let headers = format!(
            "ETag: \"1\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
             Content-Range: bytes {first}-{last}/{}\r\n",
            key.len()
        );
        ("206 Partial Content", headers, key[first..=last].to_owned())
    }

    /// A page of a listing, see `ListObjectsV2` in the S3 API.
    fn page(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        after: Option<String>,
        most: usize,
    ) -> String {
        let mut at = self.keys.before(prefix);
        if let Some(after) = after {
            // What comes after a common prefix is what comes after all its keys.
            let bound = if after.ends_with('/') { end_of(&after) } else { format!("{after}\0") };
            at = at.max(self.keys.before(&bound));
        }
        let (mut body, mut count, mut last) = (String::new(), 0, String::new());
        let mut truncated = false;
        while at < self.keys.len {
            let key = (self.keys.key)(at);
            let Some(rest) = key.strip_prefix(prefix) else { break };
            if count == most {
                truncated = true;
                break;
            }
            count += 1;
            let common = delimiter.and_then(|delimiter| rest.find(delimiter));
            if let Some(slash) = common {
                key[..=prefix.len() + slash].clone_into(&mut last);
                write!(body, "<CommonPrefixes><Prefix>{last}</Prefix></CommonPrefixes>").unwrap();
                at = self.keys.before(&end_of(&last));
            } else {
                let size = key.len();
                write!(
                    body,
                    "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z\
                     </LastModified><ETag>&quot;1&quot;</ETag><Size>{size}</Size></Contents>"
                )
                .unwrap();
                last = key;
                at += 1;
            }
        }
        let next = if truncated {
            format!("<NextContinuationToken>{last}</NextContinuationToken>")
        } else {
            String::new()
        };
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><Prefix>{prefix}</Prefix>\
             <KeyCount>{count}</KeyCount><MaxKeys>{most}</MaxKeys>\
             <EncodingType>url</EncodingType><IsTruncated>{truncated}</IsTruncated>{next}{body}\
             </ListBucketResult>"
        )
    }
}

/// The first key behind all that begin with `prefix`, which ends in a slash.
fn end_of(prefix: &str) -> String {
    format!("{}0", prefix.trim_end_matches('/'))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|code| str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}
