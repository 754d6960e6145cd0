//! A directory whose entries are resources of one kind, as the catalogue has them now.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lru::LruCache;
use tokio::sync::OnceCell;

use super::{Inside, label::Label};
use crate::catalog::{Catalog, Id, Kind, Project, Resource, Shown, Version};
use crate::error::{ErrorKind, Result};
use crate::path::TreePath;
use crate::tree::{Attr, Tree};

/// How long the catalogue's answer is used before it is asked again.
pub(super) const FRESH: Duration = Duration::from_millis(400);

/// How many trees of resources are kept open.
const OPEN_TREES: NonZeroUsize = NonZeroUsize::new(256).expect("256 isn't 0");

/// Opens the tree of a resource: of a version, where its kind has versions.
pub type OpenResource = Arc<
    dyn Fn(Resource, Option<Version>) -> BoxFuture<'static, Result<Arc<dyn Tree>>> + Send + Sync,
>;

/// A directory whose entries are the resources of one kind.
#[derive(Clone)]
pub struct Shelf(Arc<Inner>);

struct Inner {
    kind: Kind,
    catalog: Catalog,
    project: Project,
    open: OpenResource,
    /// Guards the last answer of the catalogue; never held while it is asked.
    slots: Mutex<Option<Answer>>,
    /// Guards the open trees; never held while one is opened. Never taken together with `slots`.
    trees: Mutex<LruCache<TreeKey, OpenTree>>,
}

/// An answer of the catalogue.
#[derive(Clone)]
struct Answer {
    asked: Instant,
    slots: Arc<[Slot]>,
    /// When it was first given.
    changed: SystemTime,
}

/// An open tree belongs to a version, or to a resource as it was last changed.
type TreeKey = (String, Option<u32>, jiff::Timestamp);

/// A tree, or the place where it will be once it is open: whoever else asks waits for it.
type OpenTree = Arc<OnceCell<Arc<dyn Tree>>>;

/// A name on the shelf.
#[derive(Clone, PartialEq)]
enum Slot {
    Resource(Arc<Held>),
    Link { name: String, target: String, created: SystemTime },
}

/// A resource under a name.
#[derive(PartialEq)]
struct Held {
    name: String,
    resource: Resource,
    version: Option<Version>,
}

/// What a name on a shelf leads to.
pub enum Found {
    /// A symbolic link.
    Link {
        /// What it holds.
        target: Bytes,
        /// When it was made.
        created: SystemTime,
    },
    /// A resource.
    Resource(OnShelf),
}

/// A resource under the name by which it was found.
///
/// It describes itself without being opened, so that a listing costs nothing and one bucket that
/// can't be reached doesn't hide the others.
pub struct OnShelf {
    shelf: Shelf,
    held: Arc<Held>,
    /// What it tells of itself.
    pub label: Arc<Label>,
}

impl OnShelf {
    /// The attributes of its root, which may be cached for `ttl`: the name may lead to another
    /// version then, which is another node.
    pub fn attr(&self, ttl: Duration) -> Attr {
        let Held { resource, version, .. } = &*self.held;
        let modified = version.as_ref().map_or(resource.modified, |version| version.created);
        Attr { identity: Some(self.label.identity()), ..Attr::dir(system_time(modified), ttl) }
    }

    /// Tells it from every other resource, version or name on the shelf.
    pub fn key(&self) -> String {
        let Held { name, resource, version } = &*self.held;
        let version = version.as_ref().map_or_else(String::new, |version| {
            format!("{}@{} of {}", version.root, version.number, version.created)
        });
        format!("{name}/{}/{version}", resource.id)
    }

    /// Opens its tree, or gives the open one.
    ///
    /// # Errors
    /// Those of opening it.
    pub async fn open(&self) -> Result<Arc<dyn Tree>> {
        self.shelf.tree(&self.held).await
    }

    /// Opens its tree to go to `path` there.
    pub(super) async fn enter(self, path: TreePath) -> Result<Inside> {
        let tree = self.shelf.tree(&self.held).await?;
        Ok(Inside { tree, path, label: Some(self.label) })
    }
}

impl Shelf {
    /// A shelf of the project's resources of one kind, opened by `open`.
    pub fn new(catalog: Catalog, project: Project, kind: Kind, open: OpenResource) -> Self {
        let trees = Mutex::new(LruCache::new(OPEN_TREES));
        Self(Arc::new(Inner { kind, catalog, project, open, slots: Mutex::new(None), trees }))
    }

    /// Whether its resources have versions, which never change.
    pub fn has_versions(&self) -> bool {
        matches!(self.0.kind, Kind::Dataset | Kind::Checkpoint)
    }

    /// When what is on it was last seen to change.
    ///
    /// # Errors
    /// Those of the catalogue.
    pub async fn changed(&self) -> Result<SystemTime> {
        Ok(self.answer().await?.changed)
    }

    /// The names that are listed.
    ///
    /// # Errors
    /// Those of the catalogue.
    pub async fn names(&self) -> Result<Vec<Bytes>> {
        let slots = self.answer().await?.slots;
        Ok(slots.iter().map(|slot| Bytes::from(slot.name().to_owned())).collect())
    }

    /// What a name leads to: one that is listed, or `<name>@<version>`, or `<name>@<tag>`.
    ///
    /// # Errors
    /// Those of the catalogue.
    pub async fn find(&self, name: &[u8]) -> Result<Option<Found>> {
        let Ok(name) = std::str::from_utf8(name) else {
            return Ok(None);
        };
        let slots = self.answer().await?.slots;
        let slot = match slots.iter().find(|slot| slot.name() == name) {
            Some(slot) => Some(slot.clone()),
            None => self.at_version(&slots, name).await?,
        };
        match slot {
            None => Ok(None),
            Some(Slot::Link { target, created, .. }) => {
                Ok(Some(Found::Link { target: target.into(), created }))
            }
            Some(Slot::Resource(held)) => {
                let Held { name, resource, version } = &*held;
                let label = Arc::new(Label::of_resource(name, resource, version.as_ref()));
                Ok(Some(Found::Resource(OnShelf { shelf: self.clone(), held, label })))
            }
        }
    }

    async fn at_version(&self, slots: &[Slot], name: &str) -> Result<Option<Slot>> {
        let Some((base, version)) = name.rsplit_once('@') else {
            return Ok(None);
        };
        let newest = slots.iter().find_map(|slot| match slot {
            Slot::Resource(held) if held.name == base && held.version.is_some() => Some(held),
            _ => None,
        });
        let Some(Held { resource, .. }) = newest.map(AsRef::as_ref) else {
            return Ok(None);
        };
        let number = match version.parse::<u32>() {
            // Only as it is written: `photos@07` would be a second name of one version.
            Ok(number) => Some(number).filter(|number| number.to_string() == version),
            Err(_) => self.0.catalog.tagged(&resource.id, version).await?,
        };
        let Some(number) = number else { return Ok(None) };
        match self.0.catalog.version(&resource.id, number).await {
            Ok(version) => Ok(Some(Slot::Resource(Arc::new(Held {
                name: name.to_owned(),
                resource: resource.clone(),
                version: Some(version),
            })))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn tree(&self, held: &Held) -> Result<Arc<dyn Tree>> {
        let Held { resource, version, .. } = held;
        let changed = version.as_ref().map_or(resource.modified, |version| version.created);
        let key = (resource.id.to_string(), version.as_ref().map(|v| v.number), changed);
        let cell = {
            let mut trees = self.0.trees.lock().unwrap_or_else(PoisonError::into_inner);
            trees.get_or_insert(key, || Arc::new(OnceCell::new())).clone()
        };
        cell.get_or_try_init(|| (self.0.open)(resource.clone(), version.clone())).await.cloned()
    }

    async fn answer(&self) -> Result<Answer> {
        let now = Instant::now();
        if let Some(answer) = &*self.last()
            && now.duration_since(answer.asked) < FRESH
        {
            return Ok(answer.clone());
        }
        let slots: Arc<[Slot]> = self.ask().await?.into();
        let mut last = self.last();
        let changed = match &*last {
            Some(before) if before.slots == slots => before.changed,
            _ => SystemTime::now(),
        };
        Ok(last.insert(Answer { asked: now, slots, changed }).clone())
    }

    fn last(&self) -> MutexGuard<'_, Option<Answer>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self) -> Result<Vec<Slot>> {
        let shown = self.0.catalog.resources(&self.0.project, self.0.kind).await?;
        let mut slots = Vec::new();
        for Shown { name, resource, .. } in shown.into_iter().filter(|shown| shown.active) {
            let version = if self.has_versions() {
                match self.0.catalog.newest_version(&resource.id).await? {
                    Some(version) => Some(version),
                    // Every version is inactive: there is nothing to show.
                    None => continue,
                }
            } else {
                None
            };
            slots.push(Slot::Resource(Arc::new(Held { name, resource, version })));
        }
        if self.0.kind == Kind::Checkpoint {
            let links = links(&slots, &self.0.project.id);
            slots.extend(links);
        }
        Ok(slots)
    }
}

/// The names of pinned checkpoints, and `latest`, which is the newest of the project's own.
fn links(checkpoints: &[Slot], project: &Id) -> Vec<Slot> {
    let mut links = Vec::new();
    for slot in checkpoints {
        let Slot::Resource(held) = slot else { continue };
        let Held { name, resource, .. } = &**held;
        if let Some(pinned) = resource.spec["pinned_name"].as_str() {
            links.push(link(pinned, name, resource));
        }
    }
    let newest = checkpoints.iter().filter_map(|slot| match slot {
        Slot::Resource(held) if held.resource.project == *project => {
            Some((held.resource.created, &held.name, &held.resource))
        }
        Slot::Resource(_) | Slot::Link { .. } => None,
    });
    if let Some((_, name, resource)) = newest.max_by_key(|(created, name, _)| (*created, *name)) {
        links.push(link("latest", name, resource));
    }
    links
}

fn link(name: &str, target: &str, resource: &Resource) -> Slot {
    Slot::Link {
        name: name.to_owned(),
        target: target.to_owned(),
        created: system_time(resource.modified),
    }
}

impl Slot {
    fn name(&self) -> &str {
        match self {
            Self::Resource(held) => &held.name,
            Self::Link { name, .. } => name,
        }
    }
}

/// The catalogue's times fit: they were taken from a clock of this kind.
fn system_time(time: jiff::Timestamp) -> SystemTime {
    SystemTime::try_from(time).unwrap_or(SystemTime::UNIX_EPOCH)
}
