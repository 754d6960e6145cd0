//! Whose variables a checkpoint takes or gives, and how they get there.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::catalog::{Project, Shown};
use crate::cli::table;
use crate::config::{Config, Span};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::fuse::mounts;
use crate::notebook::kernel::{Kernel, Request};
use crate::notebook::servers;
use crate::notebook::state::{Directory, LIST, State, VALUES};
use crate::path::TreePath;
use crate::snapshot::{Total, Version, restore_scratch};

/// How many of the variables that didn't come back are named one by one.
const NAMED: usize = 10;

/// Options that say whose variables are meant.
#[derive(Debug, clap::Args)]
pub(super) struct Whose {
    /// The notebook's running kernel: its id, its connection file, or `auto` to find it
    #[arg(long, value_name = "ID|FILE|auto")]
    kernel: Option<String>,
    /// How long to wait while the kernel is busy; it is never interrupted
    #[arg(long, value_name = "TIME", default_value = "60s")]
    deadline: Span,
    /// Where the kernel that runs this command has its variables
    #[arg(long, value_name = "DIR", hide = true, conflicts_with = "kernel")]
    state: Option<PathBuf>,
}

/// The variables of a kernel, in the directory in which it writes and reads them.
pub(super) struct Variables {
    directory: Directory,
    /// Whom to ask; none where the kernel runs this command, and so does it itself.
    kernel: Option<Kernel>,
    deadline: Duration,
}

impl Whose {
    /// Whether somebody's are meant.
    pub(super) fn is_said(&self) -> bool {
        self.kernel.is_some() || self.state.is_some()
    }

    /// Finds the kernel, and takes its directory for this process alone.
    ///
    /// # Errors
    /// `NotFound` when there is no such kernel; `InvalidInput` when there are several;
    /// `ResourceBusy`.
    pub(super) async fn find(
        self,
        config: &Config,
        project: &Project,
        notebook: Option<&str>,
    ) -> Result<Option<Variables>> {
        let Self { kernel, deadline: Span(deadline), state } = self;
        if let Some(dir) = state {
            let directory = Directory::of_caller(dir);
            return Ok(Some(Variables { directory, kernel: None, deadline }));
        }
        let kernel = match kernel.as_deref() {
            None => return Ok(None),
            Some("auto") => {
                servers::of_notebook(&config.jupyter, &places(config, project, notebook)?).await?
            }
            Some(name) => servers::named(&config.jupyter, name)?,
        };
        let directory = Directory::take(&config.kernels_dir(), &kernel.id, deadline)?;
        Ok(Some(Variables { directory, kernel: Some(kernel), deadline }))
    }
}

/// Where a Jupyter server may see the notebook: in the project's storage and in its mounts.
fn places(config: &Config, project: &Project, notebook: Option<&str>) -> Result<Vec<PathBuf>> {
    let Some(notebook) = notebook else { return Ok(Vec::new()) };
    let files = config.files_dir(project.id.as_str());
    let stored = files.parent().map(|top| top.join(notebook));
    let (all, name) = (mounts::all()?, project.name.to_string());
    let mounted = all.into_iter().filter(|one| one.is_ours() && one.source == name);
    Ok(stored.into_iter().chain(mounted.map(|one| one.mount_point.join(notebook))).collect())
}

impl Variables {
    /// Has the kernel write its variables.
    ///
    /// # Errors
    /// Those of [`Kernel::ask`].
    pub(super) async fn capture(&self) -> Result<()> {
        if let Some(kernel) = &self.kernel {
            kernel.ask(Request::Capture, self.directory.path(), self.deadline).await?;
        }
        Ok(())
    }

    /// Whether any of them would be lost with the kernel: a new one has none.
    ///
    /// # Errors
    /// `Damaged`, `NotFound` when the kernel wrote none.
    pub(super) fn has_values(&self) -> Result<bool> {
        let state = State::parse(&self.directory.list()?)?;
        Ok(state.variables.iter().any(|variable| variable.size.is_some()))
    }

    /// Variables that belong to no kernel, on their way from one project to another.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn on_their_way(config: &Config, to: &Project) -> Result<Self> {
        let deadline = Duration::ZERO;
        let name = format!("project-{}", to.id.as_str());
        let directory = Directory::take(&config.kernels_dir(), &name, deadline)?;
        Ok(Self { directory, kernel: None, deadline })
    }

    /// Removes them.
    pub(super) fn forget(self) {
        // What stays is removed as that of a kernel which has ended.
        let _ = fs::remove_dir_all(self.directory.path());
    }

    /// How many files their values take, and how many bytes.
    pub(super) fn total(&self) -> Total {
        let dirs = VALUES.map(|values| self.directory.path().join(values));
        let files = dirs.iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
        files.filter_map(|file| file.metadata().ok()).fold(Total::default(), |sum, metadata| {
            Total { entries: sum.entries + 1, bytes: sum.bytes + metadata.len() }
        })
    }

    /// The directory that holds them.
    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Gives the kernel the variables of a checkpoint.
    ///
    /// # Errors
    /// Those of the store and of [`Kernel::ask`]; nothing has changed in the kernel then.
    pub(super) async fn restore(&self, version: &Version) -> Result<()> {
        let dir = self.directory.path();
        for values in VALUES {
            let (from, into) = (TreePath::parse(values)?, dir.join(values));
            match restore_scratch(version, &from, &into).await {
                Err(error) if error.kind() == ErrorKind::NotFound => remove(&into)?,
                other => drop(other?),
            }
        }
        let list = version.read(&TreePath::parse(LIST)?, 0..u64::MAX).await?;
        fs::write(dir.join(LIST), list)
            .context(|| format!("{} can't be written", dir.display()))?;
        if let Some(kernel) = &self.kernel {
            let answer = kernel.ask(Request::Restore, dir, self.deadline).await?;
            tell(&answer)?;
        }
        Ok(())
    }
}

fn remove(dir: &std::path::Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.context(|| format!("{} can't be removed", dir.display())),
    }
}

/// Refuses variables that another user saved: to load them is to run his code.
pub(super) fn check_trust(shown: &Shown, user: &str) -> Result<()> {
    let Shown { name, resource, .. } = shown;
    let creator = &resource.creator;
    if creator == user {
        return Ok(());
    }
    let message = format!("the variables of checkpoint {name} were saved by {creator}");
    Err(Error::new(ErrorKind::NotPermitted, message)
        .with_hint(format!("to load them is to run code of {creator}: --trust does it")))
}

/// Says what the kernel has now.
fn tell(answer: &serde_json::Value) -> Result<()> {
    #[derive(Deserialize)]
    struct Answer {
        restored: usize,
        failed: serde_json::Map<String, serde_json::Value>,
    }
    let Answer { restored, failed } = Answer::deserialize(answer).map_err(|error| {
        Error::new(ErrorKind::Io, "the kernel's answer can't be read").with_source(error)
    })?;
    table::say(format!("the kernel has {restored} variables of the checkpoint"));
    for (name, reason) in failed.iter().take(NAMED) {
        table::say(format!("not restored: {name}: {}", reason.as_str().unwrap_or_default()));
    }
    if let Some(more @ 1..) = failed.len().checked_sub(NAMED) {
        table::say(format!("not restored: {more} more"));
    }
    Ok(())
}

/// Says which variables a checkpoint doesn't have, and why.
pub(super) fn tell_left_out(state: &State) {
    let (names, reasons): (Vec<_>, Vec<_>) = state.not_serialized().unzip();
    if names.is_empty() {
        return;
    }
    table::say(format!("the following variables cannot be serialized: {}", names.join(", ")));
    for (name, reason) in names.iter().zip(reasons).take(NAMED) {
        table::say(format!("left out: {name}: {reason}"));
    }
}
