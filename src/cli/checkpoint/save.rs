//! Saves a notebook and the project's files as one version.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use indicatif::HumanBytes;
use jiff::Timestamp;

use super::{Line, Operation, Spec, find};
use crate::catalog::{Kind, NewResource, NewVersion, Project, Writer, checkpoint_name};
use crate::cli::table;
use crate::error::{Error, ErrorKind, Result};
use crate::notebook::Notebook;
use crate::path::TreePath;
use crate::snapshot::{Capture, Captured, Skipped, Version};
use crate::tree::local::LocalTree;
use crate::tree::{OpenMode, Tree};
use crate::workspace::Workspace;

/// How many of the files that were left out are named one by one.
const NAMED: usize = 10;

/// Saves the state of one project.
pub(super) struct Saver<'a> {
    workspace: &'a Workspace,
    project: &'a Project,
    /// The directory of the project's storage.
    pub(super) files: PathBuf,
    tree: LocalTree,
}

/// A checkpoint that is about to be made.
pub(super) struct Draft {
    pub(super) operation: Operation,
    pub(super) notebook: Option<Saved>,
    /// The name to pin it under.
    pub(super) name: Option<String>,
    /// The checkpoint that a rollback went back to.
    pub(super) of: Option<String>,
    /// The checkpoint that is about to be applied.
    pub(super) before: Option<String>,
}

/// A notebook's file.
pub(super) struct Saved {
    /// Below the project.
    path: String,
    bytes: Bytes,
    /// None where it isn't in order, which matters only to who wants to save it.
    notebook: Option<Notebook>,
}

/// A checkpoint that is in the store, but not in the catalogue yet.
pub(super) struct Stored {
    line: Line,
    captured: Captured,
    writer: Writer,
}

impl Draft {
    pub(super) fn manual(notebook: Option<Saved>) -> Self {
        Self { operation: Operation::Manual, notebook, name: None, of: None, before: None }
    }
}

impl Stored {
    /// What couldn't be read.
    pub(super) fn skipped(&self) -> &[Skipped] {
        &self.captured.skipped
    }
}

impl<'a> Saver<'a> {
    pub(super) fn new(workspace: &'a Workspace, project: &'a Project) -> Result<Self> {
        let files = workspace.files(project)?;
        let tree = LocalTree::open(&files)?;
        Ok(Self { workspace, project, files, tree })
    }

    /// Reads the notebook that is to be saved.
    ///
    /// # Errors
    /// `InvalidInput` for a path outside `files/` and for what isn't a notebook; `NotFound`.
    pub(super) async fn notebook(&self, path: &str) -> Result<Saved> {
        let (bytes, name) = (self.read(path).await?, &self.project.name);
        let bytes = bytes.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("project {name} has no notebook {path}"))
        })?;
        let notebook = Notebook::parse(path, &bytes)?;
        Ok(Saved { path: path.to_owned(), bytes, notebook: Some(notebook) })
    }

    /// Like [`notebook`](Self::notebook), but takes it as it is; `None` when it is gone.
    pub(super) async fn notebook_as_it_is(&self, path: &str) -> Result<Option<Saved>> {
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

    async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        let invalid = |what: String| Error::new(ErrorKind::InvalidInput, what);
        let below = TreePath::parse(path).ok().and_then(|path| path.split_first());
        let Some((_, below)) = below.filter(|(first, rest)| *first == "files" && !rest.is_root())
        else {
            return Err(invalid(format!("notebook \"{path}\" isn't in the project's files/"))
                .with_hint("name it as the project shows it, such as files/train.ipynb"));
        };
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

    /// Puts a checkpoint into the store.
    pub(super) async fn capture(&self, draft: Draft) -> Result<Stored> {
        let catalog = &self.workspace.catalog;
        let (packs, writer) = self.workspace.begin_writing().await?;
        let id = checkpoint_name(catalog.next_checkpoint_number(self.project).await?);
        let (files, bytes) = count(&self.files);
        let notebook = draft.notebook.as_ref().and_then(|saved| saved.notebook.as_ref());
        let mut line = Line {
            id,
            name: draft.name,
            creator: catalog.user().to_owned(),
            created: Timestamp::now(),
            spec: Spec {
                operation: draft.operation,
                notebook: draft.notebook.as_ref().map(|saved| saved.path.clone()),
                data: true,
                files,
                bytes,
                cells: notebook.map(|notebook| notebook.cells.len()),
                outputs: notebook.map(Notebook::outputs),
                kernel: notebook.and_then(|notebook| notebook.kernel.clone()),
                of: draft.of,
                before: draft.before,
            },
        };
        let mut described = to_json(&line)?;
        described.push(b'\n');
        let mut own_bytes = described.len() as u64;
        let mut own_files = 1;
        let mut capture = Capture::new()
            .directory(TreePath::parse("files")?, &self.files)
            .bytes(TreePath::parse("checkpoint.json")?, described);
        if let Some(saved) = draft.notebook {
            own_bytes += saved.bytes.len() as u64;
            own_files += 1;
            capture = capture.bytes(TreePath::parse("notebook.ipynb")?, saved.bytes);
        }
        if let Some(previous) = self.newest().await? {
            capture = capture.since(previous);
        }
        let captured = capture.run(&packs).await?;
        line.spec.files = captured.totals.files.saturating_sub(own_files);
        line.spec.bytes = captured.totals.bytes.saturating_sub(own_bytes);
        Ok(Stored { line, captured, writer })
    }

    /// Makes a stored checkpoint one of the project's, and tells of it.
    pub(super) async fn publish(&self, stored: Stored) -> Result<Line> {
        let Stored { line, captured, writer } = stored;
        let mut spec = serde_json::to_value(&line.spec).map_err(unwritten)?;
        if let Some(name) = &line.name {
            spec["pinned_name"] = name.as_str().into();
        }
        let new = NewResource {
            kind: Kind::Checkpoint,
            name: line.id.clone(),
            description: String::new(),
            spec,
        };
        let version = NewVersion {
            root: captured.root.to_string(),
            files: captured.totals.files,
            bytes: captured.totals.bytes,
            spec: serde_json::Value::Null,
            needs: captured.needs.iter().map(ToString::to_string).collect(),
        };
        let published = writer.publish(self.project, new, version).await?;
        if let Err(error) = self.workspace.keep_record(&published.0, &published.1).await {
            tracing::warn!("the copy of the record isn't kept: {error:?}");
        }
        for skipped in captured.skipped.iter().take(NAMED) {
            table::say(format!("left out: {}: {}", skipped.path, skipped.reason));
        }
        if let Some(more @ 1..) = captured.skipped.len().checked_sub(NAMED) {
            table::say(format!("left out: {more} more"));
        }
        let Spec { files, bytes, .. } = line.spec;
        let size = HumanBytes(bytes);
        table::say(format!("checkpoint {} saved: {files} files, {size}", line.id));
        Line::new(line.id, &published.0)
    }

    /// The project's newest checkpoint, if it has one that can be read.
    pub(super) async fn newest(&self) -> Result<Option<Version>> {
        let Workspace { catalog, packs, .. } = self.workspace;
        let all = find::all(catalog, self.project).await?;
        let Some(place) = find::newest(&all) else { return Ok(None) };
        let Some(version) = catalog.newest_version(&all[place].resource.id).await? else {
            return Ok(None);
        };
        match Version::open(packs.clone(), version.root.parse()?).await {
            Ok(version) => Ok(Some(version)),
            Err(error) => {
                // One that is damaged is no help, but no reason to save nothing any more.
                tracing::warn!("the newest checkpoint can't be used: {error:?}");
                Ok(None)
            }
        }
    }
}

/// How many regular files a directory holds, and how long they are together, in bytes.
///
/// What changes meanwhile makes this a little wrong; what the catalogue keeps is counted in the
/// version itself.
fn count(dir: &Path) -> (u64, u64) {
    walkdir::WalkDir::new(dir)
        .into_iter()
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .filter(std::fs::Metadata::is_file)
        .fold((0, 0), |(files, bytes), metadata| (files + 1, bytes + metadata.len()))
}

fn to_json(line: &Line) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(line).map_err(unwritten)
}

fn unwritten(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Io, "the checkpoint can't be described").with_source(error)
}
