//! Takes in archives: read as they come, never unpacked.

use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read, Seek as _};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use zstd::stream::read::Decoder;

use super::Progress;
use super::feed::{Feed, Stopped};
use crate::chunk::index::Index;
use crate::error::{Error, ErrorKind, IoContext as _, Result};

mod index;
mod name;
mod pax;
mod sparse;
mod tarball;
mod zipped;

pub(super) use zipped::Zipped;

/// How much of an archive tells what it is, in bytes: the first header of a tar.
const HEAD: usize = 512;

/// How much is read at a time, in bytes.
const BUFFER: usize = 256 << 10;

/// How much of a pipe is read ahead, in buffers.
const PIECES_AHEAD: usize = 4;

/// How long is waited for a pipe before it is asked whether anybody wants more of it.
const PATIENCE: Duration = Duration::from_millis(200);

/// A tar archive, plain or compressed, or a zip archive.
#[derive(Debug)]
pub struct Archive {
    name: String,
    format: Format,
    /// How it begins, where that can't be read again.
    head: Vec<u8>,
    file: File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Tar,
    Gzip,
    Zstd,
    Zip,
}

/// Archives that are known but not read, by how they begin.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"Rar!\x1a\x07", "RAR"),
];

impl Archive {
    /// Opens an archive; its bytes decide what it is, not its name.
    ///
    /// # Errors
    /// `InvalidInput` when it is no archive; `Unsupported` when it is one of another kind; those of
    /// opening the file.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let read = || format!("{name} can't be read");
        let mut file = File::open(path).context(read)?;
        if !file.metadata().context(read)?.is_file() {
            return Self::stream(name, file);
        }
        let head = head_of(&mut file).context(read)?;
        file.rewind().context(read)?;
        let format = format_of(&name, &head)?;
        Ok(Self { name, format, head: Vec::new(), file })
    }

    /// Reads a tar archive from what can be read once only, such as standard input.
    ///
    /// # Errors
    /// Those of [`open`](Self::open); `Unsupported` for a zip archive, whose index is at its end.
    pub fn stream(name: impl Into<String>, mut file: File) -> Result<Self> {
        let name = name.into();
        let head = head_of(&mut file).context(|| format!("{name} can't be read"))?;
        let format = format_of(&name, &head)?;
        if format == Format::Zip {
            let message = format!("{name} is a zip archive, which has to be a file to be read");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok(Self { name, format, head, file })
    }

    /// Its length in bytes, where that is known.
    pub(super) fn len(&self) -> Option<u64> {
        self.file.metadata().ok().filter(Metadata::is_file).map(|metadata| metadata.len())
    }

    /// Takes in what it holds.
    pub(super) fn take(
        self,
        feed: &Feed,
        index: &RwLock<Index>,
        progress: &Progress,
    ) -> Result<(), Stopped> {
        let Self { name, format, head, file } = self;
        if format == Format::Zip {
            return zipped::take(&name, &Arc::new(file), feed, progress);
        }
        let source: Box<dyn Read + '_> = if head.is_empty() {
            Box::new(file)
        } else {
            Box::new(io::Cursor::new(head).chain(Piped::new(file, progress)))
        };
        let source = BufReader::with_capacity(BUFFER, Counted { source, progress });
        let into = tarball::Into { name: &name, feed, index, progress };
        match format {
            Format::Gzip => into.take(inner(&name, MultiGzDecoder::new(source))?),
            Format::Zstd => {
                let plain = Decoder::with_buffer(source).map_err(|error| damaged(&name, error))?;
                into.take(inner(&name, plain)?)
            }
            Format::Tar | Format::Zip => into.take(source),
        }
    }
}

/// The archive that compressed bytes hold, once it is known to be one.
fn inner(name: &str, mut plain: impl Read) -> Result<impl Read> {
    let head = head_of(&mut plain).map_err(|error| damaged(name, error))?;
    if !is_tar(&head) {
        let message = format!("{name} is compressed, but what is in it isn't a tar archive");
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(BufReader::with_capacity(BUFFER, io::Cursor::new(head).chain(plain)))
}

fn head_of(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    source.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn format_of(name: &str, head: &[u8]) -> Result<Format> {
    if let Some((_, other)) = FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
        let message = format!("{name} is compressed by {other}, which isn't read");
        return Err(Error::new(ErrorKind::Unsupported, message)
            .with_hint("unpack it, or write it as .tar, .tar.gz, .tar.zst or .zip"));
    }
    let format = match head {
        // RFC 1952, section 2.3.1.
        [0x1f, 0x8b, ..] => Format::Gzip,
        // RFC 8878, sections 3.1.1 and 3.1.2: a frame, or one to be skipped.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Format::Zstd,
        // APPNOTE.TXT, sections 4.3.7, 4.3.16 and 8.5.4: a file, an empty archive, a split one.
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] | [b'P', b'K', 7, 8, ..] => Format::Zip,
        _ if is_tar(head) => Format::Tar,
        _ => {
            let message = format!("{name} is neither a directory nor an archive");
            return Err(Error::new(ErrorKind::InvalidInput, message).with_hint(
                "a dataset is made of a directory, a .tar, .tar.gz, .tar.zst or .zip archive, or \
                 what is in a bucket",
            ));
        }
    };
    Ok(format)
}

/// Whether bytes begin with the header of a tar, whose checksum is right, or with its end.
fn is_tar(head: &[u8]) -> bool {
    let Ok(header) = <&[u8; HEAD]>::try_from(head) else { return false };
    if header.iter().all(|byte| *byte == 0) {
        return true;
    }
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    // The checksum itself counts as eight spaces (`tar(5)`).
    let expected = sum(&header[..148]) + 8 * 32 + sum(&header[156..]);
    let stated = str::from_utf8(&header[148..156]).unwrap_or_default();
    let stated = stated.trim_matches(['\0', ' ']);
    u32::from_str_radix(stated, 8).is_ok_and(|stated| stated == expected)
}

/// That an archive can't be read to its end.
fn damaged(name: &str, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            ErrorKind::Damaged
        }
        _ if error.raw_os_error().is_none() => ErrorKind::Damaged,
        _ => return Error::io(error, format!("{name} can't be read")),
    };
    Error::new(kind, format!("{name} is damaged or incomplete")).with_source(error)
}

/// Counts what is read of an archive.
struct Counted<'a, R> {
    source: R,
    progress: &'a Progress,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.source.read(into)?;
        self.progress.archive.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}

/// What a thread of its own reads, since a pipe may have nothing to read for ever: nobody waits for
/// that thread, and whoever waits for what it reads can give up.
struct Piped<'a> {
    pieces: Receiver<io::Result<Vec<u8>>>,
    current: io::Cursor<Vec<u8>>,
    progress: &'a Progress,
}

impl<'a> Piped<'a> {
    fn new(mut file: File, progress: &'a Progress) -> Self {
        let (send, pieces) = sync_channel(PIECES_AHEAD);
        thread::spawn(move || {
            loop {
                let mut piece = Vec::with_capacity(BUFFER);
                let read = (&mut file).take(BUFFER as u64).read_to_end(&mut piece);
                let ended = !matches!(read, Ok(1..));
                if send.send(read.map(|_| piece)).is_err() || ended {
                    return;
                }
            }
        });
        Self { pieces, current: io::Cursor::default(), progress }
    }
}

impl Read for Piped<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let len = self.current.read(into)?;
            if len > 0 || into.is_empty() {
                return Ok(len);
            }
            match self.pieces.recv_timeout(PATIENCE) {
                Ok(piece) => self.current = io::Cursor::new(piece?),
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.progress.is_cancelled() {
                return Err(io::Error::other("it was interrupted"));
            }
        }
    }
}
