//! Opens everything a command works on, from a [`Config`].

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::OnceCell;

use crate::cache::disk::DiskCache;
use crate::cache::through::Through;
use crate::cache::{self, BlockCache};
use crate::catalog::{self, Catalog, Kind, Project, Reader, Resource, Role, Writer};
use crate::chunk::{Area, Packs};
use crate::config::{CacheSize, Config, Serving, ServingArgs, StoreLocation};
use crate::crypto::Locked;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::metrics::Metrics;
use crate::object::s3::{Connection, Credentials, KeyReference, Limits, S3Store, SecretReference};
use crate::secret::{self, identity::Identities};
use crate::snapshot;
use crate::tree::Tree;
use crate::tree::bucket::BucketTree;
use crate::tree::namespace::{Namespace, OpenResource, Part, Shelf};
use crate::tree::secrets::SecretsTree;
use crate::tree::snapshot::SnapshotTree;

mod storage;
mod store;

pub use storage::Storage;

/// What is named by its bytes in a store, and so never changes.
const CONSTANT: &[&str] = &[Area::Data.prefix(), Area::Meta.prefix()];

/// Where the key of a bucket is.
#[derive(Clone, Copy, Debug)]
pub enum Keys<'a> {
    /// In an environment file of this project, which is the user's.
    Of(&'a Project),
    /// Where this connection says, in the project that owns it.
    Behind(&'a Resource),
}

/// The catalogue, the store and the caches of one home. Clones share them.
#[derive(Clone)]
pub struct Workspace {
    config: Config,
    /// Who owns what.
    pub catalog: Catalog,
    /// The content of datasets and checkpoints.
    pub packs: Packs,
    serving: Serving,
    blocks: Arc<BlockCache>,
    /// What was read of the listings of versions.
    pages: snapshot::Pages,
    reader: Arc<OnceCell<Reader>>,
    /// What is counted while it is open.
    pub metrics: Arc<Metrics>,
}

impl Workspace {
    /// Opens the home.
    ///
    /// # Errors
    /// `NotFound` when there is none yet; `PermissionDenied` when it is somebody else's.
    pub async fn open(config: &Config) -> Result<Self> {
        let serving = Serving::resolve(&ServingArgs::default(), &config.cache)?;
        Self::open_over(config, &serving, false, |_| None).await
    }

    /// Opens the home to read from it as `serving` says.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn open_to_serve(config: &Config, serving: &Serving) -> Result<Self> {
        Self::open_over(config, serving, true, |metrics| open_disk_cache(serving, metrics)).await
    }

    async fn open_over(
        config: &Config,
        serving: &Serving,
        serves: bool,
        disk: impl FnOnce(Arc<Metrics>) -> Option<DiskCache>,
    ) -> Result<Self> {
        config.check_home()?;
        let catalog = Catalog::open_existing(&config.catalog_file(), &config.user).await?;
        let metrics = Arc::<Metrics>::default();
        let memory = cache::affordable(serving.memory);
        let blocks = Arc::new(BlockCache::over(disk(metrics.clone()), memory, metrics.clone()));
        let limits = Limits::within(serving.deadline);
        let opened = store::open(config, &catalog, limits, &metrics).await?;
        // Commands read most bytes once; a mount reads them again and again.
        let store = match opened.remote.filter(|_| serves) {
            Some(address) => {
                Arc::new(Through::new(opened.store, blocks.clone(), address, CONSTANT)) as _
            }
            None => opened.store,
        };
        let pages = snapshot::Pages::new(pages_budget(memory));
        let packs = Packs::within(memory, store).of_catalogue();
        let (config, serving) = (config.clone(), serving.clone());
        let reader = Arc::default();
        Ok(Self { config, catalog, packs, serving, blocks, pages, reader, metrics })
    }

    /// Makes the catalogue belong to its store, unless it does already.
    ///
    /// # Errors
    /// As [`open`](Self::open) has them.
    pub async fn prepare_store(config: &Config, catalog: &Catalog) -> Result<()> {
        store::open(config, catalog, Limits::interactive(), &Arc::default()).await.map(|_| ())
    }

    /// Where the content store is.
    ///
    /// # Errors
    /// Those of the catalogue.
    pub async fn store_location(&self) -> Result<String> {
        let location = match &self.config.store {
            Some(named) => Some(named.clone()),
            None => match self.catalog.store().await? {
                Some(identity) => Some(identity.location.parse()?),
                None => None,
            },
        };
        Ok(match location {
            None | Some(StoreLocation::Home) => self.config.store_dir().display().to_string(),
            Some(other) => other.to_string(),
        })
    }

    /// The project to work on: the one named by option or environment, else the selected one.
    ///
    /// # Errors
    /// `InvalidInput` when no project is named; `NotFound` when there is none of that name.
    pub async fn project(&self) -> Result<Project> {
        self.catalog.project_or_selected(self.config.project.as_deref()).await
    }

    /// Begins to write: what the returned packs are given belongs to the writer, who publishes it
    /// or ends. What is to be built upon has to be looked up afterwards.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn begin_writing(&self) -> Result<(Packs, Writer)> {
        let writer = self.catalog.begin_writing(self.config.lease).await?;
        Ok((self.packs.for_writer(writer.clone()), writer))
    }

    /// Opens a version, which stays readable until this process ends or [`close`](Self::close)s,
    /// also when it is deleted.
    ///
    /// # Errors
    /// `NotFound` when it was deleted meanwhile; `Damaged`; those of the store.
    pub async fn open_version(&self, version: &catalog::Version) -> Result<snapshot::Version> {
        let reader = self.reader.get_or_try_init(|| self.catalog.begin_reading(self.config.lease));
        let reader = reader.await?;
        let root = reader.hold(version).await?;
        let (packs, pages) = (self.packs.for_reader(reader.clone()), self.pages.clone());
        snapshot::Version::open_among(packs, pages, root.parse()?).await
    }

    /// Gives back what is held of the store.
    pub async fn close(&self) {
        if let Some(reader) = self.reader.get()
            && let Err(error) = reader.end().await
        {
            tracing::warn!("the lease on the content store isn't given back: {error:?}");
        }
    }

    /// Leaves a copy of a version's record beside its content, from which the catalogue could be
    /// rebuilt. The catalogue decides what is there; a copy that is missing harms nobody.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn keep_record(&self, resource: &Resource, version: &catalog::Version) -> Result<()> {
        snapshot::record::keep(&**self.packs.store(), resource, version).await
    }

    /// Removes the copy of a version's record.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn drop_record(&self, resource: &Resource, number: u32) -> Result<()> {
        snapshot::record::remove(&**self.packs.store(), &resource.id, number).await
    }

    /// The directory of a project's storage, made if it isn't there.
    pub fn files(&self, project: &Project) -> Result<std::path::PathBuf> {
        let dir = self.config.files_dir(project.id.as_str());
        if !dir.is_dir() {
            let made = fs::create_dir_all(&dir)
                // What is above it is closed to others; in a mount this shows, and its mode counts.
                .and_then(|()| fs::set_permissions(&dir, Permissions::from_mode(0o755)));
            made.context(|| format!("{} can't be made", dir.display()))?;
        }
        Ok(dir)
    }

    /// The directory of the journals of what is changed in a project's storage; there is none
    /// where the project was never mounted.
    pub fn journals(&self, project: &Project) -> std::path::PathBuf {
        self.config.journals_dir(project.id.as_str())
    }

    /// The directory of what checkpoints of a project know of the files that they read.
    pub fn seen(&self, project: &Project) -> std::path::PathBuf {
        self.config.seen_dir(project.id.as_str())
    }

    /// Prepares an S3 connection with its key, which is opened with the identity of the user or
    /// of the host; nothing is sent to the bucket yet.
    ///
    /// # Errors
    /// `NotFound` when the key's secret isn't where the connection says; `NoIdentity` when
    /// neither the user nor the host can open it.
    pub async fn bucket(
        &self,
        keys: Keys<'_>,
        connection: Connection,
        limits: Limits,
    ) -> Result<S3Store> {
        let credentials = match &connection.key {
            None => Credentials::DefaultChain,
            Some(KeyReference { id, secret, token }) => Credentials::Static {
                key_id: id.clone(),
                secret: self.reveal(keys, secret).await?,
                token: match token {
                    Some(token) => Some(self.reveal(keys, token).await?),
                    None => None,
                },
            },
        };
        S3Store::connect(connection, credentials, limits, self.metrics.clone()).await
    }

    /// Opens a secret that a connection needs.
    async fn reveal(&self, keys: Keys<'_>, reference: &SecretReference) -> Result<Locked<str>> {
        let SecretReference { environment, key } = reference;
        let file = match keys {
            Keys::Of(project) => self.catalog.environment(project, environment).await?,
            Keys::Behind(connection) => {
                self.catalog.environment_behind(connection, environment).await?
            }
        };
        let identities = self.identities()?;
        let value = secret::reveal(environment, &file.body, &identities, key)?;
        let value = str::from_utf8(value.expose()).map_err(|_| {
            Error::new(ErrorKind::InvalidInput, format!("secret {reference} isn't text"))
        })?;
        Ok(value.into())
    }

    /// What opens the keys of buckets: the identities of the host, if it has any that this
    /// process may read, and those of the user.
    fn identities(&self) -> Result<Identities> {
        let user = Identities::load(&self.config.identity_file);
        match Identities::load(&self.config.host_identity_file) {
            Ok(host) => Ok(match user {
                Ok(user) => host.and(&user),
                Err(_) => host,
            }),
            Err(_) => user,
        }
    }

    /// Checks that the user may read what is in a project.
    ///
    /// # Errors
    /// `PermissionDenied` when the user may see the project but not read its content.
    pub async fn check_readable(&self, project: &Project) -> Result<()> {
        let role = self.catalog.role_on(project).await?;
        if role < Some(Role::Developer) {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("{} can't be read by {}", project.name, self.config.user),
            )
            .with_hint(
                "mounting a project takes the role developer; one of its admins can grant it",
            ));
        }
        Ok(())
    }

    /// The tree that shows a project with its files.
    pub fn namespace(&self, project: &Project, files: &Storage) -> Arc<Namespace> {
        let secrets = SecretsTree::new(self.catalog.clone(), project.clone());
        let shelf =
            |kind, open| Part::Shelf(Shelf::new(self.catalog.clone(), project.clone(), kind, open));
        let parts = vec![
            ("checkpoints", shelf(Kind::Checkpoint, self.open_versions())),
            ("datasets", shelf(Kind::Dataset, self.open_versions())),
            ("files", Part::Tree(files.tree().clone())),
            ("s3", shelf(Kind::S3, self.open_buckets())),
            ("secrets", Part::Tree(Arc::new(secrets))),
        ];
        Arc::new(Namespace::new(project, parts))
    }

    fn open_versions(&self) -> OpenResource {
        let workspace = self.clone();
        Arc::new(move |resource, version| {
            let workspace = workspace.clone();
            async move {
                let version = version.ok_or_else(|| {
                    let message = format!("{} {} has no version", resource.kind, resource.name);
                    Error::new(ErrorKind::NotFound, message)
                })?;
                let name = format!("{} {}@{}", resource.kind, resource.name, version.number);
                let version = workspace.open_version(&version).await?;
                Ok(Arc::new(SnapshotTree::named(version, name)) as Arc<dyn Tree>)
            }
            .boxed()
        })
    }

    fn open_buckets(&self) -> OpenResource {
        let workspace = self.clone();
        Arc::new(move |resource, _| {
            let workspace = workspace.clone();
            async move {
                let connection = Connection::from_spec(&resource.spec)?;
                let limits = Limits::within(workspace.serving.deadline);
                let store = workspace.bucket(Keys::Behind(&resource), connection, limits).await;
                // Whatever is wrong with the key, the bucket is there and can't be read.
                let store = store.map_err(|error| {
                    let message = format!("S3 connection {} can't be opened", resource.name);
                    Error::new(ErrorKind::PermissionDenied, message).with_source(error)
                })?;
                let (blocks, ttl) = (workspace.blocks.clone(), workspace.serving.metadata_ttl);
                let address = store.address();
                let tree = BucketTree::new(Arc::new(store), blocks, address, ttl);
                Ok(Arc::new(tree) as Arc<dyn Tree>)
            }
            .boxed()
        })
    }
}

/// The blocks on disk, unless none are wanted or none can be kept: a mount works without them.
fn open_disk_cache(serving: &Serving, metrics: Arc<Metrics>) -> Option<DiskCache> {
    if matches!(serving.cache_size, CacheSize::Bytes(0) | CacheSize::Percent(0)) {
        return None;
    }
    DiskCache::open(&serving.cache_dir, serving.cache_size, metrics)
        .inspect_err(|error| tracing::warn!("nothing is kept on disk: {error:?}"))
        .ok()
}

/// How much of the listings of versions is kept, in bytes: what a million files have, in the memory
/// that a mount has by default.
fn pages_budget(memory: u64) -> usize {
    usize::try_from(memory / 4).unwrap_or(usize::MAX).clamp(8 << 20, 128 << 20)
}
