//! The journal of one who changes a project's files: what may be changing, written down before it
//! does.
//!
//! A mark begins before a change and ends after it; a file that is open for writing is marked all
//! the time. So whatever a reader of the journal finds begun and not ended may change behind him,
//! and whatever ended before he looked he sees as it is. Each journal has one writer, who holds a
//! lock on it for as long as he lives; `kill -9` loses nothing that was written.
//!
//! Marks end a little later than what they stand for: a path that is changed again and again is
//! written down once.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use rustix::fs::{FlockOperation, flock};
use tokio::runtime::Handle;

use super::epoch::Epoch;
use super::record;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::path::TreePath;
use crate::snapshot::Depth;

/// What the names of journals end in.
pub(super) const EXTENSION: &str = "journal";

/// Where the records of a journal begin. Before them is where the first one is that is there still,
/// which is for who reads it.
pub(super) const START: u64 = 4096;

/// The number that no mark has.
const NONE: u64 = 0;

/// How many marks wait to be ended. Each is a path that the next checkpoint looks at for nothing.
const MOST_IDLE: usize = 64;

/// How long a mark waits to be ended when nothing else happens.
const LINGER: Duration = Duration::from_secs(1);

/// A journal that takes more room on disk, in bytes, begins anew: looking at everything costs
/// less than reading what was written there. No checkpoint has been made for long then.
const MOST_ROOM: u64 = 64 << 20;

/// How often the room is looked at, in bytes that were written.
const ROOM_STEP: u64 = 4 << 20;

/// Where one writer notes what may be changing.
pub struct Journal {
    dir: PathBuf,
    /// Guards the file and what is marked; held while a record is written, which doesn't wait for
    /// the disk.
    state: Mutex<State>,
}

struct State {
    path: PathBuf,
    file: File,
    /// Where the last whole record ends.
    len: u64,
    /// Where the room is looked at next.
    look_at: u64,
    next: u64,
    marks: HashMap<u64, Marked>,
    by_path: HashMap<(TreePath, Depth), u64>,
    /// Marks that nobody needs, oldest first, and since when.
    idle: VecDeque<(u64, Instant)>,
}

/// Something that is marked.
struct Marked {
    /// More than one where it was renamed meanwhile.
    paths: Vec<(TreePath, Depth)>,
    holders: usize,
    idle_since: Option<Instant>,
}

/// A path that may change for as long as this is there.
pub struct Mark {
    journal: Arc<Journal>,
    number: u64,
}

impl Journal {
    /// Begins a journal in a directory, which is made if it isn't there.
    ///
    /// # Errors
    /// `PermissionDenied`, `StorageFull` and others of the file system.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn begin(dir: &Path) -> Result<Arc<Self>> {
        fs::create_dir_all(dir).context(|| format!("{} can't be made", dir.display()))?;
        let (path, file) = new_file(dir)?;
        let state = State {
            path,
            file,
            len: START,
            look_at: START + ROOM_STEP,
            next: NONE + 1,
            marks: HashMap::new(),
            by_path: HashMap::new(),
            idle: VecDeque::new(),
        };
        let journal = Arc::new(Self { dir: dir.to_owned(), state: Mutex::new(state) });
        Handle::current().spawn(end_in_time(Arc::downgrade(&journal)));
        Ok(journal)
    }

    /// Marks a path, and with [`Depth::Below`] all that is below it.
    ///
    /// # Errors
    /// `StorageFull` and others of the file system; nothing may be changed then.
    pub fn mark(self: &Arc<Self>, path: &TreePath, depth: Depth) -> Result<Mark> {
        let number = self.lock().begin(&self.dir, path, depth);
        let number = number.context(|| format!("it can't be noted that {path} changes"))?;
        Ok(Mark { journal: self.clone(), number })
    }

    /// Notes that what was found below `from` is found below `to` as well from now on: whoever
    /// changes it still changes it there. Call it while both are marked.
    ///
    /// # Errors
    /// Those of [`mark`](Self::mark).
    pub fn moved(&self, from: &TreePath, to: &TreePath) -> Result<()> {
        let noted = self.lock().follow(from, to);
        noted.context(|| format!("it can't be noted that {from} is {to}"))
    }

    /// Has the next checkpoint look at everything.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn doubt(&self) -> Result<()> {
        Epoch::end(&self.dir).context(|| format!("{} can't be changed", self.dir.display()))
    }

    fn release(&self, number: u64) {
        let now = Instant::now();
        let mut state = self.lock();
        let Some(marked) = state.marks.get_mut(&number) else { return };
        marked.holders -= 1;
        if marked.holders == 0 {
            marked.idle_since = Some(now);
            state.idle.push_back((number, now));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mark {
    /// Leaves the path marked for as long as the journal is there.
    pub(super) fn stay(mut self) {
        self.number = NONE;
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.journal.release(self.number);
    }
}

impl State {
    fn begin(&mut self, dir: &Path, path: &TreePath, depth: Depth) -> std::io::Result<u64> {
        let key = (path.clone(), depth);
        if let Some(number) = self.by_path.get(&key)
            && let Some(marked) = self.marks.get_mut(number)
        {
            marked.holders += 1;
            marked.idle_since = None;
            return Ok(*number);
        }
        if self.len >= self.look_at {
            self.renew_if_large(dir)?;
        }
        let number = self.next;
        let mut records = Vec::new();
        let ended = self.expire(None, &mut records);
        record::begin(&mut records, number, path, depth);
        self.append(&records)?;
        self.forget(&ended);
        self.next += 1;
        self.by_path.insert(key.clone(), number);
        self.marks.insert(number, Marked { paths: vec![key], holders: 1, idle_since: None });
        Ok(number)
    }

    fn follow(&mut self, from: &TreePath, to: &TreePath) -> std::io::Result<()> {
        let mut more = Vec::new();
        let mut records = Vec::new();
        for (number, marked) in &self.marks {
            for (path, depth) in &marked.paths {
                let Some(path) = moved(path, from, to) else { continue };
                if marked.paths.contains(&(path.clone(), *depth)) {
                    continue;
                }
                record::begin(&mut records, *number, &path, *depth);
                more.push((*number, (path, *depth)));
            }
        }
        self.append(&records)?;
        for (number, key) in more {
            self.by_path.entry(key.clone()).or_insert(number);
            if let Some(marked) = self.marks.get_mut(&number) {
                marked.paths.push(key);
            }
        }
        Ok(())
    }

    /// Takes the marks that nobody needs: those that are too many, and the ones idle since
    /// `before`. They are marked until [`forget`](Self::forget).
    fn expire(&mut self, before: Option<Instant>, records: &mut Vec<u8>) -> Vec<u64> {
        let mut ended = Vec::new();
        while let Some((number, since)) = self.idle.front().copied() {
            let current = self.marks.get(&number).and_then(|marked| marked.idle_since);
            if current == Some(since) {
                if self.idle.len() <= MOST_IDLE && before.is_none_or(|before| since > before) {
                    break;
                }
                record::end(records, number);
                ended.push(number);
            }
            self.idle.pop_front();
        }
        ended
    }

    fn forget(&mut self, ended: &[u64]) {
        for number in ended {
            for path in self.marks.remove(number).map(|marked| marked.paths).unwrap_or_default() {
                if self.by_path.get(&path) == Some(number) {
                    self.by_path.remove(&path);
                }
            }
        }
    }

    /// Writes records, all of them or none.
    fn append(&mut self, records: &[u8]) -> std::io::Result<()> {
        if let Err(error) = self.file.write_all_at(records, self.len) {
            // What isn't whole is written over, or cut off here where that is possible.
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += records.len() as u64;
        Ok(())
    }

    /// Begins the journal anew when it has grown too large.
    fn renew_if_large(&mut self, dir: &Path) -> std::io::Result<()> {
        self.look_at = self.len + ROOM_STEP;
        if self.file.metadata()?.blocks() * 512 <= MOST_ROOM {
            return Ok(());
        }
        // First: whoever reads now finds that he has to look at everything.
        Epoch::end(dir)?;
        let (path, file) = new_file(dir).map_err(std::io::Error::other)?;
        let mut records = Vec::new();
        for (number, marked) in &self.marks {
            for (path, depth) in &marked.paths {
                record::begin(&mut records, *number, path, *depth);
            }
        }
        file.write_all_at(&records, START)?;
        let old = std::mem::replace(&mut self.path, path);
        self.file = file;
        self.len = START + records.len() as u64;
        self.look_at = self.len + ROOM_STEP;
        // One that stays is read in vain.
        let _ = fs::remove_file(old);
        Ok(())
    }
}

/// Ends marks that were idle for long, as long as there is a journal.
async fn end_in_time(journal: Weak<Journal>) {
    loop {
        tokio::time::sleep(LINGER).await;
        let Some(journal) = journal.upgrade() else { return };
        let mut state = journal.lock();
        let mut records = Vec::new();
        let ended = state.expire(Instant::now().checked_sub(LINGER), &mut records);
        // Where there is no room, they stay marked.
        if ended.is_empty() || state.append(&records).is_ok() {
            state.forget(&ended);
        }
    }
}

/// Where what is at `path` lies after what is at `from` is at `to`.
fn moved(path: &TreePath, from: &TreePath, to: &TreePath) -> Option<TreePath> {
    let rest = path.as_bytes().strip_prefix(from.as_bytes())?;
    match rest {
        [] => Some(to.clone()),
        [b'/', below @ ..] => TreePath::parse(below).ok().map(|below| to.join_path(&below)),
        _ => None,
    }
}

/// Makes a journal, which is locked before anybody finds it.
fn new_file(dir: &Path) -> Result<(PathBuf, File)> {
    let name = new_name()?;
    let (draft, path) = (dir.join(&name), dir.join(format!("{name}.{EXTENSION}")));
    let make = || -> std::io::Result<File> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&draft)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        fs::rename(&draft, &path)?;
        Ok(file)
    };
    let file = make().context(|| format!("journal {} can't be made", path.display()))?;
    Ok((path, file))
}

/// A name that nobody else takes.
pub(super) fn new_name() -> Result<String> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| {
        Error::new(ErrorKind::Io, "the system has no random numbers").with_source(error)
    })?;
    Ok(HEXLOWER.encode(&bits))
}
