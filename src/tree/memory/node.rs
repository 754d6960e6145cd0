//! A node of the tree in memory: attributes, content, extended attributes.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::tree::{FileType, NewNode, Owner, SetAttr, SetTime, XattrMode};

/// The longest file, in bytes: a test that writes far out must not fill the machine.
const MAX_FILE_LEN: u64 = 1 << 30;

/// `FALLOC_FL_KEEP_SIZE`, `FALLOC_FL_PUNCH_HOLE` and `FALLOC_FL_ZERO_RANGE` of `fallocate(2)`.
const KEEP_SIZE: u32 = 0x01;
const PUNCH_HOLE: u32 = 0x02;
const ZERO_RANGE: u32 = 0x10;

/// A file, whatever its names.
pub(super) struct Node {
    pub(super) mode: u32,
    pub(super) owner: Owner,
    pub(super) rdev: u64,
    pub(super) atime: SystemTime,
    pub(super) mtime: SystemTime,
    pub(super) ctime: SystemTime,
    /// How many directory entries name it.
    pub(super) names: u32,
    /// How many open files hold it.
    pub(super) opened: u32,
    pub(super) xattrs: BTreeMap<Bytes, Bytes>,
    pub(super) content: Content,
}

/// What a node holds.
pub(super) enum Content {
    File(Vec<u8>),
    Directory(BTreeMap<Bytes, u64>),
    Symlink(Bytes),
    Special(FileType),
}

impl Node {
    pub(super) fn new(new: NewNode, content: Content) -> Self {
        let now = SystemTime::now();
        Self {
            mode: new.mode & 0o7777,
            owner: new.owner,
            rdev: 0,
            atime: now,
            mtime: now,
            ctime: now,
            names: 0,
            opened: 0,
            xattrs: BTreeMap::new(),
            content,
        }
    }

    pub(super) fn file_type(&self) -> FileType {
        match &self.content {
            Content::File(_) => FileType::File,
            Content::Directory(_) => FileType::Directory,
            Content::Symlink(_) => FileType::Symlink,
            Content::Special(file_type) => *file_type,
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        matches!(self.content, Content::Directory(_))
    }

    /// The bytes of a regular file; none for anything else.
    pub(super) fn bytes(&self) -> &[u8] {
        if let Content::File(bytes) = &self.content { bytes } else { &[] }
    }

    /// Notes that the bytes, or the entries of the directory, changed.
    pub(super) fn touch(&mut self) {
        self.mtime = SystemTime::now();
        self.ctime = self.mtime;
    }

    pub(super) fn resize(&mut self, len: u64) -> Result<()> {
        let len = checked_len(len)?;
        match &mut self.content {
            Content::File(bytes) => bytes.resize(len, 0),
            Content::Directory(_) => return Err(ErrorKind::IsADirectory.into()),
            Content::Symlink(_) => return Err(ErrorKind::FilesystemLoop.into()),
            Content::Special(_) => return Err(ErrorKind::InvalidInput.into()),
        }
        self.touch();
        Ok(())
    }

    pub(super) fn write(&mut self, offset: u64, written: &[u8]) -> Result<()> {
        let end = checked_len(offset.saturating_add(written.len() as u64))?;
        if let Content::File(bytes) = &mut self.content {
            bytes.resize(bytes.len().max(end), 0);
            bytes[end - written.len()..end].copy_from_slice(written);
        }
        self.touch();
        Ok(())
    }

    /// Applies changes in the order in which none undoes another: a new length touches the
    /// times, a new owner clears mode bits.
    pub(super) fn change(&mut self, changes: SetAttr) -> Result<()> {
        if changes.mode.is_some() && matches!(self.content, Content::Symlink(_)) {
            return Err(ErrorKind::Unsupported.into());
        }
        if let Some(len) = changes.size {
            self.resize(len)?;
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            self.owner.uid = changes.uid.unwrap_or(self.owner.uid);
            self.owner.gid = changes.gid.unwrap_or(self.owner.gid);
            self.drop_set_id();
        }
        if let Some(mode) = changes.mode {
            self.mode = mode & 0o7777;
        }
        let now = SystemTime::now();
        let time = |set| match set {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        self.atime = changes.atime.map_or(self.atime, time);
        self.mtime = changes.mtime.map_or(self.mtime, time);
        self.ctime = now;
        Ok(())
    }

    /// A program that changes hands loses its set-id bits, see `chown(2)`.
    fn drop_set_id(&mut self) {
        if self.is_dir() {
            return;
        }
        self.mode &= !0o4000;
        if self.mode & 0o010 != 0 {
            self.mode &= !0o2000;
        }
    }

    pub(super) fn allocate(&mut self, offset: u64, len: u64, mode: u32) -> Result<()> {
        if len == 0 {
            return Err(ErrorKind::InvalidInput.into());
        }
        let zeroes = match mode & !KEEP_SIZE {
            0 => false,
            PUNCH_HOLE if mode & KEEP_SIZE != 0 => true,
            ZERO_RANGE => true,
            _ => return Err(ErrorKind::Unsupported.into()),
        };
        let end = checked_len(offset.saturating_add(len))?;
        if let Content::File(bytes) = &mut self.content {
            if mode & KEEP_SIZE == 0 {
                bytes.resize(bytes.len().max(end), 0);
            }
            let end = end.min(bytes.len());
            let start = usize::try_from(offset).unwrap_or(end).min(end);
            if zeroes {
                bytes[start..end].fill(0);
            }
        }
        self.touch();
        Ok(())
    }

    pub(super) fn xattr(&self, name: &[u8]) -> Result<Bytes> {
        check_xattr_name(name)?;
        self.xattrs.get(name).cloned().ok_or_else(|| no_attribute(name))
    }

    pub(super) fn set_xattr(&mut self, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        check_xattr_name(name)?;
        if !matches!(self.content, Content::File(_) | Content::Directory(_)) {
            // See "user extended attributes" in xattr(7).
            return Err(ErrorKind::NotPermitted.into());
        }
        match (mode, self.xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(ErrorKind::AlreadyExists.into()),
            (XattrMode::Replace, false) => return Err(no_attribute(name)),
            _ => {}
        }
        self.xattrs.insert(Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        self.ctime = SystemTime::now();
        Ok(())
    }

    pub(super) fn remove_xattr(&mut self, name: &[u8]) -> Result<()> {
        check_xattr_name(name)?;
        if !matches!(self.content, Content::File(_) | Content::Directory(_)) {
            return Err(ErrorKind::NotPermitted.into());
        }
        self.xattrs.remove(name).ok_or_else(|| no_attribute(name))?;
        self.ctime = SystemTime::now();
        Ok(())
    }
}

fn checked_len(len: u64) -> Result<usize> {
    usize::try_from(len)
        .ok()
        .filter(|_| len <= MAX_FILE_LEN)
        .ok_or_else(|| Error::new(ErrorKind::FileTooLarge, "a file in memory can't be that long"))
}

/// Only the `user` namespace is kept here.
fn check_xattr_name(name: &[u8]) -> Result<()> {
    match name.strip_prefix(b"user.") {
        Some(b"") => Err(ErrorKind::InvalidInput.into()),
        Some(_) if name.len() > 255 => Err(ErrorKind::OutOfRange.into()),
        Some(_) => Ok(()),
        None => Err(ErrorKind::Unsupported.into()),
    }
}

fn no_attribute(name: &[u8]) -> Error {
    let name = name.escape_ascii();
    Error::new(ErrorKind::NoAttribute, format!("there is no attribute {name}"))
}
