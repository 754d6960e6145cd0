//! The files of a project as a mount changes them: owned, tracked, limited.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::Workspace;
use crate::catalog::{Claim, Owner, Project};
use crate::config::Config;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::tree::Tree;
use crate::tree::local::LocalTree;
use crate::tree::quota::QuotaTree;
use crate::tree::tracked::{Journal, TrackedTree};

/// How often the catalogue is asked whether the files are still this mount's, and how much they
/// may take: what others decide shows here after about this long.
const PERIOD: Duration = Duration::from_secs(1);

/// A lease is renewed so many times before it would lapse.
const RENEWALS: u32 = 4;

/// The limit of a project that has none any more, in bytes: nothing takes so much.
const UNLIMITED: u64 = u64::MAX;

/// The files of a project while they are mounted.
pub struct Storage {
    tree: Arc<dyn Tree>,
    held: Option<Arc<Held>>,
    watch: Option<AbortHandle>,
}

/// What a mount that may change the files holds.
struct Held {
    owner: Owner,
    claim: Claim,
    tracked: Arc<TrackedTree>,
    quota: Option<Arc<QuotaTree>>,
}

impl Workspace {
    /// The name of this home among those that share a catalogue.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn home_name(&self) -> Result<String> {
        home_name(&self.config)
    }

    /// Checks that the files of a project are in this home, or in none yet.
    ///
    /// # Errors
    /// `ResourceBusy` when another home has them.
    pub async fn check_files_are_here(&self, project: &Project) -> Result<()> {
        match self.catalog.files_at(project).await? {
            Some(at) if at.home != self.home_name()? => Err(at.elsewhere(project)),
            _ => Ok(()),
        }
    }

    /// Opens the files of a project for a mount on `place` that changes them. Tells also whether
    /// they were taken over from another host: then they have to be brought here before they are
    /// [settled](Storage::settle).
    ///
    /// # Errors
    /// `ResourceBusy` when somebody else has them; those of the file system.
    pub async fn storage(
        &self,
        project: &Project,
        place: &Path,
        take_over: bool,
    ) -> Result<(Storage, bool)> {
        let files = self.files(project)?;
        let claim = Claim {
            home: self.home_name()?,
            host_name: host_name(),
            place: place.display().to_string(),
            lasts: self.config.lease,
        };
        let (owner, elsewhere) = self.catalog.own_files(project, &claim, take_over).await?;
        let local = Arc::new(LocalTree::open(&files)?);
        let tracked = TrackedTree::over(local, Journal::begin(&self.journals(project))?);
        let tracked = Arc::new(tracked);
        let quota = match project.quota() {
            // A file could change while it is counted, so this comes before anybody can reach it.
            Some(limit) => Some(Arc::new(QuotaTree::over(tracked.clone(), limit).await?)),
            None => None,
        };
        let tree: Arc<dyn Tree> = match &quota {
            Some(quota) => quota.clone(),
            None => tracked.clone(),
        };
        let held = Arc::new(Held { owner, claim, tracked, quota });
        let watched = watch(self.clone(), project.clone(), held.clone());
        let watch = Some(tokio::spawn(watched).abort_handle());
        Ok((Storage { tree, held: Some(held), watch }, elsewhere))
    }

    /// Opens the files of a project for a mount that only reads them.
    ///
    /// # Errors
    /// `ResourceBusy` when another home has them; those of the file system.
    pub async fn storage_to_read(&self, project: &Project) -> Result<Storage> {
        self.check_files_are_here(project).await?;
        let tree = Arc::new(LocalTree::open(&self.files(project)?)?);
        Ok(Storage { tree, held: None, watch: None })
    }
}

impl Storage {
    /// The tree to mount.
    pub fn tree(&self) -> &Arc<dyn Tree> {
        &self.tree
    }

    /// Says that what was taken over is here now.
    ///
    /// # Errors
    /// `StaleHandle` when somebody else took it meanwhile.
    pub async fn settle(&self) -> Result<()> {
        match &self.held {
            Some(held) => held.owner.settle(&held.claim).await,
            None => Ok(()),
        }
    }

    /// Gives the files back, for others to mount.
    pub async fn close(&self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
        if let Some(held) = &self.held
            && let Err(error) = held.owner.end().await
        {
            tracing::warn!("that the files are free isn't noted: {error:?}");
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

/// Follows what the catalogue says of the project and its files.
async fn watch(workspace: Workspace, project: Project, held: Arc<Held>) {
    let pause = (held.owner.lasts() / RENEWALS).min(Duration::from_mins(1));
    let mut renewed = Instant::now();
    let mut limit = project.quota();
    loop {
        tokio::time::sleep(PERIOD).await;
        match held.owner.is_owner().await {
            Ok(true) => {}
            Ok(false) => {
                tracing::error!("{}: another host took the files over", project.name);
                held.tracked.seal();
                return;
            }
            Err(error) => {
                tracing::warn!("whose the files are can't be asked: {error:?}");
                continue;
            }
        }
        if renewed.elapsed() >= pause {
            match held.owner.renew().await {
                Ok(()) => renewed = Instant::now(),
                Err(error) => tracing::warn!("the lease on the files isn't renewed: {error:?}"),
            }
        }
        let Ok(now) = workspace.catalog.project_by_id(&project.id).await else { continue };
        if now.quota() != limit {
            limit = now.quota();
            if let Some(quota) = &held.quota {
                quota.set_limit(limit.unwrap_or(UNLIMITED));
            } else {
                tracing::info!("{}: its quota holds from the next mount on", project.name);
            }
        }
    }
}

/// What people call this host.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Some(name.trim()).filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned()
}

fn home_name(config: &Config) -> Result<String> {
    let file = config.home.join("name");
    let read = || fs::read_to_string(&file);
    let name = match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_name(config)
            .and_then(|()| read())
            .context(|| format!("{} can't be written", file.display()))?,
        other => other.context(|| format!("{} can't be read", file.display()))?,
    };
    let name = name.trim();
    if name.is_empty() {
        let message = format!("{} is empty", file.display());
        return Err(Error::new(ErrorKind::Damaged, message)
            .with_hint("remove it; files of projects may have to be taken over then"));
    }
    Ok(name.to_owned())
}

/// Names a home that has no name, whoever else is at it.
fn make_name(config: &Config) -> io::Result<()> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(io::Error::other)?;
    let name = data_encoding::HEXLOWER.encode(&bits);
    let (file, draft) = (config.home.join("name"), config.home.join(format!("name.{name}")));
    let mut made = fs::File::create_new(&draft)?;
    made.write_all(format!("{name}\n").as_bytes()).and_then(|()| made.sync_all())?;
    let linked = fs::hard_link(&draft, &file);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
