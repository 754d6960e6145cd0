//! The router: one tree for a whole project, made of the trees of its resources.
//!
//! `Namespace::resolve` answers "this tree, and the path left over"; every operation goes
//! there. What the namespace serves itself are the directories above the resources, whose entries
//! come from the catalogue and so change while the project is mounted.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};

use super::{
    Attr, ContentVersion, Entry, File, FileType, NewNode, OpenMode, Opened, RenameMode, SetAttr,
    Space, Tree, XattrMode,
};
use crate::catalog::Project;
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;

mod label;
mod shelf;

pub use label::Label;
pub use shelf::{Found, OnShelf, OpenResource, Shelf};

/// How long the kernel may keep an entry that comes from the catalogue: what changes there shows
/// in a live mount within this time and `shelf::FRESH` together, which is under a second.
pub const TTL: Duration = Duration::from_millis(400);

/// One tree for a whole project.
#[derive(Clone)]
pub struct Namespace {
    parts: Arc<[(&'static str, Part)]>,
    label: Arc<Label>,
    mounted: SystemTime,
}

/// What a name in the project's directory leads to.
pub enum Part {
    /// A tree that is always there.
    Tree(Arc<dyn Tree>),
    /// A directory of resources.
    Shelf(Shelf),
}

/// Where a path leads.
enum Place {
    /// To a directory of the namespace itself: the project, or one of its shelves.
    Project,
    Shelf(Shelf),
    /// To a symbolic link on a shelf.
    Link(Bytes, SystemTime),
    /// To the root of a resource.
    Resource(OnShelf),
    /// Into a tree.
    Inside(Inside),
}

struct Inside {
    tree: Arc<dyn Tree>,
    path: TreePath,
    /// The resource that the tree belongs to; none for the project's storage.
    label: Option<Arc<Label>>,
}

impl Namespace {
    /// Joins the parts of a project into one tree; each shows under its name.
    pub fn new(project: &Project, parts: Vec<(&'static str, Part)>) -> Self {
        Self {
            parts: parts.into(),
            label: Arc::new(Label::of_project(project)),
            mounted: SystemTime::now(),
        }
    }

    /// The shelves of versions, which never change, each with its name.
    pub fn versions(&self) -> impl Iterator<Item = (&'static str, Shelf)> {
        self.parts.iter().filter_map(|(name, part)| match part {
            Part::Shelf(shelf) if shelf.has_versions() => Some((*name, shelf.clone())),
            _ => None,
        })
    }

    async fn resolve(&self, path: &TreePath) -> Result<Place> {
        let Some((first, rest)) = path.split_first() else {
            return Ok(Place::Project);
        };
        let part = self.parts.iter().find(|(name, _)| name.as_bytes() == &first[..]);
        match part {
            None => Err(missing(path)),
            Some((_, Part::Tree(tree))) => {
                Ok(Place::Inside(Inside { tree: tree.clone(), path: rest, label: None }))
            }
            Some((_, Part::Shelf(shelf))) => {
                let Some((name, below)) = rest.split_first() else {
                    return Ok(Place::Shelf(shelf.clone()));
                };
                match shelf.find(&name).await?.ok_or_else(|| missing(path))? {
                    Found::Link { target, created } if below.is_root() => {
                        Ok(Place::Link(target, created))
                    }
                    Found::Link { .. } => Err(Error::new(
                        ErrorKind::NotADirectory,
                        format!("{path} leads over a link"),
                    )),
                    Found::Resource(resource) if below.is_root() => Ok(Place::Resource(resource)),
                    Found::Resource(resource) => Ok(Place::Inside(resource.enter(below).await?)),
                }
            }
        }
    }

    /// The tree behind a path, for operations that no directory of the namespace itself takes.
    async fn inside(&self, path: &TreePath) -> Result<Inside> {
        match self.resolve(path).await {
            Ok(Place::Inside(inside)) => Ok(inside),
            Ok(Place::Resource(_) | Place::Project | Place::Shelf(_) | Place::Link(..)) => {
                Err(fixed(path))
            }
            // A new name beside the parts or on a shelf: nobody may make one there.
            Err(error) if error.kind() == ErrorKind::NotFound && self.is_fixed(path) => {
                Err(fixed(path))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the directory of `path` is the project's or a shelf.
    fn is_fixed(&self, path: &TreePath) -> bool {
        let names: Vec<_> = path.names().take(3).collect();
        match names[..] {
            [_] => true,
            [first, _] => self
                .parts
                .iter()
                .any(|(name, part)| name.as_bytes() == first && matches!(part, Part::Shelf(_))),
            _ => false,
        }
    }

    /// The one tree behind both paths.
    async fn pair(&self, from: &TreePath, to: &TreePath) -> Result<(Inside, TreePath)> {
        let (from, to) = (self.inside(from).await?, self.inside(to).await?);
        if !Arc::ptr_eq(&from.tree, &to.tree) {
            return Err(Error::new(
                ErrorKind::CrossesDevices,
                format!("{} and {} are parts of different resources", from.path, to.path),
            ));
        }
        Ok((from, to.path))
    }

    async fn entries(self, dir: TreePath) -> Result<BoxStream<'static, Result<Entry>>> {
        match self.resolve(&dir).await? {
            Place::Inside(inside) => Ok(inside.tree.list(&inside.path)),
            Place::Resource(resource) => {
                let root = resource.enter(TreePath::root()).await?;
                Ok(root.tree.list(&root.path))
            }
            Place::Link(..) => {
                Err(Error::new(ErrorKind::NotADirectory, format!("{dir} is a symbolic link")))
            }
            Place::Project => {
                let mut entries = Vec::new();
                for (name, _) in self.parts.iter() {
                    let attr = self.stat(&TreePath::root().join(name)?).await?;
                    entries.push(Ok(Entry { name: Bytes::from_static(name.as_bytes()), attr }));
                }
                Ok(stream::iter(entries).boxed())
            }
            Place::Shelf(shelf) => {
                let mut entries = Vec::new();
                for name in shelf.names().await? {
                    match self.stat(&dir.join(&name)?).await {
                        Ok(attr) => entries.push(Ok(Entry { name, attr })),
                        // Gone since it was listed.
                        Err(error) if error.kind() == ErrorKind::NotFound => {}
                        Err(error) => entries.push(Err(error)),
                    }
                }
                Ok(stream::iter(entries).boxed())
            }
        }
    }
}

#[async_trait]
impl Tree for Namespace {
    async fn stat(&self, path: &TreePath) -> Result<Attr> {
        match self.resolve(path).await? {
            Place::Project | Place::Shelf(_) => Ok(Attr::dir(self.mounted, TTL)),
            Place::Link(target, created) => Ok(Attr {
                version: Some(ContentVersion::of(&target)),
                ..Attr::symlink(target.len() as u64, created, TTL)
            }),
            Place::Resource(resource) => Ok(resource.attr(TTL)),
            Place::Inside(inside) => inside.tree.stat(&inside.path).await,
        }
    }

    fn list(&self, dir: &TreePath) -> BoxStream<'static, Result<Entry>> {
        stream::once(self.clone().entries(dir.clone())).try_flatten().boxed()
    }

    async fn open(&self, path: &TreePath, mode: OpenMode) -> Result<Arc<dyn File>> {
        match self.resolve(path).await? {
            Place::Inside(inside) => inside.tree.open(&inside.path, mode).await,
            Place::Link(..) => {
                Err(Error::new(ErrorKind::FilesystemLoop, format!("{path} is a symbolic link")))
            }
            Place::Project | Place::Shelf(_) | Place::Resource(_) => {
                Err(Error::new(ErrorKind::IsADirectory, format!("{path} is a directory")))
            }
        }
    }

    async fn create(&self, path: &TreePath, new: NewNode, mode: OpenMode) -> Result<Opened> {
        let inside = self.inside(path).await?;
        inside.tree.create(&inside.path, new, mode).await
    }

    async fn create_dir(&self, path: &TreePath, new: NewNode) -> Result<Attr> {
        let inside = self.inside(path).await?;
        inside.tree.create_dir(&inside.path, new).await
    }

    async fn create_node(
        &self,
        path: &TreePath,
        new: NewNode,
        file_type: FileType,
        rdev: u64,
    ) -> Result<Attr> {
        let inside = self.inside(path).await?;
        inside.tree.create_node(&inside.path, new, file_type, rdev).await
    }

    async fn symlink(&self, path: &TreePath, target: &[u8], new: NewNode) -> Result<Attr> {
        let inside = self.inside(path).await?;
        inside.tree.symlink(&inside.path, target, new).await
    }

    async fn link(&self, path: &TreePath, new_path: &TreePath) -> Result<Attr> {
        let (from, to) = self.pair(path, new_path).await?;
        from.tree.link(&from.path, &to).await
    }

    async fn remove_file(&self, path: &TreePath) -> Result<()> {
        let inside = self.inside(path).await?;
        inside.tree.remove_file(&inside.path).await
    }

    async fn remove_dir(&self, path: &TreePath) -> Result<()> {
        let inside = self.inside(path).await?;
        if inside.path.is_root() {
            return Err(fixed(path));
        }
        inside.tree.remove_dir(&inside.path).await
    }

    async fn rename(&self, from: &TreePath, to: &TreePath, mode: RenameMode) -> Result<()> {
        let (inside, target) = self.pair(from, to).await?;
        if inside.path.is_root() || target.is_root() {
            return Err(fixed(from));
        }
        inside.tree.rename(&inside.path, &target, mode).await
    }

    async fn set_attr(&self, path: &TreePath, changes: SetAttr) -> Result<Attr> {
        let inside = self.inside(path).await?;
        inside.tree.set_attr(&inside.path, changes).await
    }

    async fn read_link(&self, path: &TreePath) -> Result<Bytes> {
        match self.resolve(path).await? {
            Place::Link(target, _) => Ok(target),
            Place::Inside(inside) => inside.tree.read_link(&inside.path).await,
            Place::Project | Place::Shelf(_) | Place::Resource(_) => {
                Err(Error::new(ErrorKind::InvalidInput, format!("{path} is a directory")))
            }
        }
    }

    async fn xattr(&self, path: &TreePath, name: &[u8]) -> Result<Bytes> {
        let (own, inside) = match self.resolve(path).await? {
            Place::Project => (Some(self.label.clone()), None),
            Place::Shelf(_) | Place::Link(..) => (None, None),
            Place::Resource(resource) => (Some(resource.label), None),
            Place::Inside(inside) => (inside.label.clone(), Some(inside)),
        };
        if let Some(value) = own.and_then(|label| label.value(name)) {
            return Ok(value);
        }
        if let Some(inside) = inside {
            return inside.tree.xattr(&inside.path, name).await;
        }
        let name = name.escape_ascii();
        Err(Error::new(ErrorKind::NoAttribute, format!("{path} has no attribute {name}")))
    }

    async fn xattrs(&self, path: &TreePath) -> Result<Vec<Bytes>> {
        Ok(match self.resolve(path).await? {
            Place::Project => self.label.names(),
            Place::Shelf(_) | Place::Link(..) => Vec::new(),
            Place::Resource(resource) => resource.label.names(),
            Place::Inside(inside) => {
                let mut names = inside.label.as_ref().map_or_else(Vec::new, |label| label.names());
                names.extend(inside.tree.xattrs(&inside.path).await?);
                names
            }
        })
    }

    async fn set_xattr(
        &self,
        path: &TreePath,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        let inside = self.inside(path).await?;
        inside.tree.set_xattr(&inside.path, name, value, mode).await
    }

    async fn remove_xattr(&self, path: &TreePath, name: &[u8]) -> Result<()> {
        let inside = self.inside(path).await?;
        inside.tree.remove_xattr(&inside.path, name).await
    }

    async fn sync_dir(&self, dir: &TreePath) -> Result<()> {
        match self.resolve(dir).await? {
            Place::Inside(inside) => inside.tree.sync_dir(&inside.path).await,
            _ => Ok(()),
        }
    }

    /// The room below `files/`, wherever it is asked for: the rest of the project takes none.
    async fn space(&self, path: &TreePath) -> Result<Space> {
        for (_, part) in self.parts.iter() {
            if let Part::Tree(tree) = part {
                return tree.space(&TreePath::root()).await;
            }
        }
        Err(missing(path))
    }
}

fn missing(path: &TreePath) -> Error {
    Error::new(ErrorKind::NotFound, format!("{path} isn't there"))
}

fn fixed(path: &TreePath) -> Error {
    Error::new(ErrorKind::ReadOnlyFilesystem, format!("{path} is made by the catalogue"))
}
