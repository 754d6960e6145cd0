//! The notebook's own file: read to be saved, and put back.

use std::path::Path;

use bytes::Bytes;

use super::Saver;
use crate::error::{Error, ErrorKind, Result};
use crate::notebook::Notebook;
use crate::path::TreePath;
use crate::snapshot::{Changes, Depth};
use crate::tree::local::LocalTree;
use crate::tree::{NewNode, OpenMode, Owner, RenameMode, Tree};

/// A notebook's file.
pub(in crate::cli::checkpoint) struct Saved {
    /// Below the project.
    pub(super) path: String,
    pub(super) bytes: Bytes,
    /// None where it isn't in order, which matters only to who wants to save it.
    pub(super) notebook: Option<Notebook>,
}

impl Saver<'_> {
    /// Reads the notebook that is to be saved.
    ///
    /// # Errors
    /// `InvalidInput` for a path outside `files/` and for what isn't a notebook; `NotFound`.
    pub(in crate::cli::checkpoint) async fn notebook(&self, path: &str) -> Result<Saved> {
        let (bytes, name) = (self.read(path).await?, &self.project.name);
        let bytes = bytes.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("project {name} has no notebook {path}"))
        })?;
        let notebook = Notebook::parse(path, &bytes)?;
        Ok(Saved { path: path.to_owned(), bytes, notebook: Some(notebook) })
    }

    /// Like [`notebook`](Self::notebook), but takes it as it is; `None` when it is gone.
    pub(in crate::cli::checkpoint) async fn notebook_as_it_is(
        &self,
        path: &str,
    ) -> Result<Option<Saved>> {
        let bytes = match self.read(path).await {
            // Whatever has taken its name is among the files.
            Err(error) if error.kind() == ErrorKind::InvalidInput => None,
            other => other?,
        };
        Ok(bytes.map(|bytes| Saved {
            path: path.to_owned(),
            notebook: Notebook::parse(path, &bytes).ok(),
            bytes,
        }))
    }

    /// Makes the notebook what it was, in one step, in the mount at `live` if there is one.
    ///
    /// # Errors
    /// Those of the file system.
    pub(in crate::cli::checkpoint) async fn write_notebook(
        &self,
        path: &str,
        bytes: &[u8],
        live: Option<&Path>,
    ) -> Result<()> {
        let below = below_files(path)?;
        let directory = below.parent().unwrap_or_else(TreePath::root);
        let draft = directory.join(format!(".atelier-{}", std::process::id()))?;
        let mut changes = Changes::default();
        for path in [&below, &draft] {
            changes.add(path.clone(), Depth::Entry);
        }
        // Behind no mount it has to be noted here what may change.
        let (tree, _marks) = match live {
            Some(live) => (&LocalTree::open(live)?, Vec::new()),
            None => (&self.tree, self.mark(Some(&changes))?),
        };
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let new = NewNode { mode: 0o644, owner: Owner { uid, gid } };
        let mode = OpenMode { write: true, ..OpenMode::default() };
        let file = tree.create(&draft, new, mode).await?.file;
        let written = async {
            file.write_at(0, bytes).await?;
            file.sync(false).await?;
            tree.rename(&draft, &below, RenameMode::Replace).await
        };
        if let Err(error) = written.await {
            // What is left of it says less than the error.
            let _ = tree.remove_file(&draft).await;
            return Err(error);
        }
        Ok(())
    }

    async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        let invalid = |what: String| Error::new(ErrorKind::InvalidInput, what);
        let below = below_files(path)?;
        match self.tree.open(&below, OpenMode::READ).await {
            Ok(file) => file.read_at(0, usize::MAX).await.map(Some),
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(None),
                ErrorKind::IsADirectory => Err(invalid(format!("{path} is a directory"))),
                ErrorKind::FilesystemLoop => Err(invalid(format!("{path} is a symbolic link"))
                    .with_hint("name the notebook itself")),
                _ => Err(error),
            },
        }
    }
}

/// The path of a notebook below the project's storage.
fn below_files(path: &str) -> Result<TreePath> {
    let below = TreePath::parse(path).ok().and_then(|path| path.split_first());
    let below = below.filter(|(first, rest)| *first == "files" && !rest.is_root());
    below.map(|(_, rest)| rest).ok_or_else(|| {
        let message = format!("notebook \"{path}\" isn't in the project's files/");
        Error::new(ErrorKind::InvalidInput, message)
            .with_hint("name it as the project shows it, such as files/train.ipynb")
    })
}
