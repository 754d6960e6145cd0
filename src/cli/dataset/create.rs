//! `atelier dataset create`: a directory, an archive or a bucket becomes a version of a dataset.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::HumanBytes;
use tokio::signal::unix::{SignalKind, signal};

use super::{Context, Described, NAMED, require_developer};
use crate::catalog::{
    Kind, NewResource, NewVersion, Project, Resource, ResourceChange, Version, Writer, name,
};
use crate::chunk::Packs;
use crate::cli::table;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::snapshot::{self, Capture, Captured, Progress};
use crate::workspace::Workspace;

mod bar;
mod source;

use bar::Bar;
use source::Source;

/// How often the progress bar is drawn.
const TICK: Duration = Duration::from_millis(100);

/// What is taken in.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// The dataset's name
    name: String,
    /// A directory; a tar (.gz and .zst too) or zip archive; `-` for a tar on standard input;
    /// `s3://BUCKET/PREFIX`; or `s3/CONNECTION[/PREFIX]` for one of the project's connections
    source: String,
    /// What it is
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// Fail if there is anything that can't be read or kept
    #[arg(long)]
    strict: bool,
    /// Read every file, also those that seem to be as they were for the previous version
    #[arg(long)]
    rescan: bool,
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
        let source = Source::open(&self.source, context, workspace, project).await?;
        if previous(workspace, project, &self.name).await?.is_none() {
            workspace.catalog.check_active_datasets(project).await?;
        }
        let (packs, writer) = workspace.begin_writing().await?;
        let made = self.make(source, context, workspace, project, (&packs, &writer)).await;
        if let Err(error) = writer.end().await {
            tracing::warn!("the lease on the content store isn't given back: {error:?}");
        }
        made
    }

    async fn make(
        &self,
        source: Source,
        context: &Context,
        workspace: &Workspace,
        project: &Project,
        (packs, writer): (&Packs, &Writer),
    ) -> Result<()> {
        let previous = previous(workspace, project, &self.name).await?;
        let mut capture = source.into_capture();
        if !self.rescan {
            capture = capture.remember(context.config.cache.join("taken-in"));
        }
        if let Some((_, version)) = &previous {
            // One that is damaged is no help, but no reason to refuse its repair either.
            match snapshot::Version::open(packs.clone(), version.root.parse()?).await {
                Ok(version) => capture = capture.since(version),
                Err(error) => tracing::warn!("the previous version isn't used: {error:?}"),
            }
        }
        let captured = self.capture(capture, packs).await?;
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

    /// Runs the capture. When the user interrupts, what was read by then is stored first, so that it
    /// needn't be again; when he does so twice, it isn't.
    async fn capture(&self, capture: Capture, packs: &Packs) -> Result<Captured> {
        let mut interrupt =
            signal(SignalKind::interrupt()).context(|| "signals can't be received".to_owned())?;
        let progress = Arc::new(Progress::default());
        let mut run = std::pin::pin!(show(capture, packs, &progress));
        let mut interrupted = false;
        let captured = loop {
            tokio::select! {
                captured = &mut run => break captured,
                _ = interrupt.recv() => {
                    if std::mem::replace(&mut interrupted, true) {
                        std::process::exit(130);
                    }
                    progress.cancel();
                }
            }
        };
        captured.map_err(|error| match error.kind() {
            ErrorKind::Interrupted if interrupted => {
                let stored = HumanBytes(progress.stored.load(Ordering::Relaxed));
                let message = format!("{} wasn't made: it was interrupted", self.name);
                Error::new(ErrorKind::Interrupted, message)
                    .with_hint(format!("run it again to go on: {stored} needn't be stored again"))
            }
            _ => error,
        })
    }

    /// Says what was left out, and refuses it where that was asked for.
    fn report(&self, captured: &Captured) -> Result<()> {
        let (left_out, source) = (captured.left_out, &self.source);
        name_skipped(captured);
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
    show(capture, packs, &Arc::default()).await
}

async fn show(capture: Capture, packs: &Packs, progress: &Arc<Progress>) -> Result<Captured> {
    let bar = Bar::new();
    let capture = if bar.is_seen() { capture.survey() } else { capture };
    let mut tick = tokio::time::interval(TICK);
    let mut run = std::pin::pin!(capture.progress(progress.clone()).run(packs));
    let captured = loop {
        tokio::select! {
            captured = &mut run => break captured,
            _ = tick.tick() => bar.show(progress),
        }
    };
    bar.clear();
    captured
}

/// Names what isn't in a version, or not as it was at one moment.
pub(super) fn name_skipped(captured: &Captured) {
    for skipped in captured.skipped.iter().take(NAMED) {
        table::say(format!("{}: {}", skipped.path, skipped.reason));
    }
    if let Some(more @ 1..) = captured.left_out.checked_sub(NAMED as u64) {
        table::say(format!("and {more} more"));
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
