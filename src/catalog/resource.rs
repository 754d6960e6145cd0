//! Resources: a project's own, those that were added to it, and the names they show under.

use sqlx::AnyConnection;

use super::access::{Standing, absent, role_in_project, taken};
use super::database::{failed, field, new_id, now};
use super::model::{Id, Kind, NewResource, Project, Resource, ResourceChange, Role, Shown, Uses};
use super::name::{self, ProjectName};
use super::query::{self, select_projects, select_resources};
use super::{Catalog, commit, room};
use crate::error::{Error, ErrorKind, Result};

impl Catalog {
    /// Makes a resource; it is active at once.
    ///
    /// # Errors
    /// `InvalidInput`, `AlreadyExists`; `PermissionDenied` below Developer.
    pub async fn create_resource(&self, project: &Project, new: NewResource) -> Result<Resource> {
        let mut db = self.write().await?;
        self.require(&mut db, project, Role::Developer).await?;
        let made = insert(&mut db, project, self.user(), &new).await?;
        commit(db).await?;
        Ok(made)
    }

    /// The resources of one kind that show in a project: its own and the added ones, active or
    /// not, in the order of their names.
    ///
    /// # Errors
    /// `PermissionDenied` for who has no role on the project.
    pub async fn resources(&self, project: &Project, kind: Kind) -> Result<Vec<Shown>> {
        let mut db = self.read().await?;
        self.require(&mut db, project, Role::Viewer).await?;
        shown(&mut db, &project.id, kind).await
    }

    /// The resource that shows under a name in a project; a checkpoint also by the name it is
    /// pinned under.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` for who has no role on the project.
    pub async fn resource(&self, project: &Project, kind: Kind, name: &str) -> Result<Resource> {
        Ok(self.shown(project, kind, name).await?.resource)
    }

    /// The same with how it shows in the project.
    ///
    /// # Errors
    /// As [`Catalog::resource`].
    pub async fn shown(&self, project: &Project, kind: Kind, name: &str) -> Result<Shown> {
        find_shown(self.resources(project, kind).await?, project, kind, name)
    }

    /// Changes a resource and returns it as it is then.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` below Developer of the project that owns it.
    pub async fn update_resource(&self, id: &Id, change: ResourceChange) -> Result<Resource> {
        let mut db = self.write().await?;
        let mut resource = self.find_own(&mut db, id).await?;
        if let Some(description) = change.description {
            name::check_description(&description)?;
            resource.description = description;
        }
        resource.spec = change.spec.unwrap_or(resource.spec);
        resource.active = change.active.unwrap_or(resource.active);
        let changed = store(&mut db, &resource).await?;
        commit(db).await?;
        Ok(changed)
    }

    /// Shows or hides a resource in a project's mount, whether its own or an added one.
    ///
    /// # Errors
    /// `NotFound`; `StorageFull` for one active dataset more than the project may have;
    /// `PermissionDenied` below Developer of that project.
    pub async fn activate(
        &self,
        project: &Project,
        kind: Kind,
        name: &str,
        active: bool,
    ) -> Result<Shown> {
        let mut db = self.write().await?;
        self.require(&mut db, project, Role::Developer).await?;
        let all = shown(&mut db, &project.id, kind).await?;
        let mut found = find_shown(all, project, kind, name)?;
        if active && !found.active {
            room::check_active(&mut db, &project.id, kind).await?;
        }
        found.active = active;
        if found.added {
            sqlx::query("UPDATE addition SET active = $3 WHERE project = $1 AND resource = $2")
                .bind(project.id.as_str())
                .bind(found.resource.id.as_str())
                .bind(i64::from(active))
                .execute(&mut *db)
                .await
                .map_err(failed)?;
        } else {
            found.resource.active = active;
            found.resource = store(&mut db, &found.resource).await?;
        }
        commit(db).await?;
        Ok(found)
    }

    /// Deletes a resource with its versions or its content.
    ///
    /// # Errors
    /// `ResourceBusy` for an active dataset, and where it is published or used;
    /// `PermissionDenied` below Developer of the project that owns it.
    pub async fn delete_resource(&self, resource: &Resource) -> Result<()> {
        let mut db = self.write().await?;
        let resource = self.find_own(&mut db, &resource.id).await?;
        let Resource { id, kind, name, owner, .. } = &resource;
        let uses = uses(&mut db, id).await?;
        if !uses.is_empty() {
            return Err(Error::new(
                ErrorKind::ResourceBusy,
                format!("{kind} {name} of {owner} is in use: {uses}"),
            )
            .with_hint(format!("`atelier unpublish {kind}/{name}` takes it back")));
        }
        if *kind == Kind::Dataset && resource.active {
            return Err(Error::new(
                ErrorKind::ResourceBusy,
                format!("dataset {name} is active in {owner}"),
            )
            .with_hint(format!("`atelier dataset deactivate {name}` first")));
        }
        remove(&mut db, id).await?;
        commit(db).await
    }

    /// Where a resource is published and which projects have added it.
    ///
    /// # Errors
    /// `NotFound` where the user may not know of the resource.
    pub async fn uses(&self, resource: &Resource) -> Result<Uses> {
        let mut db = self.read().await?;
        self.find_readable(&mut db, &resource.id).await?;
        uses(&mut db, &resource.id).await
    }

    /// Finds a resource that the user may change: he is Developer of the project that owns it.
    pub(super) async fn find_own(&self, db: &mut AnyConnection, id: &Id) -> Result<Resource> {
        let resource = self.find_readable(db, id).await?;
        self.require_in(db, &resource.project, &resource.owner, Role::Developer).await?;
        Ok(resource)
    }

    /// Finds a resource that the user may know of: from its project, or since it is shared.
    pub(super) async fn find_readable(&self, db: &mut AnyConnection, id: &Id) -> Result<Resource> {
        let resource = by_id(db, id).await?;
        let standing = role_in_project(db, &resource.project, self.user()).await?;
        let shared = match standing {
            Standing::Member(Some(_)) => true,
            Standing::Member(None) => is_shared_with(db, id, self.user()).await?,
            Standing::Stranger => false,
        };
        if shared { Ok(resource) } else { Err(absent("resource", id, "resources")) }
    }
}

pub(super) async fn by_id(db: &mut AnyConnection, id: &Id) -> Result<Resource> {
    let row = sqlx::query(select_resources!("WHERE r.id = $1"))
        .bind(id.as_str())
        .fetch_optional(db)
        .await
        .map_err(failed)?;
    query::resource(&row.ok_or_else(|| absent("resource", id, "resources"))?)
}

/// Finds one of a project's own resources, whatever it shows as.
pub(super) async fn own(
    db: &mut AnyConnection,
    project: &Id,
    kind: Kind,
    name: &str,
) -> Result<Option<Resource>> {
    let row =
        sqlx::query(select_resources!("WHERE r.project = $1 AND r.kind = $2 AND r.name = $3"))
            .bind(project.as_str())
            .bind(kind.as_str())
            .bind(name)
            .fetch_optional(db)
            .await
            .map_err(failed)?;
    row.as_ref().map(query::resource).transpose()
}

pub(super) async fn insert(
    db: &mut AnyConnection,
    project: &Project,
    user: &str,
    new: &NewResource,
) -> Result<Resource> {
    name::check_resource(new.kind, &new.name)?;
    name::check_description(&new.description)?;
    let id = new_id()?;
    let made = sqlx::query(
        "INSERT INTO resource (id, project, kind, name, description, spec, active, versions, \
         creator, created, modified) VALUES ($1, $2, $3, $4, $5, $6, 1, 0, $7, $8, $8) \
         ON CONFLICT (project, kind, name) DO NOTHING",
    )
    .bind(id.as_str())
    .bind(project.id.as_str())
    .bind(new.kind.as_str())
    .bind(&new.name)
    .bind(&new.description)
    .bind(new.spec.to_string())
    .bind(user)
    .bind(now())
    .execute(&mut *db)
    .await
    .map_err(failed)?;
    if made.rows_affected() == 0 {
        return Err(taken(new.kind.as_str(), format!("{} of {}", new.name, project.name)));
    }
    by_id(db, &id).await
}

/// Writes what can change of a resource, with the time of the change.
pub(super) async fn store(db: &mut AnyConnection, resource: &Resource) -> Result<Resource> {
    sqlx::query(
        "UPDATE resource SET description = $2, spec = $3, active = $4, modified = $5 WHERE id = $1",
    )
    .bind(resource.id.as_str())
    .bind(&resource.description)
    .bind(resource.spec.to_string())
    .bind(i64::from(resource.active))
    .bind(now())
    .execute(&mut *db)
    .await
    .map_err(failed)?;
    by_id(db, &resource.id).await
}

/// Removes a resource that nobody uses.
pub(super) async fn remove(db: &mut AnyConnection, id: &Id) -> Result<()> {
    sqlx::query("DELETE FROM resource WHERE id = $1")
        .bind(id.as_str())
        .execute(db)
        .await
        .map_err(failed)?;
    Ok(())
}

/// What shows in a project. Its own resources keep their names, and among the others whichever
/// was added first; the rest show as `<name>@<project>`.
pub(super) async fn shown(db: &mut AnyConnection, project: &Id, kind: Kind) -> Result<Vec<Shown>> {
    let own = sqlx::query(select_resources!("WHERE r.project = $1 AND r.kind = $2"))
        .bind(project.as_str())
        .bind(kind.as_str())
        .fetch_all(&mut *db)
        .await
        .map_err(failed)?;
    let mut all = Vec::new();
    for row in &own {
        let resource = query::resource(row)?;
        let (name, active) = (resource.name.clone(), resource.active);
        all.push(Shown { name, active, added: false, resource });
    }
    let added = sqlx::query(select_resources!(
        ", a.active AS shown_active",
        "JOIN addition a ON a.resource = r.id WHERE a.project = $1 AND r.kind = $2 \
         ORDER BY a.created, r.id"
    ))
    .bind(project.as_str())
    .bind(kind.as_str())
    .fetch_all(db)
    .await
    .map_err(failed)?;
    for row in &added {
        let resource = query::resource(row)?;
        let name = if all.iter().any(|other| other.name == resource.name) {
            format!("{}@{}", resource.name, resource.owner.project)
        } else {
            resource.name.clone()
        };
        all.push(Shown { name, active: query::truth(row, "shown_active")?, added: true, resource });
    }
    // Checkpoints are numbers: 10000 comes after 9999.
    let width =
        |shown: &Shown| if kind == Kind::Checkpoint { shown.resource.name.len() } else { 0 };
    all.sort_by(|a, b| (width(a), &a.name).cmp(&(width(b), &b.name)));
    Ok(all)
}

fn find_shown(all: Vec<Shown>, project: &Project, kind: Kind, name: &str) -> Result<Shown> {
    let pinned = |shown: &Shown| {
        kind == Kind::Checkpoint && !shown.added && shown.resource.pinned_name() == Some(name)
    };
    all.into_iter()
        .find(|shown| shown.name == name || pinned(shown))
        .ok_or_else(|| absent(kind.as_str(), format!("{name} of {}", project.name), listing(kind)))
}

/// The command that lists what there is of a kind.
fn listing(kind: Kind) -> &'static str {
    match kind {
        Kind::Dataset => "dataset list",
        Kind::Secret => "secret list",
        Kind::S3 => "s3 list",
        Kind::Image => "image list",
        Kind::Checkpoint => "checkpoint list",
        Kind::Node => "node list",
        Kind::Alias => "alias list",
    }
}

/// Where a resource is published and added.
pub(super) async fn uses(db: &mut AnyConnection, id: &Id) -> Result<Uses> {
    let published = sqlx::query(
        "SELECT c.name FROM publication b JOIN community c ON c.id = b.community \
         WHERE b.resource = $1 ORDER BY c.name",
    )
    .bind(id.as_str())
    .fetch_all(&mut *db)
    .await
    .map_err(failed)?;
    let added = sqlx::query(select_projects!(
        "JOIN addition a ON a.project = p.id WHERE a.resource = $1 ORDER BY c.name, p.name"
    ))
    .bind(id.as_str())
    .fetch_all(db)
    .await
    .map_err(failed)?;
    Ok(Uses {
        published: published.iter().map(|row| field(row, "name")).collect::<Result<_>>()?,
        added: added
            .iter()
            .map(|row| query::project(row).map(|project| project.name))
            .collect::<Result<Vec<ProjectName>>>()?,
    })
}

/// Whether a user is in a community that offers the resource, or in a project that has added it.
async fn is_shared_with(db: &mut AnyConnection, resource: &Id, user: &str) -> Result<bool> {
    let row = sqlx::query(
        "SELECT b.resource FROM publication b \
         JOIN community_member m ON m.community = b.community \
         WHERE b.resource = $1 AND m.user_name = $2 UNION ALL \
         SELECT b.resource FROM publication b JOIN project p ON p.community = b.community \
         JOIN project_member m ON m.project = p.id WHERE b.resource = $1 AND m.user_name = $2",
    )
    .bind(resource.as_str())
    .bind(user)
    .fetch_optional(db)
    .await
    .map_err(failed)?;
    Ok(row.is_some())
}
