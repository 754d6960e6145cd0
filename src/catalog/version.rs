//! Versions of datasets and checkpoints, and which checkpoints are kept.

use serde_json::Value;
use sqlx::AnyConnection;

use super::access::taken;
use super::database::{damaged, failed, field, now};
use super::model::{
    Id, Kind, NewResource, NewVersion, Project, Resource, Role, Version, VersionChange,
};
use super::resource::{self, insert, own, shown, store};
use super::{Catalog, Writer, commit, content, name, query, room};
use crate::error::{Error, ErrorKind, Result};

/// How many checkpoints a project keeps that aren't pinned; one more drops the oldest.
const MAX_REGULAR: usize = 10;
/// How many checkpoints of a project can be pinned; one more is refused.
const MAX_PINNED: usize = 10;

impl Catalog {
    /// Records a version, and with it the dataset or checkpoint if that isn't there yet, in one
    /// transaction. A description that isn't empty and a spec that isn't null replace those of a
    /// dataset that is there. The eleventh regular checkpoint drops the oldest, but not the one
    /// that its spec names as `before`: the one that is about to be applied. A checkpoint whose
    /// spec has a `pinned_name` is pinned.
    ///
    /// # Errors
    /// `StorageFull` for one pinned checkpoint too many, `AlreadyExists` for its name;
    /// `InvalidInput` for a name, or a kind that has no versions; `AlreadyExists` for a
    /// checkpoint, which has just one; `PermissionDenied` below Developer; `StaleHandle` when
    /// something that the version needs isn't in the content store any more.
    pub async fn publish_version(
        &self,
        project: &Project,
        new: NewResource,
        version: NewVersion,
    ) -> Result<(Resource, Version)> {
        self.publish_for(None, project, new, version).await
    }

    /// Does so for a writer, once, and ends him.
    pub(super) async fn publish_for(
        &self,
        writer: Option<&Writer>,
        project: &Project,
        new: NewResource,
        version: NewVersion,
    ) -> Result<(Resource, Version)> {
        if !matches!(new.kind, Kind::Dataset | Kind::Checkpoint) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{} {} can't have versions", new.kind, new.name),
            ));
        }
        let mut db = self.write().await?;
        self.require(&mut db, project, Role::Developer).await?;
        if let Some(done) = published_by(&mut db, writer).await? {
            return Ok(done);
        }
        content::advance(&mut db).await?;
        if let Some(writer) = writer {
            writer.note_durable(&mut db).await?;
        }
        content::need(&mut db, &version.root, &version.needs).await?;
        let found = own(&mut db, &project.id, new.kind, &new.name).await?;
        let resource = match found {
            None => {
                room::check_active(&mut db, &project.id, new.kind).await?;
                insert(&mut db, project, self.user(), &new).await?
            }
            Some(_) if new.kind == Kind::Checkpoint => {
                return Err(taken("checkpoint", format!("{} of {}", new.name, project.name)));
            }
            Some(mut resource) => {
                if !new.description.is_empty() {
                    name::check_description(&new.description)?;
                    resource.description = new.description;
                }
                if !new.spec.is_null() {
                    resource.spec = new.spec;
                }
                store(&mut db, &resource).await?
            }
        };
        let number = count(
            &mut db,
            "UPDATE resource SET versions = versions + 1 WHERE id = $1 \
                                     RETURNING versions AS count",
            &resource.id,
        )
        .await?;
        sqlx::query(
            "INSERT INTO version (resource, number, root, files, bytes, active, spec, creator, \
             created, writer) VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $8, $9)",
        )
        .bind(resource.id.as_str())
        .bind(number)
        .bind(&version.root)
        .bind(stored(version.files)?)
        .bind(stored(version.bytes)?)
        .bind(version.spec.to_string())
        .bind(self.user())
        .bind(now())
        .bind(writer.map(Writer::id))
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        if resource.kind == Kind::Checkpoint {
            if let Some(name) = resource.pinned_name() {
                check_pin(&mut db, project, Some(&resource.id), name).await?;
            }
            drop_oldest(&mut db, project, &resource).await?;
        }
        let made = find(&mut db, &resource, number).await?;
        if let Some(writer) = writer {
            writer.give_back(&mut db).await?;
        }
        commit(db).await?;
        Ok((resource, made))
    }

    /// The versions of a dataset or checkpoint, oldest first.
    ///
    /// # Errors
    /// `NotFound` where the user may not know of the resource.
    pub async fn versions(&self, resource: &Id) -> Result<Vec<Version>> {
        let mut db = self.read().await?;
        self.find_readable(&mut db, resource).await?;
        all(&mut db, resource).await
    }

    /// One version of a dataset or checkpoint.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn version(&self, resource: &Id, number: u32) -> Result<Version> {
        let mut db = self.read().await?;
        let resource = self.find_readable(&mut db, resource).await?;
        find(&mut db, &resource, i64::from(number)).await
    }

    /// The version that shows under the resource's name: the newest active one, if any.
    ///
    /// # Errors
    /// `NotFound` where the user may not know of the resource.
    pub async fn newest_version(&self, resource: &Id) -> Result<Option<Version>> {
        let versions = self.versions(resource).await?;
        Ok(versions.into_iter().rev().find(|version| version.active))
    }

    /// Changes what can change of a version: whether it is active, and its spec.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` below Developer of the project that owns it.
    pub async fn update_version(
        &self,
        resource: &Id,
        number: u32,
        change: VersionChange,
    ) -> Result<Version> {
        let mut db = self.write().await?;
        let resource = self.find_own(&mut db, resource).await?;
        let version = find(&mut db, &resource, i64::from(number)).await?;
        sqlx::query(
            "UPDATE version SET active = $3, spec = $4 WHERE resource = $1 AND number = $2",
        )
        .bind(resource.id.as_str())
        .bind(i64::from(number))
        .bind(i64::from(change.active.unwrap_or(version.active)))
        .bind(change.spec.unwrap_or(version.spec).to_string())
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        store(&mut db, &resource).await?;
        let changed = find(&mut db, &resource, i64::from(number)).await?;
        commit(db).await?;
        Ok(changed)
    }

    /// Deletes one of several versions; the last one goes with its resource.
    ///
    /// # Errors
    /// `NotFound`; `ResourceBusy` for the only one, for the one that shows under an active dataset's
    /// name, and where the resource is published or used; `PermissionDenied` below Developer of the project that owns it.
    pub async fn delete_version(&self, resource: &Id, number: u32) -> Result<()> {
        let mut db = self.write().await?;
        let resource = self.find_own(&mut db, resource).await?;
        let Resource { kind, name, .. } = &resource;
        find(&mut db, &resource, i64::from(number)).await?;
        let uses = resource::uses(&mut db, &resource.id).await?;
        if !uses.is_empty() {
            return Err(Error::new(
                ErrorKind::ResourceBusy,
                format!("{kind} {name}@{number} is in use: {uses}"),
            ));
        }
        let versions = all(&mut db, &resource.id).await?;
        if versions.len() == 1 {
            return Err(Error::new(
                ErrorKind::ResourceBusy,
                format!("{name}@{number} is the only version of {kind} {name}"),
            )
            .with_hint(format!("`atelier {kind} delete {name}` deletes all of it")));
        }
        let newest = versions.iter().rev().find(|version| version.active);
        if resource.active && newest.is_some_and(|newest| newest.number == number) {
            let message = format!("{name}@{number} is active: it shows as {name}");
            return Err(Error::new(ErrorKind::ResourceBusy, message)
                .with_hint(format!("`atelier {kind} deactivate {name}@{number}` first")));
        }
        sqlx::query("DELETE FROM version WHERE resource = $1 AND number = $2")
            .bind(resource.id.as_str())
            .bind(i64::from(number))
            .execute(&mut *db)
            .await
            .map_err(failed)?;
        store(&mut db, &resource).await?;
        commit(db).await
    }

    /// Takes the number of the project's next checkpoint. Numbers count from 1 and are never
    /// used twice; one that is taken and then not published stays unused. As a name it has four
    /// digits or more, see [`checkpoint_name`].
    ///
    /// # Errors
    /// `PermissionDenied` below Developer.
    pub async fn next_checkpoint_number(&self, project: &Project) -> Result<u32> {
        let mut db = self.write().await?;
        self.require(&mut db, project, Role::Developer).await?;
        let number = count(
            &mut db,
            "UPDATE project SET checkpoints = checkpoints + 1 WHERE id = $1 \
                                     RETURNING checkpoints AS count",
            &project.id,
        )
        .await?;
        commit(db).await?;
        u32::try_from(number).map_err(|error| damaged("a checkpoint's number", error))
    }

    /// Pins one of the project's own checkpoints under a name, so that it is kept and can be
    /// published; a second name replaces the first.
    ///
    /// # Errors
    /// `InvalidInput` for the name; `AlreadyExists` where another checkpoint has it;
    /// `StorageFull` for one pinned checkpoint too many.
    pub async fn pin(&self, project: &Project, checkpoint: &Id, name: &str) -> Result<Resource> {
        let mut db = self.write().await?;
        let mut resource = self.find_own(&mut db, checkpoint).await?;
        check_pin(&mut db, project, Some(&resource.id), name).await?;
        set_pinned_name(&mut resource, Some(name))?;
        let pinned = store(&mut db, &resource).await?;
        commit(db).await?;
        Ok(pinned)
    }

    /// Whether a new checkpoint could be pinned under a name now; making it decides.
    ///
    /// # Errors
    /// As [`pin`](Self::pin) has them.
    pub async fn check_pin(&self, project: &Project, name: &str) -> Result<()> {
        check_pin(&mut *self.read().await?, project, None, name).await
    }

    /// Makes a pinned checkpoint a regular one; the next one that is made may drop it.
    ///
    /// # Errors
    /// `ResourceBusy` where it is published or used; `PermissionDenied` below Developer.
    pub async fn unpin(&self, checkpoint: &Id) -> Result<Resource> {
        let mut db = self.write().await?;
        let mut resource = self.find_own(&mut db, checkpoint).await?;
        let uses = resource::uses(&mut db, &resource.id).await?;
        if !uses.is_empty() {
            return Err(Error::new(
                ErrorKind::ResourceBusy,
                format!("checkpoint {} is in use: {uses}", resource.name),
            ));
        }
        set_pinned_name(&mut resource, None)?;
        let changed = store(&mut db, &resource).await?;
        commit(db).await?;
        Ok(changed)
    }

    /// The roots of all versions in the catalogue, whoever owns them: what the content store
    /// has to keep.
    pub async fn roots(&self) -> Result<Vec<String>> {
        let rows = sqlx::query("SELECT DISTINCT root FROM version ORDER BY root")
            .fetch_all(&mut *self.read().await?)
            .await
            .map_err(failed)?;
        rows.iter().map(|row| field(row, "root")).collect()
    }
}

/// The name of the checkpoint with a number: four digits or more.
pub fn checkpoint_name(number: u32) -> String {
    format!("{number:04}")
}

/// The project's own checkpoints, oldest first.
async fn checkpoints(db: &mut AnyConnection, project: &Project) -> Result<Vec<Resource>> {
    let all = shown(db, &project.id, Kind::Checkpoint).await?;
    Ok(all.into_iter().filter(|shown| !shown.added).map(|shown| shown.resource).collect())
}

/// Drops the oldest regular checkpoints. Only pinned ones can be published, so nobody uses them.
async fn drop_oldest(db: &mut AnyConnection, project: &Project, newest: &Resource) -> Result<()> {
    let mut regular = checkpoints(db, project).await?;
    regular.retain(|checkpoint| checkpoint.pinned_name().is_none());
    let surplus = regular.len().saturating_sub(MAX_REGULAR);
    for oldest in regular.iter().take(surplus) {
        if newest.spec.get("before").and_then(Value::as_str) == Some(&oldest.name) {
            continue;
        }
        resource::remove(db, &oldest.id).await?;
    }
    Ok(())
}

/// Checks that a checkpoint of a project can be pinned under a name.
async fn check_pin(
    db: &mut AnyConnection,
    project: &Project,
    checkpoint: Option<&Id>,
    name: &str,
) -> Result<()> {
    name::check_pin(name)?;
    let mut others = checkpoints(db, project).await?;
    others.retain(|other| Some(&other.id) != checkpoint && other.pinned_name().is_some());
    if others.iter().any(|other| other.pinned_name() == Some(name)) {
        return Err(taken("pinned checkpoint", format!("{name} of {}", project.name)));
    }
    if others.len() >= MAX_PINNED {
        return Err(Error::new(
            ErrorKind::StorageFull,
            format!("{} has {MAX_PINNED} pinned checkpoints, the most there can be", project.name),
        )
        .with_hint("`atelier checkpoint unpin` one of them first"));
    }
    Ok(())
}

fn set_pinned_name(checkpoint: &mut Resource, name: Option<&str>) -> Result<()> {
    if checkpoint.kind != Kind::Checkpoint {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{} {} is no checkpoint", checkpoint.kind, checkpoint.name),
        ));
    }
    if checkpoint.spec.is_null() {
        checkpoint.spec = Value::Object(serde_json::Map::new());
    }
    if let Some(spec) = checkpoint.spec.as_object_mut() {
        match name {
            Some(name) => spec.insert("pinned_name".to_owned(), name.into()),
            None => spec.remove("pinned_name"),
        };
    }
    Ok(())
}

/// What a writer has published already: he was asked before, and didn't learn that he was heard.
async fn published_by(
    db: &mut AnyConnection,
    writer: Option<&Writer>,
) -> Result<Option<(Resource, Version)>> {
    let Some(writer) = writer else { return Ok(None) };
    let row = sqlx::query("SELECT * FROM version WHERE writer = $1")
        .bind(writer.id())
        .fetch_optional(&mut *db)
        .await
        .map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    let version = query::version(&row)?;
    Ok(Some((resource::by_id(db, &version.resource).await?, version)))
}

async fn all(db: &mut AnyConnection, resource: &Id) -> Result<Vec<Version>> {
    let rows = sqlx::query("SELECT * FROM version WHERE resource = $1 ORDER BY number")
        .bind(resource.as_str())
        .fetch_all(db)
        .await
        .map_err(failed)?;
    rows.iter().map(query::version).collect()
}

pub(super) async fn find(
    db: &mut AnyConnection,
    resource: &Resource,
    number: i64,
) -> Result<Version> {
    let row = sqlx::query("SELECT * FROM version WHERE resource = $1 AND number = $2")
        .bind(resource.id.as_str())
        .bind(number)
        .fetch_optional(db)
        .await
        .map_err(failed)?;
    let Resource { kind, name, .. } = resource;
    let row = row.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("{kind} {name} has no version {number}"))
            .with_hint(format!("`atelier {kind} log {name}` shows those it has"))
    })?;
    query::version(&row)
}

/// Counts something up and returns what it counted to, as `count`.
async fn count(db: &mut AnyConnection, statement: &'static str, id: &Id) -> Result<i64> {
    let row = sqlx::query(statement).bind(id.as_str()).fetch_one(db).await.map_err(failed)?;
    field(&row, "count")
}

fn stored(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|error| {
        Error::new(ErrorKind::InvalidInput, "a version can't be that large").with_source(error)
    })
}
