//! Saves a notebook and the project's files as one version.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::TryStreamExt as _;
use indicatif::HumanBytes;
use jiff::Timestamp;

use super::find;
use super::line::{Line, Operation, Spec};
use super::variables::Variables;
use crate::catalog::{Kind, NewResource, NewVersion, Project, Writer, checkpoint_name};
use crate::cli::table;
use crate::error::{Error, ErrorKind, Result};
use crate::notebook::Notebook;
use crate::notebook::state::{LIST, State, VALUES};
use crate::path::TreePath;
use crate::snapshot::diff::{Difference, diff};
use crate::snapshot::{Capture, Captured, Changes, Depth, Skipped, Total, Version};
use crate::tree::local::LocalTree;
use crate::tree::tracked::{Journal, Known, Mark, Since};
use crate::workspace::Workspace;

mod notebook;

pub(super) use self::notebook::Saved;

/// How many of the files that were left out are named one by one.
const NAMED: usize = 10;

/// Saves the state of one project.
pub(super) struct Saver<'a> {
    workspace: &'a Workspace,
    project: &'a Project,
    /// The directory of the project's storage.
    pub(super) files: PathBuf,
    tree: LocalTree,
    /// Whether everything is looked at, whatever the journals tell.
    rescan: bool,
}

/// A checkpoint that is about to be made.
pub(super) struct Draft<'a> {
    pub(super) operation: Operation,
    pub(super) notebook: Option<Saved>,
    /// Those that the kernel has written.
    pub(super) variables: Option<&'a Variables>,
    /// The name to pin it under.
    pub(super) name: Option<String>,
    pub(super) tags: Vec<String>,
    /// The checkpoint that a rollback went back to, or that a project was made from.
    pub(super) of: Option<String>,
    /// The checkpoint that is about to be applied.
    pub(super) before: Option<String>,
}

/// A checkpoint that is in the store, but not in the catalogue yet.
pub(super) struct Stored {
    line: Line,
    state: Option<State>,
    captured: Captured,
    since: Since,
    writer: Writer,
}

/// The checkpoint that the next one is built upon.
struct Previous {
    version: Version,
    /// What it knows of the changes of the files.
    known: Option<Known>,
}

impl Draft<'_> {
    pub(super) fn manual(notebook: Option<Saved>) -> Self {
        Self {
            operation: Operation::Manual,
            notebook,
            variables: None,
            name: None,
            tags: Vec::new(),
            of: None,
            before: None,
        }
    }
}

impl Stored {
    /// The variables in it.
    pub(super) fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// Whether the files are in it.
    pub(super) fn has_files(&self) -> bool {
        self.line.spec.data
    }

    /// What couldn't be read.
    pub(super) fn skipped(&self) -> &[Skipped] {
        &self.captured.skipped
    }
}

impl<'a> Saver<'a> {
    pub(super) fn new(workspace: &'a Workspace, project: &'a Project) -> Result<Self> {
        let files = workspace.files(project)?;
        let tree = LocalTree::open(&files)?;
        Ok(Self { workspace, project, files, tree, rescan: false })
    }

    /// The same, looking at every file for what was changed behind the mount's back.
    pub(super) fn rescan(self, rescan: bool) -> Self {
        Self { rescan, ..self }
    }

    /// Notes what may change among the files while what is returned is there; everything, where
    /// that isn't known.
    pub(super) fn mark(&self, changes: Option<&Changes>) -> Result<Vec<Mark>> {
        let journals = self.workspace.journals(self.project);
        if !journals.is_dir() {
            // Where nothing was ever mounted, every checkpoint looks at everything.
            return Ok(Vec::new());
        }
        let journal = Journal::begin(&journals)?;
        match changes {
            Some(changes) => {
                changes.iter().map(|(path, _)| journal.mark(path, Depth::Below)).collect()
            }
            None => journal.mark(&TreePath::root(), Depth::Below).map(|mark| vec![mark]),
        }
    }

    /// Puts a checkpoint into the store.
    pub(super) async fn capture(&self, draft: Draft<'_>) -> Result<Stored> {
        let catalog = &self.workspace.catalog;
        let (packs, writer) = self.workspace.begin_writing().await?;
        let id = checkpoint_name(catalog.next_checkpoint_number(self.project).await?);
        let notebook = draft.notebook.as_ref().and_then(|saved| saved.notebook.as_ref());
        let list = draft.variables.map(|variables| variables.directory().list()).transpose()?;
        let state = list.as_deref().map(State::parse).transpose()?;
        let mut line = Line {
            id,
            name: draft.name,
            creator: catalog.user().to_owned(),
            created: Timestamp::now(),
            spec: Spec {
                operation: draft.operation,
                notebook: draft.notebook.as_ref().map(|saved| saved.path.clone()),
                data: true,
                files: 0,
                bytes: 0,
                cells: notebook.map(|notebook| notebook.cells.len()),
                outputs: notebook.map(Notebook::outputs),
                kernel: notebook.and_then(|notebook| notebook.kernel.clone()),
                execution: state.as_ref().map(|state| state.execution.clone()),
                tags: draft.tags,
                variables: state.as_ref().map(|state| state.variables.clone()),
                of: draft.of,
                before: draft.before,
            },
        };
        let own_bytes = Arc::<AtomicU64>::default();
        let mut own_files = 1;
        let description = (line.clone(), own_bytes.clone());
        let at_most = self.project.checkpoint_gib.map(|gib| u64::from(gib) << 30);
        let describe = move |total: Total| {
            let (mut line, own_bytes) = description.clone();
            (line.spec.files, line.spec.bytes) = (total.entries, total.bytes);
            line.spec.data = at_most.is_none_or(|most| total.bytes <= most);
            let mut described = to_json(&line)?;
            described.push(b'\n');
            own_bytes.store(described.len() as u64, Ordering::Relaxed);
            Ok(described.into())
        };
        let (capture, mut since) = self.look_at_files().await?;
        let mut capture = capture
            .remember(self.workspace.seen(self.project))
            .at_most(at_most)
            .described(TreePath::parse("checkpoint.json")?, describe);
        let mut notebook_bytes = 0;
        if let Some(saved) = draft.notebook {
            notebook_bytes = saved.bytes.len() as u64;
            own_files += 1;
            capture = capture.bytes(TreePath::parse("notebook.ipynb")?, saved.bytes);
        }
        let mut beside = Total::default();
        if let (Some(variables), Some(list)) = (draft.variables, list) {
            own_files += 1;
            notebook_bytes += list.len() as u64;
            beside = variables.total();
            capture = with_variables(capture, variables)?.bytes(TreePath::parse(LIST)?, list);
        }
        let captured = capture.run(&packs).await?;
        if let Some(known) = &mut since.known {
            let more = captured.left_out > captured.unsettled.len() as u64;
            known.look_again_at(&below(&captured.unsettled, "files"), more);
        }
        let own_bytes = own_bytes.load(Ordering::Relaxed) + notebook_bytes + beside.bytes;
        own_files += beside.entries;
        line.spec.files = captured.totals.files.saturating_sub(own_files);
        line.spec.bytes = captured.totals.bytes.saturating_sub(own_bytes);
        if let Some(total) = captured.too_much {
            line.spec.data = false;
            (line.spec.files, line.spec.bytes) = (total.entries, total.bytes);
        }
        Ok(Stored { line, state, captured, since, writer })
    }

    /// Begins to take the files in, as far as they may have changed since the newest checkpoint.
    pub(super) async fn look_at_files(&self) -> Result<(Capture, Since)> {
        let at = TreePath::parse("files")?;
        let previous = self.previous().await?;
        let since = self.changes_since(previous.as_ref())?;
        let mut capture = Capture::new()
            .directory(at.clone(), &self.files)
            .recall(self.workspace.seen(self.project));
        if let Some(previous) = previous {
            capture = capture.since(previous.version);
        }
        if let Some(changes) = since.changes.clone().filter(|_| !self.rescan) {
            capture = capture.changed(at, changes);
        }
        Ok((capture, since))
    }

    fn changes_since(&self, previous: Option<&Previous>) -> Result<Since> {
        let journals = self.workspace.journals(self.project);
        Since::read(&journals, &self.files, previous.and_then(|previous| previous.known.as_ref()))
    }

    /// Below `files/`, what may differ between what is there now and a version; `None` when that
    /// isn't known.
    pub(super) async fn differences(&self, wanted: &Version) -> Result<Option<Changes>> {
        let Some(previous) = self.previous().await? else { return Ok(None) };
        if previous.version.entry(&TreePath::parse("files")?).await.is_err() {
            return Ok(None);
        }
        let Some(mut changes) = self.changes_since(Some(&previous))?.changes else {
            return Ok(None);
        };
        let mut differences = diff(&previous.version, wanted);
        while let Some(Difference { path, .. }) = differences.try_next().await? {
            for below in below(&[path], "files") {
                changes.add(below, Depth::Entry);
            }
        }
        Ok(Some(changes))
    }

    /// Makes a stored checkpoint one of the project's, and tells of it.
    pub(super) async fn publish(&self, stored: Stored) -> Result<Line> {
        let Stored { line, captured, since, writer, .. } = stored;
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
            spec: match &since.known {
                Some(known) => serde_json::json!({ "known": known }),
                None => serde_json::Value::Null,
            },
            needs: captured.needs.iter().map(ToString::to_string).collect(),
        };
        let published = writer.publish(self.project, new, version).await?;
        if let Err(error) = self.workspace.keep_record(&published.0, &published.1).await {
            tracing::warn!("the copy of the record isn't kept: {error:?}");
        }
        since.forget(&self.workspace.journals(self.project));
        for skipped in captured.skipped.iter().take(NAMED) {
            table::say(format!("left out: {}: {}", skipped.path, skipped.reason));
        }
        if let Some(more @ 1..) = captured.skipped.len().checked_sub(NAMED) {
            table::say(format!("left out: {more} more"));
        }
        let Spec { files, bytes, data, .. } = line.spec;
        let size = HumanBytes(bytes);
        table::say(if data {
            let variables = line.variables().map(|count| format!("{count} variables, "));
            let variables = variables.unwrap_or_default();
            format!("checkpoint {} saved: {variables}{files} files, {size}", line.id)
        } else {
            let id = &line.id;
            format!(
                "checkpoint {id} saved without the files: {size} are more than checkpoints take"
            )
        });
        Line::new(line.id, &published.0)
    }

    /// The project's newest checkpoint, if it has one that can be read.
    pub(super) async fn newest(&self) -> Result<Option<Version>> {
        Ok(self.previous().await?.map(|previous| previous.version))
    }

    async fn previous(&self) -> Result<Option<Previous>> {
        let Workspace { catalog, packs, .. } = self.workspace;
        let all = find::all(catalog, self.project).await?;
        let Some(place) = find::newest(&all) else { return Ok(None) };
        let Some(version) = catalog.newest_version(&all[place].resource.id).await? else {
            return Ok(None);
        };
        match Version::open(packs.clone(), version.root.parse()?).await {
            Ok(opened) => {
                let known = version.spec.get("known").cloned();
                let known = known.and_then(|known| serde_json::from_value(known).ok());
                Ok(Some(Previous { version: opened, known }))
            }
            Err(error) => {
                // One that is damaged is no help, but no reason to save nothing any more.
                tracing::warn!("the newest checkpoint can't be used: {error:?}");
                Ok(None)
            }
        }
    }
}

/// The paths that are below a directory, seen from there.
fn below(paths: &[TreePath], directory: &str) -> Vec<TreePath> {
    let inside = |path: &TreePath| {
        let (first, rest) = path.split_first()?;
        (first == directory.as_bytes()).then_some(rest)
    };
    paths.iter().filter_map(inside).collect()
}

/// Takes in the values of variables, too.
pub(super) fn with_variables(mut capture: Capture, variables: &Variables) -> Result<Capture> {
    for values in VALUES {
        let from = variables.directory().path().join(values);
        if from.is_dir() {
            capture = capture.beside(TreePath::parse(values)?, from);
        }
    }
    Ok(capture)
}

fn to_json(line: &Line) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(line).map_err(unwritten)
}

fn unwritten(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Io, "the checkpoint can't be described").with_source(error)
}
