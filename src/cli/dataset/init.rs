//! `atelier dataset init`: a command fills a new dataset.

use std::ffi::OsString;
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use indicatif::HumanBytes;

use super::create::{name_skipped, previous, publish, watch};
use super::init_code::InitCode;
use super::require_developer;
use crate::catalog::{Kind, NewResource, Project, Writer, name};
use crate::chunk::Packs;
use crate::cli::child::{self, Ended, Signals};
use crate::cli::draft::Draft;
use crate::cli::{Context, outcome, table};
use crate::config::ByteCount;
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::{self, MountOptions, Session, Unmount};
use crate::path::TreePath;
use crate::snapshot::Capture;
use crate::tree::local::LocalTree;
use crate::tree::quota::QuotaTree;
use crate::workspace::Workspace;

/// The variable that tells the command where to write.
const VARIABLE: &str = "ATELIER_DATASET";

/// How often a mount is asked for again that somebody still looks at, and how long between.
const UNMOUNT_ATTEMPTS: u32 = 20;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(50);

/// What is filled by what.
#[derive(Debug, clap::Args)]
pub struct Init {
    /// The dataset's name
    name: String,
    /// The most that its files may have together, such as 10GiB
    #[arg(long, value_name = "SIZE")]
    size: ByteCount,
    /// What it is
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Init {
    pub(super) async fn run(
        self,
        context: &Context,
        workspace: &Workspace,
        project: &Project,
    ) -> Result<ExitCode> {
        name::check_resource(Kind::Dataset, &self.name)?;
        require_developer(&workspace.catalog, project).await?;
        self.check_is_new(workspace, project).await?;
        workspace.catalog.check_active_datasets(project).await?;
        if self.size.0 == 0 {
            let message = "a dataset of no bytes can't be filled";
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .with_hint("--size is the most that may be written, such as 10GiB"));
        }
        // As it is before the command runs, which may change it.
        let code = InitCode::new(&self.command);
        let mut signals = Signals::listen()?;
        let draft = Draft::make(&context.config, &self.name)?;
        let local = Arc::new(LocalTree::open(&draft.files())?);
        let tree = Arc::new(QuotaTree::over(local, self.size.0).await?);
        let options = MountOptions { source: project.name.to_string(), ..MountOptions::default() };
        let metrics = workspace.metrics.clone();
        let session = fuse::mount(tree.clone(), metrics, draft.mount_point(), &options)?;
        match self.fill(&draft, &mut signals).await? {
            Ended::NotRun(code) => return Ok(code),
            Ended::Exited(status) if !status.success() => {
                return Ok(self.failed(status, tree.ran_out()));
            }
            Ended::Exited(_) => {}
        }
        self.seal(&tree, &session).await?;
        drop(session);
        if tree.ran_out() {
            let size = HumanBytes(self.size.0);
            table::say(format!("warning: {size} were full for a while: something wasn't written"));
        }
        tokio::select! {
            made = self.make(context, workspace, project, &draft, &code) => made?,
            signal = signals.next() => {
                let name = &self.name;
                table::say(format!("dataset {name} isn't made: a signal stopped it"));
                return Ok(child::code_of_signal(signal));
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Refuses a name that is taken: a dataset is filled by a command only once.
    async fn check_is_new(&self, workspace: &Workspace, project: &Project) -> Result<()> {
        let name = &self.name;
        if previous(workspace, project, name).await?.is_none() {
            return Ok(());
        }
        let message =
            format!("dataset {name} is there already, and is filled by a command only once");
        Err(Error::new(ErrorKind::AlreadyExists, message).with_hint(format!(
            "`atelier dataset create {name} DIR` makes its next version of a directory"
        )))
    }

    /// Runs the command until it ends.
    async fn fill(&self, draft: &Draft, signals: &mut Signals) -> Result<Ended> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let mut command = Command::new(program);
        command.args(arguments).env(VARIABLE, draft.mount_point());
        child::run(command, signals).await
    }

    /// Says that nothing is made, and gives the command's exit code.
    fn failed(&self, status: ExitStatus, ran_out: bool) -> ExitCode {
        let name = &self.name;
        let message = format!("dataset {name} isn't made: the command ended with {status}");
        let mut error = Error::new(ErrorKind::Interrupted, message);
        if ran_out {
            let size = HumanBytes(self.size.0);
            error = error.with_hint(format!("it wrote more than {size}: --size allows more"));
        }
        table::say(outcome::report(&error).trim_end());
        child::code_of(status)
    }

    /// Ends all writing, and takes the mount away.
    async fn seal(&self, tree: &QuotaTree, session: &Session) -> Result<()> {
        if !session.is_mounted() {
            let message = format!("{} was unmounted while it was filled", self.name);
            return Err(Error::new(ErrorKind::StaleHandle, message));
        }
        tree.seal();
        for _ in 0..UNMOUNT_ATTEMPTS {
            match session.unmount(Unmount::IfIdle) {
                // Desktops and the like look at new mounts.
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                    tokio::time::sleep(UNMOUNT_PAUSE).await;
                }
                other => return other,
            }
        }
        table::say(
            "warning: the command left processes that use the dataset; they can't change it",
        );
        session.unmount(Unmount::Lazily)
    }

    /// Makes the dataset of what was written.
    async fn make(
        &self,
        context: &Context,
        workspace: &Workspace,
        project: &Project,
        draft: &Draft,
        code: &InitCode,
    ) -> Result<()> {
        let (packs, writer) = workspace.begin_writing().await?;
        let made = self.capture(context, workspace, project, draft, code, &packs, &writer).await;
        if let Err(error) = writer.end().await {
            tracing::warn!("the lease on the content store isn't given back: {error:?}");
        }
        made
    }

    #[allow(clippy::too_many_arguments)] // They are what a dataset is made of.
    async fn capture(
        &self,
        context: &Context,
        workspace: &Workspace,
        project: &Project,
        draft: &Draft,
        code: &InitCode,
        packs: &Packs,
        writer: &Writer,
    ) -> Result<()> {
        draft.let_owner_read()?;
        let capture = Capture::new().directory(TreePath::root(), draft.files());
        let captured = watch(capture, packs).await?;
        name_skipped(&captured);
        if captured.totals.files == 0 {
            let message = format!("the command wrote no files into ${VARIABLE}");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        // Somebody may have made it meanwhile.
        self.check_is_new(workspace, project).await?;
        let new = NewResource {
            kind: Kind::Dataset,
            name: self.name.clone(),
            description: self.description.clone(),
            spec: serde_json::json!({ "init": code }),
        };
        publish(context, workspace, project, writer, new, &captured).await
    }
}
