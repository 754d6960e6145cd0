//! `atelier dataset create`: a directory becomes a version of a dataset.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar};

use super::{Context, Described, NAMED, require_developer};
use crate::catalog::{
    Kind, NewResource, NewVersion, Project, Resource, ResourceChange, Version, Writer, name,
};
use crate::chunk::Packs;
use crate::cli::table;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::path::TreePath;
use crate::snapshot::{self, Capture, Captured, Progress};
use crate::workspace::Workspace;

/// What is taken in.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// The dataset's name
    name: String,
    /// The directory
    #[arg(value_name = "DIR")]
    source: PathBuf,
    /// What it is
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// Fail if there is anything that can't be read or kept
    #[arg(long)]
    strict: bool,
}

impl Create {
    pub(super) async fn run(
        self,
        context: &Context,
        workspace: &Workspace,
        project: &Project,
    ) -> Result<()> {
        // What can be refused is refused before hours are spent.
        name::check_resource(Kind::Dataset, &self.name)?;
        require_developer(&workspace.catalog, project).await?;
        let source = self.source.display();
        let metadata = fs::metadata(&self.source).context(|| format!("{source} can't be read"))?;
        if !metadata.is_dir() {
            let message = format!("{source} isn't a directory");
            return Err(Error::new(ErrorKind::NotADirectory, message)
                .with_hint("a dataset is made of a directory"));
        }
        if previous(workspace, project, &self.name).await?.is_none() {
            workspace.catalog.check_active_datasets(project).await?;
        }
        let (packs, writer) = workspace.begin_writing().await?;
        let made = self.make(context, workspace, project, &packs, &writer).await;
        if let Err(error) = writer.end().await {
            tracing::warn!("the lease on the content store isn't given back: {error:?}");
        }
        made
    }

    async fn make(
        &self,
        context: &Context,
        workspace: &Workspace,
        project: &Project,
        packs: &Packs,
        writer: &Writer,
    ) -> Result<()> {
        let previous = previous(workspace, project, &self.name).await?;
        let captured = self.capture(packs, previous.as_ref()).await?;
        self.report(&captured)?;
        if let Some((resource, version)) = previous
            && version.root == captured.root.to_string()
        {
            return self.unchanged(context, workspace, resource, version).await;
        }
        let new = NewResource {
            kind: Kind::Dataset,
            name: self.name.clone(),
            description: self.description.clone(),
            spec: serde_json::Value::Null,
        };
        publish(context, workspace, project, writer, new, &captured).await
    }

    async fn capture(
        &self,
        packs: &Packs,
        previous: Option<&(Resource, Version)>,
    ) -> Result<Captured> {
        let mut capture = Capture::new().directory(TreePath::root(), &self.source);
        if let Some((_, version)) = previous {
            // One that is damaged is no help, but no reason to refuse its repair either.
            match snapshot::Version::open(packs.clone(), version.root.parse()?).await {
                Ok(version) => capture = capture.since(version),
                Err(error) => tracing::warn!("the previous version isn't used: {error:?}"),
            }
        }
        watch(capture, packs).await
    }

    /// Says what was left out, and refuses it where that was asked for.
    fn report(&self, captured: &Captured) -> Result<()> {
        let left_out = captured.skipped.len();
        name_skipped(captured);
        let source = self.source.display();
        if self.strict && left_out > 0 {
            let message = format!("{left_out} of the entries of {source} can't be taken in");
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .with_hint("without --strict they are left out"));
        }
        if captured.totals.files == 0 {
            let message = format!("{source} has no files that could be taken in");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        if left_out > 0 {
            table::say(format!("left out: {left_out}"));
        }
        Ok(())
    }

    async fn unchanged(
        &self,
        context: &Context,
        workspace: &Workspace,
        mut resource: Resource,
        version: Version,
    ) -> Result<()> {
        if !self.description.is_empty() && self.description != resource.description {
            let description = Some(self.description.clone());
            let change = ResourceChange { description, ..ResourceChange::default() };
            resource = workspace.catalog.update_resource(&resource.id, change).await?;
        }
        table::say(format!("unchanged: {} is still version {}", resource.name, version.number));
        table::made(&Described::new(&resource, version), context.json)
    }
}

/// Makes a version and shows how far it is.
pub(super) async fn watch(capture: Capture, packs: &Packs) -> Result<Captured> {
    let progress = Arc::new(Progress::default());
    let capture = capture.progress(progress.clone());
    let bar = ProgressBar::new_spinner();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut run = std::pin::pin!(capture.run(packs));
    let captured = loop {
        tokio::select! {
            captured = &mut run => break captured,
            _ = tick.tick() => {
                bar.set_message(line(&progress));
                bar.tick();
            }
        }
    };
    bar.finish_and_clear();
    captured
}

/// Names what isn't in a version, or not as it was at one moment.
pub(super) fn name_skipped(captured: &Captured) {
    for skipped in captured.skipped.iter().take(NAMED) {
        table::say(format!("{}: {}", skipped.path, skipped.reason));
    }
    if let Some(more) = captured.skipped.len().checked_sub(NAMED + 1) {
        table::say(format!("and {} more", more + 1));
    }
}

/// Publishes what was captured as the next version of a dataset, and tells of it.
pub(super) async fn publish(
    context: &Context,
    workspace: &Workspace,
    project: &Project,
    writer: &Writer,
    new: NewResource,
    captured: &Captured,
) -> Result<()> {
    let version = NewVersion {
        root: captured.root.to_string(),
        files: captured.totals.files,
        bytes: captured.totals.bytes,
        spec: serde_json::json!({ "stored": captured.stored, "reused": captured.reused }),
        needs: captured.needs.iter().map(ToString::to_string).collect(),
    };
    let (resource, version) = writer.publish(project, new, version).await?;
    if let Err(error) = workspace.keep_record(&resource, &version).await {
        tracing::warn!("the copy of the record isn't kept: {error:?}");
    }
    table::say(format!(
        "dataset {}@{} made: {} files, {}, of which {} are new in the store",
        resource.name,
        version.number,
        version.files,
        HumanBytes(version.bytes),
        HumanBytes(captured.stored),
    ));
    table::made(&Described::new(&resource, version), context.json)
}

/// The dataset that the project owns by this name, and its newest version.
pub(super) async fn previous(
    workspace: &Workspace,
    project: &Project,
    name: &str,
) -> Result<Option<(Resource, Version)>> {
    let all = workspace.catalog.resources(project, Kind::Dataset).await?;
    let own = all.into_iter().find(|shown| !shown.added && shown.resource.name == name);
    let Some(own) = own else { return Ok(None) };
    let newest = workspace.catalog.versions(&own.resource.id).await?.pop();
    Ok(newest.map(|newest| (own.resource, newest)))
}

fn line(progress: &Progress) -> String {
    let bytes =
        |counter: &std::sync::atomic::AtomicU64| HumanBytes(counter.load(Ordering::Relaxed));
    format!(
        "{} entries, {} read, {} known, {} stored",
        progress.entries.load(Ordering::Relaxed),
        bytes(&progress.bytes),
        bytes(&progress.reused),
        bytes(&progress.stored),
    )
}
