//! What a user has seen of environment files, so that nobody shows him an older version again.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use jiff::Timestamp;

use crate::error::{Error, ErrorKind, Result};

/// When the newest version of each environment file was sealed that a user has opened.
///
/// The time is authenticated by the file's own key, so who can replace the file can't make an old
/// version look new. It is kept apart from the catalogue: who restores that doesn't restore this.
#[derive(Clone, Debug)]
pub struct Seen {
    file: PathBuf,
}

impl Seen {
    /// What is kept in a file, which is made when there is something to keep.
    pub fn kept_in(file: PathBuf) -> Self {
        Self { file }
    }

    /// Notes that the version of the environment file `name` was opened that was sealed at
    /// `sealed`; `id` tells apart files of the same name.
    ///
    /// # Errors
    /// `Damaged` when a later version was seen before. What can't be kept is logged only: who has
    /// no place for it may still use secrets.
    pub fn advance(&self, id: &str, name: &str, sealed: Timestamp) -> Result<()> {
        match self.try_advance(id, sealed) {
            Ok(Some(newest)) => {
                let message = format!(
                    "environment file {name} was sealed at {sealed}, and you have seen a version \
                     of {newest}: an old one was put in its place"
                );
                Err(Error::new(ErrorKind::Damaged, message).with_hint(format!(
                    "if a backup was restored on purpose, remove {}",
                    self.file.display()
                )))
            }
            Ok(None) => Ok(()),
            Err(error) => {
                let file = self.file.display();
                tracing::debug!(%error, %file, "what was seen of a secret isn't kept");
                Ok(())
            }
        }
    }

    /// Advances, or returns the time of a later version that was seen.
    fn try_advance(&self, id: &str, sealed: Timestamp) -> io::Result<Option<Timestamp>> {
        if let Some(dir) = self.file.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(self.file.with_extension("lock"))?;
        lock.lock()?;
        let mut all = self.read()?;
        match all.get(id) {
            Some(newest) if sealed < *newest => return Ok(Some(*newest)),
            Some(newest) if sealed == *newest => return Ok(None),
            _ => all.insert(id.to_owned(), sealed),
        };
        let draft = self.file.with_extension("new");
        let mut file = options.clone().truncate(true).open(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(&all)?)?;
        file.sync_all()?;
        fs::rename(&draft, &self.file)?;
        Ok(None)
    }

    fn read(&self) -> io::Result<BTreeMap<String, Timestamp>> {
        match fs::read(&self.file) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_version_than_was_seen_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let seen = Seen::kept_in(dir.path().join("a/b/seen.json"));
        let [early, late]: [Timestamp; 2] =
            ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"].map(|time| time.parse().unwrap());
        seen.advance("x", "project", early).unwrap();
        seen.advance("x", "project", late).unwrap();
        seen.advance("x", "project", late).unwrap();
        let error = seen.advance("x", "project", early).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.to_string().contains("2026-01-02"));
        seen.advance("y", "project", early).unwrap();
        assert!(seen.advance("x", "project", early).is_err());
    }

    #[test]
    fn who_can_keep_nothing_goes_on() {
        let seen = Seen::kept_in(PathBuf::from("/proc/nowhere/seen.json"));
        seen.advance("x", "project", Timestamp::now()).unwrap();
    }
}
