//! A cache as its owner sees it: how much there is, whether it is right, and how it is emptied.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::census::{self, Record};
use super::layout::{self, Layout};
use super::room::Room;
use super::stored::{self, Opened, Stored, read_range};
use crate::cache::ObjectVersion;
use crate::config::CacheSize;
use crate::error::{Error, IoContext as _, Result};
use crate::object::buffers::Buffers;

/// How much is checked at a time.
const STRIDE: u64 = 1 << 20;

/// What is younger may be half-made, by a mount that is at it.
const SETTLED: Duration = Duration::from_mins(1);

/// A directory of blocks, whoever else uses it.
#[derive(Debug)]
pub struct CacheDir {
    root: PathBuf,
    room: Room,
}

/// How much a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// How many versions of objects there are, or parts of them.
    pub objects: u64,
    /// The room that they take, in bytes.
    pub used: u64,
    /// When the one that goes first was last used.
    pub oldest: Option<SystemTime>,
    /// The most room that they may take, in bytes.
    pub limit: u64,
    /// How many bytes of the file system are left free for others.
    pub reserve: u64,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many versions of objects, or parts of them.
    pub objects: u64,
    /// The room that they took, in bytes.
    pub room: u64,
}

/// What was found when everything was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// How many versions of objects were looked at.
    pub objects: u64,
    /// How many bytes of them were there.
    pub bytes: u64,
    /// What wasn't right, and is gone now.
    pub damaged: Vec<Damage>,
}

/// An object of which something was damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its name, or that of its file when the object's can't be read any more.
    pub object: String,
    /// How many blocks of 16 KiB were dropped.
    pub blocks: u64,
}

impl CacheDir {
    /// Opens the cache in `dir`; `None` if there is none yet.
    ///
    /// # Errors
    /// `PermissionDenied` when it can't be read.
    pub fn open(dir: &Path, size: CacheSize) -> Result<Option<Self>> {
        let root = dir.join(super::FORMAT);
        match fs::metadata(&root) {
            Ok(_) => Ok(Some(Self { room: Room::new(root.clone(), size), root })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(error, format!("cache {} can't be read", dir.display()))),
        }
    }

    /// Counts what there is.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn kept(&self) -> Result<Kept> {
        let records = self.census()?;
        let used = records.iter().map(|record| record.room).sum();
        let limits = self.room.limits(used).context(|| self.unreadable())?;
        Ok(Kept {
            objects: records.len() as u64,
            used,
            oldest: records.iter().map(|record| time(record.used)).min(),
            limit: limits.limit,
            reserve: limits.reserve,
        })
    }

    /// Removes what wasn't used for `unused`, or everything. Files that are open stay readable.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn clear(&self, unused: Option<Duration>) -> Result<Removed> {
        let now = SystemTime::now();
        let mut removed = Removed::default();
        for record in self.census()? {
            let age = now.duration_since(time(record.used)).unwrap_or_default();
            if unused.is_none_or(|unused| age >= unused) {
                self.remove(&record)?;
                removed.objects += 1;
                removed.room += record.room;
            }
        }
        self.room.forget_tally();
        Ok(removed)
    }

    /// Checks every block against its checksum and drops what isn't right. `progress` is told how
    /// much of the room that is taken was looked at, and how much there is.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn verify(&self, mut progress: impl FnMut(u64, u64)) -> Result<Checked> {
        let records = self.census()?;
        let total = records.iter().map(|record| record.room).sum();
        let (mut checked, mut done) = (Checked::default(), 0);
        for record in &records {
            let mut bytes = 0;
            let damage = self.verify_one(record, |more| {
                bytes += more;
                progress((done + bytes).min(total), total);
            })?;
            done += record.room;
            progress(done.min(total), total);
            checked.objects += 1;
            checked.bytes += bytes;
            checked.damaged.extend(damage);
        }
        Ok(checked)
    }

    fn verify_one(&self, record: &Record, mut read: impl FnMut(u64)) -> Result<Option<Damage>> {
        let name = record.file_name();
        let context =
            || format!("{} can't be read", layout::data_path(&self.root, &name).display());
        let known = self.identify(&name).context(context)?;
        let opened = match &known {
            Some((layout, _)) => Stored::open(&self.root, layout).context(context)?,
            None => Opened::Damaged,
        };
        let object = known.map_or_else(|| name.clone(), |(_, version)| version.object.to_string());
        let stored = match opened {
            Opened::There(stored) => stored,
            // Gone in the meantime, or on its way.
            _ if !self.is_settled(record) => return Ok(None),
            Opened::Absent | Opened::Damaged => {
                self.remove(record)?;
                return Ok(Some(Damage { object, blocks: 1 }));
            }
        };
        let buffers = Buffers::default();
        let mut blocks = 0;
        let mut start = 0;
        while start < stored.layout.size {
            let end = (start + STRIDE).min(stored.layout.size);
            let found = stored.read(&buffers, &(start..end)).context(context)?;
            read(found.runs.iter().map(|(_, bytes)| bytes.len() as u64).sum());
            blocks += found.damaged;
            start = end;
        }
        Ok((blocks > 0).then_some(Damage { object, blocks }))
    }

    /// Whose files these are; `None` if they don't say so.
    fn identify(&self, name: &str) -> io::Result<Option<(Layout, ObjectVersion)>> {
        let tail = File::open(layout::tail_path(&self.root, name));
        let file = match tail.or_else(|_| File::open(layout::data_path(&self.root, name))) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let len = file.metadata()?.len();
        let last = read_range(&file, len.saturating_sub(4)..len)?;
        let Some(identity) = last
            .first_chunk::<4>()
            .and_then(|last| Layout::identity_len(*last))
            .and_then(|identity| len.checked_sub(identity as u64))
        else {
            return Ok(None);
        };
        let identity = read_range(&file, identity..len)?;
        Ok(Layout::parse(&identity).filter(|(layout, _)| layout.name == name))
    }

    /// Whether nobody can be making these files any more.
    fn is_settled(&self, record: &Record) -> bool {
        let is_there = layout::data_path(&self.root, &record.file_name()).exists()
            || layout::tail_path(&self.root, &record.file_name()).exists();
        let age = SystemTime::now().duration_since(time(record.used)).unwrap_or_default();
        is_there && age >= SETTLED
    }

    fn remove(&self, record: &Record) -> Result<()> {
        let name = record.file_name();
        stored::remove(&self.root, &name).context(|| format!("block file {name} can't be removed"))
    }

    fn census(&self) -> Result<Vec<Record>> {
        census::take(&self.root).context(|| self.unreadable())
    }

    fn unreadable(&self) -> String {
        format!("cache {} can't be read", self.root.display())
    }
}

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}
