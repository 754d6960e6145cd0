//! What is taken in: a directory, an archive, or the objects of a bucket.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Context;
use crate::catalog::{Kind, Project, Shown};
use crate::config::BucketUrl;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::object::s3::{Connection, Limits, S3Store};
use crate::path::TreePath;
use crate::snapshot::{Archive, Capture};
use crate::workspace::{Keys, Workspace};

/// What is taken in, once it is known to be there.
pub(super) enum Source {
    Directory(PathBuf),
    Archive(Archive),
    /// Objects, whose key nobody can read out of this process.
    Objects(S3Store),
}

impl Source {
    /// Finds what `text` names.
    ///
    /// # Errors
    /// `NotFound` when there is nothing; `InvalidInput` when it is nothing that can be taken in;
    /// `PermissionDenied` and others of opening it.
    pub(super) async fn open(
        text: &str,
        context: &Context,
        workspace: &Workspace,
        project: &Project,
    ) -> Result<Self> {
        if text == "-" {
            let input = std::io::stdin().as_fd().try_clone_to_owned();
            let input = input.context(|| "the standard input can't be read".to_owned())?;
            return Ok(Self::Archive(Archive::stream("the standard input", input.into())?));
        }
        if text.starts_with("s3://") {
            let BucketUrl { bucket, prefix, endpoint, region, path_style } = text.parse()?;
            let endpoint = endpoint.or_else(|| context.config.s3_endpoint.clone());
            let connection = Connection { bucket, prefix, endpoint, region, path_style, key: None };
            return Self::objects(workspace, Keys::Of(project), connection).await;
        }
        if let Some(place) = text.strip_prefix("s3/") {
            let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
            match workspace.catalog.shown(project, Kind::S3, name).await {
                Ok(shown) => return Self::connected(workspace, shown, prefix).await,
                // There may be a directory of that name.
                Err(error) if error.kind() == ErrorKind::NotFound && Path::new(text).exists() => {}
                Err(error) => return Err(error),
            }
        }
        let path = Path::new(text);
        let metadata = fs::metadata(path).context(|| format!("{text} can't be read"))?;
        if metadata.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        Ok(Self::Archive(Archive::open(path)?))
    }

    /// What is below a prefix of one of the project's connections.
    async fn connected(workspace: &Workspace, shown: Shown, prefix: &str) -> Result<Self> {
        let Shown { name, active, resource, .. } = shown;
        if !active {
            let message = format!("the s3 connection {name} is inactive");
            return Err(Error::new(ErrorKind::PermissionDenied, message)
                .with_hint(format!("`atelier s3 activate {name}` opens it")));
        }
        let mut connection = Connection::from_spec(&resource.spec)?.checked()?;
        connection.prefix.push_str(prefix);
        Self::objects(workspace, Keys::Behind(&resource), connection).await
    }

    async fn objects(
        workspace: &Workspace,
        keys: Keys<'_>,
        connection: Connection,
    ) -> Result<Self> {
        let store = workspace.bucket(keys, connection, Limits::default()).await?;
        store.probe().await?;
        Ok(Self::Objects(store))
    }

    /// A capture of it.
    pub(super) fn into_capture(self) -> Capture {
        match self {
            Self::Directory(path) => Capture::new().directory(TreePath::root(), path),
            Self::Archive(archive) => Capture::new().archive(archive),
            Self::Objects(store) => Capture::new().objects(Arc::new(store)),
        }
    }
}
