//! What was changed since a checkpoint, as the journals of a project tell it.
//!
//! Nobody is asked and nobody waits: who makes a checkpoint reads every journal up to where it
//! ends now, before he looks at the first file. What has begun by then and not ended may change
//! once he has looked, so the next checkpoint looks at it again: where that is written is kept
//! with the checkpoint, together with how far each journal was read.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use serde::{Deserialize, Serialize};

use super::epoch::Epoch;
use super::journal::{EXTENSION, START};
use super::record::{self, Absent, Record};
use crate::error::{IoContext as _, Result};
use crate::path::TreePath;
use crate::snapshot::{Changes, Depth};

/// What is given back of a journal is a multiple of this, in bytes.
const BLOCK: u64 = 4096;

/// More paths than this that a checkpoint couldn't take aren't kept one by one.
const MOST_AGAIN: usize = 1000;

/// Up to where a checkpoint knows what was changed; kept with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    epoch: String,
    /// The journals whose writers were alive.
    journals: BTreeMap<String, Position>,
    /// What wasn't taken as it is, in base64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    again: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// How far it was read.
    read: u64,
    /// Where marks begin that hadn't ended by then.
    open: Vec<u64>,
}

/// What is to be looked at for a checkpoint.
#[derive(Debug, Default)]
pub struct Since {
    /// What may have changed; `None` when that isn't known.
    pub changes: Option<Changes>,
    /// What the checkpoint will know; `None` when nobody keeps a journal.
    pub known: Option<Known>,
    /// Journals of writers that had ended, read to their ends.
    spent: Vec<PathBuf>,
}

impl Known {
    /// Has the next checkpoint look at these paths again, too.
    pub fn look_again_at(&mut self, paths: &[TreePath], more: bool) {
        self.again = if more || paths.len() > MOST_AGAIN {
            vec![String::new()]
        } else {
            paths.iter().map(|path| BASE64.encode(path.as_bytes())).collect()
        };
    }

    /// The paths to look at again; `None` for all.
    fn again(&self) -> Option<Vec<TreePath>> {
        let path = |text: &String| {
            let path = TreePath::parse(BASE64.decode(text.as_bytes()).ok()?).ok()?;
            Some(path).filter(|path| !path.is_root())
        };
        self.again.iter().map(path).collect()
    }
}

impl Since {
    /// Reads the journals in a directory, which tell of the directory `files`, from where the
    /// previous checkpoint has read them. Call it before looking at the files.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn read(journals: &Path, files: &Path, previous: Option<&Known>) -> Result<Self> {
        if !journals.is_dir() {
            return Ok(Self::default());
        }
        let epoch = Epoch::current(journals, files)?;
        let previous = previous.filter(|previous| previous.epoch == epoch.name());
        let mut reading = Reading { changes: Changes::default(), is_known: previous.is_some() };
        let mut known = Known { epoch: epoch.name().to_owned(), ..Known::default() };
        let mut spent = Vec::new();
        let empty = BTreeMap::new();
        let mut before = previous.map_or(&empty, |previous| &previous.journals).clone();
        for (name, path) in list(journals).context(|| unread(journals))? {
            let position = before.remove(&name);
            let file = match File::open(&path) {
                // It was read and removed for another checkpoint.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    reading.is_known = false;
                    continue;
                }
                other => other.context(|| unread(&path))?,
            };
            // In this order: once its writer has ended it grows no more.
            let ended = flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
            match reading.journal(&file, position).context(|| unread(&path))? {
                Some(_) if ended => spent.push(path),
                Some(position) => {
                    known.journals.insert(name, position);
                }
                // What can't be understood tells nothing, now and for the next checkpoint.
                None => {
                    tracing::warn!(journal = %path.display(), "a journal of changes is damaged");
                    return Ok(Self::default());
                }
            }
        }
        let again = previous.map(Known::again);
        let is_complete = reading.is_known
            && before.is_empty()
            && Epoch::lasting(journals, files)?.as_ref() == Some(&epoch);
        let changes = match again {
            Some(Some(again)) if is_complete => {
                for path in again {
                    reading.changes.add(path, Depth::Below);
                }
                Some(reading.changes).filter(|changes| !changes.is_everything())
            }
            _ => None,
        };
        Ok(Self { changes, known: Some(known), spent })
    }

    /// Removes what no later checkpoint needs of the journals, now that one knows it.
    pub fn forget(&self, journals: &Path) {
        let Some(known) = &self.known else { return };
        if let Err(error) = self.shorten(journals, known) {
            tracing::warn!("journals of changes take more room than they need: {error}");
        }
    }

    fn shorten(&self, journals: &Path, known: &Known) -> io::Result<()> {
        let lock = File::open(journals)?;
        flock(&lock, FlockOperation::LockExclusive)?;
        for path in &self.spent {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        for (name, Position { read, open }) in &known.journals {
            let needed = open.iter().copied().min().unwrap_or(*read);
            let path = journals.join(format!("{name}.{EXTENSION}"));
            let file = match OpenOptions::new().read(true).write(true).open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if needed <= first(&file)? {
                continue;
            }
            file.write_all_at(&needed.to_le_bytes(), 0)?;
            let end = needed / BLOCK * BLOCK;
            if end > START {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&file, flags, START, end - START)?;
            }
        }
        Ok(())
    }
}

/// What was read so far.
struct Reading {
    changes: Changes,
    /// Whether that is all since the previous checkpoint.
    is_known: bool,
}

impl Reading {
    /// Reads a journal from a position on; `None` when it can't be understood.
    fn journal(&mut self, file: &File, from: Option<Position>) -> io::Result<Option<Position>> {
        let len = file.metadata()?.len();
        let first = first(file)?;
        let Position { read, open } = match from {
            Some(from) if from.open.iter().chain([&from.read]).all(|at| *at >= first) => from,
            Some(_) => {
                self.is_known = false;
                Position { read: first, open: Vec::new() }
            }
            None => Position { read: first, open: Vec::new() },
        };
        let start = open.iter().copied().min().unwrap_or(read);
        let Some(len) = len.checked_sub(start).and_then(|len| usize::try_from(len).ok()) else {
            // It is begun at this moment.
            return Ok(Some(Position { read: start, open: Vec::new() }));
        };
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, start)?;
        let at = |offset: u64| {
            let offset = usize::try_from(offset - start).unwrap_or(usize::MAX);
            record::read(bytes.get(offset..).unwrap_or_default())
        };
        let mut begun = HashMap::<u64, Vec<u64>>::new();
        for offset in open {
            let Ok((Record::Begin { mark, path, depth }, _)) = at(offset) else { return Ok(None) };
            begun.entry(mark).or_default().push(offset);
            self.changes.add(path, depth);
        }
        let mut offset = read;
        loop {
            match at(offset) {
                Ok((record, len)) => {
                    match record {
                        Record::Begin { mark, path, depth } => {
                            begun.entry(mark).or_default().push(offset);
                            self.changes.add(path, depth);
                        }
                        Record::End { mark } => {
                            begun.remove(&mark);
                        }
                    }
                    offset += len as u64;
                }
                Err(Absent::Unfinished) => break,
                Err(Absent::Nonsense) => return Ok(None),
            }
        }
        let mut open: Vec<u64> = begun.into_values().flatten().collect();
        open.sort_unstable();
        Ok(Some(Position { read: offset, open }))
    }
}

/// Where the first record is that is there still.
fn first(file: &File) -> io::Result<u64> {
    let mut number = [0; 8];
    match file.read_exact_at(&mut number, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(START),
        Err(error) => Err(error),
        Ok(()) => Ok(u64::from_le_bytes(number).max(START)),
    }
}

/// The journals in a directory by their names.
fn list(journals: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(journals)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|_| path.extension().is_some_and(|end| end == EXTENSION)) {
            found.push((name.to_owned(), path.clone()));
        }
    }
    Ok(found)
}

fn unread(path: &Path) -> String {
    format!("{} can't be read", path.display())
}
