//! `atelier mount`: a project as a directory.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::observe::Observed;
use self::options::Options;
use self::served::Served;
use super::{Context, checkpoint, draft, place, table};
use crate::catalog::{FilesAt, Project};
use crate::config::{Serving, ServingArgs};
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::{Flag, MountOptions, Unmount, mounts};
use crate::workspace::{Storage, Workspace};

mod access;
#[cfg(target_env = "gnu")]
mod allocator;
mod daemon;
pub mod helper;
mod observe;
mod options;
mod point;
mod served;

pub(super) use self::point::{is_dead, shell_word};

/// How long a process that has served the files before may take to end.
const LETTING_GO: Duration = Duration::from_secs(10);

/// Mount a project on a directory
///
/// It returns when the project can be used; a process in the background serves it and logs to
/// `log/mount.log` below the home. SIGTERM and SIGINT unmount it, as `atelier unmount` does.
///
/// With a link named mount.atelier to this program in /sbin, `mount -t atelier PROJECT DIR` and
/// /etc/fstab work too.
#[derive(Debug, Args)]
#[command(override_usage = "atelier mount [OPTIONS] [[ORG/]COMMUNITY/PROJECT] DIR")]
#[allow(clippy::struct_excessive_bools)] // Each is a switch of the command line.
pub struct Mount {
    /// The project [default: the one that `atelier use` chose], and an empty directory
    #[arg(value_name = "[PROJECT] DIR", required = true, num_args = 1..=2)]
    places: Vec<OsString>,

    /// Options as mount(8) has them.
    #[arg(
        short = 'o',
        value_name = "OPTIONS",
        help = "Options as mount(8) has them, with commas between: ro, noexec, noatime, sync, \
                dirsync, allow_other, allow_root, home=DIR, as=NAME; and the options below, as in \
                memory=1GiB,metadata_ttl=5s"
    )]
    options: Vec<String>,

    /// Stay in the foreground and log to standard error
    #[arg(long, short = 'f')]
    foreground: bool,

    /// Bring the files here from the newest checkpoint where another host has them; what was changed
    /// there since stays there
    #[arg(long)]
    take_over: bool,

    /// Be the process in the background; standard output tells when the mount is ready
    #[arg(long, hide = true, conflicts_with = "foreground")]
    background: bool,

    /// Pass over unknown options, as mount(8) asks with -s
    #[arg(long, hide = true)]
    sloppy: bool,

    /// Check the options and do nothing, as mount(8) asks with -f
    #[arg(long, hide = true)]
    fake: bool,

    /// Say nothing of a success
    #[arg(long, short)]
    quiet: bool,

    // Last, since its heading would hold for what follows.
    #[command(flatten)]
    serving: ServingArgs,
}

impl Mount {
    /// Mounts the project.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let options = Options::parse(&self.options, &self.serving, self.sloppy)?;
        let context = options.apply(context)?;
        let serving = Serving::resolve(&options.serving, &context.config.cache)?;
        if self.fake {
            return Ok(ExitCode::SUCCESS);
        }
        if !self.foreground && !self.background {
            return daemon::start(&self.arguments(&context));
        }
        if self.background {
            daemon::leave_session()?;
        }
        self.serve(&context, &options, &serving).await
    }

    /// The command line of the process in the background.
    fn arguments(&self, context: &Context) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["--home".into(), (&context.config.home).into()];
        arguments.extend(["--user".into(), (&context.config.user).into()]);
        if let Some(project) = &context.config.project {
            arguments.extend(["--project".into(), project.into()]);
        }
        if let Some(store) = &context.config.store {
            arguments.extend(["--store".into(), store.to_string().into()]);
        }
        arguments.extend(["mount".into(), "--background".into()]);
        arguments.extend(self.serving.words());
        for option in &self.options {
            arguments.extend(["-o".into(), option.into()]);
        }
        let switches =
            [(self.sloppy, "--sloppy"), (self.quiet, "--quiet"), (self.take_over, "--take-over")];
        arguments.extend(switches.iter().filter(|(set, _)| *set).map(|(_, word)| word.into()));
        arguments.push("--".into());
        arguments.extend_from_slice(&self.places);
        arguments
    }

    /// The directory, and the project if one is named.
    fn places(&self) -> Result<(&Path, Option<&str>)> {
        let (dir, project) = match self.places.as_slice() {
            [project, dir] => (dir, Some(project)),
            [dir, ..] => (dir, None),
            [] => return Err(Error::new(ErrorKind::InvalidInput, "no directory is named")),
        };
        let project = project.map(|name| {
            name.to_str().ok_or_else(|| {
                let name = name.as_bytes().escape_ascii();
                Error::new(ErrorKind::InvalidInput, format!("{name} isn't a project's name"))
            })
        });
        Ok((Path::new(dir), project.transpose()?))
    }

    async fn serve(
        &self,
        context: &Context,
        options: &Options,
        serving: &Serving,
    ) -> Result<ExitCode> {
        #[cfg(target_env = "gnu")]
        allocator::return_buffers();
        daemon::log()?;
        let (dir, project) = self.places()?;
        let mount_point = point::prepare(dir)?;
        let workspace = Workspace::open_to_serve(&context.config, serving).await?;
        draft::clear(&context.config);
        let project = match project {
            Some(name) => {
                let name = place::project(context, &workspace.catalog, name).await?;
                workspace.catalog.project(&name).await?
            }
            None => workspace.project().await?,
        };
        let source = project.name.to_string();
        workspace.check_readable(&project).await?;
        let files = if options.flags.contains(&Flag::ReadOnly) {
            workspace.storage_to_read(&project).await?
        } else {
            self.own(&workspace, &project, &mount_point).await?
        };
        let tree = workspace.namespace(&project, &files);
        let signals = Signals::new()?;
        let access = access::of(options.others, &workspace.catalog, &project).await?;
        let flags = options.flags.clone();
        let options = MountOptions { source: source.clone(), access, flags };
        let mut observed = Observed::prepare(serving).await?;
        let served = Served::mount(&tree, &workspace.metrics, &mount_point, &options)?;
        observed.start(context, serving, &source, served.project(), &workspace.metrics);
        if !self.quiet {
            table::say(format!(
                "{source} is mounted on {}",
                served.project().mount_point().display()
            ));
            observed.say();
        }
        if self.background {
            daemon::ready(&context.config.home)?;
        }
        tracing::info!(project = source, mount_point = %mount_point.display(), "mounted");
        served.log_what_is_missing();
        let ended = until_unmounted(&served, signals, &mount_point).await;
        files.close().await;
        ended?;
        workspace.close().await;
        tracing::info!(project = source, mount_point = %mount_point.display(), "unmounted");
        Ok(ExitCode::SUCCESS)
    }
}

impl Mount {
    /// Takes the files of a project for this mount.
    async fn own(
        &self,
        workspace: &Workspace,
        project: &Project,
        mount_point: &Path,
    ) -> Result<Storage> {
        let deadline = Instant::now() + LETTING_GO;
        let (files, elsewhere) = loop {
            match workspace.storage(project, mount_point, self.take_over).await {
                Err(error)
                    if error.kind() == ErrorKind::ResourceBusy
                        && Instant::now() < deadline
                        && is_letting_go(workspace, project).await? =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                other => break other?,
            }
        };
        if elsewhere {
            let brought = match checkpoint::bring(workspace, project).await {
                Ok(()) => files.settle().await,
                Err(error) => Err(error),
            };
            if let Err(error) = brought {
                files.close().await;
                return Err(error);
            }
        }
        Ok(files)
    }
}

/// Whether the mount that has the files is gone already, and its process about to be.
async fn is_letting_go(workspace: &Workspace, project: &Project) -> Result<bool> {
    let at = workspace.catalog.files_at(project).await?;
    match at.filter(|at| workspace.home_name().is_ok_and(|home| home == at.home)) {
        Some(FilesAt { place: Some(place), .. }) => Ok(mounts::at(Path::new(&place))?.is_none()),
        // It has let go by now.
        Some(FilesAt { place: None, .. }) => Ok(true),
        None => Ok(false),
    }
}

/// Waits until the mount is gone; a signal takes it away.
///
/// While it is in use it is taken away lazily: its users keep it, and this ends with the last of
/// them, or at the second signal.
async fn until_unmounted(served: &Served, mut signals: Signals, place: &Path) -> Result<()> {
    let mut asked = false;
    loop {
        tokio::select! {
            ended = served.wait() => return ended,
            () = signals.next() => {}
        }
        if std::mem::replace(&mut asked, true) {
            tracing::warn!("asked twice to end: whoever still uses the mount gets errors");
            return Ok(());
        }
        match served.unmount(Unmount::IfIdle) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                tracing::warn!(
                    mount_point = %place.display(),
                    "in use: taken away now, served until its last user is gone"
                );
                served.unmount(Unmount::Lazily)?;
            }
            other => other?,
        }
    }
}

/// The signals that ask to end.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self> {
        let listen =
            |kind| signal(kind).map_err(|error| Error::io(error, "signals can't be received"));
        Ok(Self([
            listen(SignalKind::terminate())?,
            listen(SignalKind::interrupt())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
