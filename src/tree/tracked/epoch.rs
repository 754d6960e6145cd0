//! For how long the journals of a project tell everything.
//!
//! An epoch is a file beside the journals with a random name in it. It ends when it is removed,
//! which takes no room on a full disk; when the machine was started anew, since journals aren't
//! forced to the disk; and when the files were put elsewhere. What a checkpoint knows of the files
//! holds for the epoch in which it was made.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::error::{IoContext as _, Result};

use super::journal::new_name;

/// One epoch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Epoch(String);

impl Epoch {
    /// The name of the epoch that lasts, or of one that begins now.
    pub(super) fn current(journals: &Path, files: &Path) -> Result<Self> {
        if let Some(epoch) = Self::lasting(journals, files)? {
            return Ok(epoch);
        }
        let (name, conditions) = (new_name()?, conditions(files)?);
        let draft = journals.join(format!("epoch.{name}"));
        let made = File::create_new(&draft)
            .and_then(|mut file| file.write_all(format!("{name} {conditions}").as_bytes()))
            .and_then(|()| fs::rename(&draft, file(journals)));
        made.inspect_err(|_| {
            // It may not even be there.
            let _ = fs::remove_file(&draft);
        })
        .context(|| format!("{} can't be written", file(journals).display()))?;
        Ok(Self(name))
    }

    /// The epoch that lasts, if there is one.
    pub(super) fn lasting(journals: &Path, files: &Path) -> Result<Option<Self>> {
        let file = file(journals);
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.context(|| format!("{} can't be read", file.display()))?,
        };
        let conditions = conditions(files)?;
        let name = text.strip_suffix(&conditions).and_then(|rest| rest.strip_suffix(' '));
        Ok(name.map(|name| Self(name.to_owned())))
    }

    /// Ends the epoch that lasts.
    pub(super) fn end(journals: &Path) -> io::Result<()> {
        match fs::remove_file(file(journals)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.0
    }
}

fn file(journals: &Path) -> PathBuf {
    journals.join("epoch")
}

/// What an epoch doesn't outlive.
fn conditions(files: &Path) -> Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let files = fs::metadata(files).context(|| format!("{} can't be read", files.display()))?;
    Ok(format!("{} {}:{}", boot.trim(), files.dev(), files.ino()))
}
