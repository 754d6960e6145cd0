//! Sharing: a resource is published in a community and added to projects there.

use sqlx::AnyConnection;

use super::access::{role_in_community, taken};
use super::database::{failed, now};
use super::model::{Community, Id, Kind, Offer, Policy, Project, Resource, Role, Shown};
use super::name::{CommunityName, ProjectName, Reference};
use super::query::{self, select_projects, select_resources};
use super::resource::shown;
use super::{Catalog, commit, room};
use crate::error::{Error, ErrorKind, Result};

impl Policy {
    /// The roles that publishing needs: on the owning project, and in the community.
    pub fn needed(self) -> (Role, Role) {
        match self {
            Self::Seed => (Role::Admin, Role::Admin),
            Self::Current => (Role::Editor, Role::Developer),
        }
    }
}

impl Catalog {
    /// Offers a resource to the projects of a community in the same organization.
    ///
    /// # Errors
    /// `PermissionDenied` as the organization's [`Policy`] says; `AlreadyExists`; `InvalidInput`
    /// for a checkpoint that isn't pinned; `NotFound`.
    pub async fn publish(&self, resource: &Resource, community: &str) -> Result<()> {
        let mut db = self.write().await?;
        let (resource, community) = self.both_ends(&mut db, resource, community).await?;
        let (of_owner, of_community) = self.policy(&mut db, &resource).await?.needed();
        self.require_in(&mut db, &resource.project, &resource.owner, of_owner).await?;
        self.require_in_community(&mut db, &community, of_community).await?;
        let Resource { id, kind, name, .. } = &resource;
        if *kind == Kind::Checkpoint && resource.pinned_name().is_none() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("checkpoint {name} isn't pinned, and only pinned ones can be published"),
            )
            .with_hint(format!("`atelier checkpoint pin {name}` first")));
        }
        let made = sqlx::query(
            "INSERT INTO publication (resource, community, creator, created) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (resource, community) DO NOTHING",
        )
        .bind(id.as_str())
        .bind(community.id.as_str())
        .bind(self.user())
        .bind(now())
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        if made.rows_affected() == 0 {
            return Err(taken(
                "the publication of",
                format!("{kind} {name} in {}", community.name.community),
            ));
        }
        commit(db).await
    }

    /// Takes a resource back from a community; returns the projects there that lose it.
    ///
    /// # Errors
    /// `NotFound` where it isn't published; `PermissionDenied` unless the user has one of the
    /// two roles that publishing needs.
    pub async fn unpublish(
        &self,
        resource: &Resource,
        community: &str,
    ) -> Result<Vec<ProjectName>> {
        let mut db = self.write().await?;
        let (resource, community) = self.both_ends(&mut db, resource, community).await?;
        let (of_owner, of_community) = self.policy(&mut db, &resource).await?.needed();
        let in_community = role_in_community(&mut db, &community.id, self.user()).await?;
        if in_community.is_none_or(|role| role < of_community) {
            self.require_in(&mut db, &resource.project, &resource.owner, of_owner).await?;
        }
        let gone = sqlx::query("DELETE FROM publication WHERE resource = $1 AND community = $2")
            .bind(resource.id.as_str())
            .bind(community.id.as_str())
            .execute(&mut *db)
            .await
            .map_err(failed)?;
        if gone.rows_affected() == 0 {
            let Resource { kind, name, owner, .. } = &resource;
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{kind} {name} of {owner} isn't published in {}", community.name.community),
            ));
        }
        let losers = lose(&mut db, &resource.id, &community.id).await?;
        commit(db).await?;
        Ok(losers)
    }

    /// Adds an offered resource to a project, where it is active at once.
    ///
    /// # Errors
    /// `NotFound` unless the project's community offers it; `AlreadyExists` when the project
    /// owns it or has it, or one that would show under the same name; `StorageFull` for one active
    /// dataset more than the project may have; `PermissionDenied` below Developer.
    pub async fn add(&self, project: &Project, reference: &Reference) -> Result<Shown> {
        let mut db = self.write().await?;
        self.require(&mut db, project, Role::Developer).await?;
        let row = sqlx::query(select_resources!(
            "JOIN publication b ON b.resource = r.id AND b.community = $1 \
             WHERE o.name = $2 AND c.name = $3 AND p.name = $4 AND r.kind = $5 AND r.name = $6"
        ))
        .bind(project.community.as_str())
        .bind(&project.name.organization)
        .bind(&reference.community)
        .bind(&reference.project)
        .bind(reference.kind.as_str())
        .bind(&reference.name)
        .fetch_optional(&mut *db)
        .await
        .map_err(failed)?;
        let resource = match row {
            Some(row) => query::resource(&row)?,
            None => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("{} doesn't offer {reference}", project.name.community),
                )
                .with_hint("`atelier resources` shows what it offers"));
            }
        };
        if resource.project == project.id {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("{} {} is the project's own", resource.kind, resource.name),
            ));
        }
        let others = shown(&mut db, &project.id, resource.kind).await?;
        let twin = others.iter().find(|other| {
            other.added
                && other.resource.name == resource.name
                && other.resource.owner.project == resource.owner.project
        });
        if let Some(twin) = twin {
            let Resource { kind, name, owner, .. } = &twin.resource;
            return Err(taken(kind.as_str(), format!("{name} of {owner} in {}", project.name)));
        }
        room::check_active(&mut db, &project.id, resource.kind).await?;
        sqlx::query(
            "INSERT INTO addition (project, resource, active, creator, created) \
             VALUES ($1, $2, 1, $3, $4)",
        )
        .bind(project.id.as_str())
        .bind(resource.id.as_str())
        .bind(self.user())
        .bind(now())
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        let all = shown(&mut db, &project.id, resource.kind).await?;
        let added = all.into_iter().find(|shown| shown.resource.id == resource.id);
        commit(db).await?;
        added.ok_or_else(|| Error::new(ErrorKind::Damaged, format!("{reference} got lost")))
    }

    /// Takes an added resource out of a project again.
    ///
    /// # Errors
    /// `NotFound` when it wasn't added; `PermissionDenied` below Developer.
    pub async fn remove(&self, project: &Project, resource: &Id) -> Result<()> {
        let mut db = self.write().await?;
        self.require(&mut db, project, Role::Developer).await?;
        let gone = sqlx::query("DELETE FROM addition WHERE project = $1 AND resource = $2")
            .bind(project.id.as_str())
            .bind(resource.as_str())
            .execute(&mut *db)
            .await
            .map_err(failed)?;
        if gone.rows_affected() == 0 {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("nothing of that name was added to {}", project.name),
            ));
        }
        commit(db).await
    }

    /// What a community offers to its projects, by kind and reference.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` for who has no role in it or a project of it.
    pub async fn offers(&self, community: &CommunityName) -> Result<Vec<Offer>> {
        let mut db = self.read().await?;
        let community = self.find_community(&mut db, community).await?;
        let invited = sqlx::query(
            "SELECT p.id FROM project p JOIN project_member m ON m.project = p.id \
             WHERE p.community = $1 AND m.user_name = $2",
        )
        .bind(community.id.as_str())
        .bind(self.user())
        .fetch_optional(&mut *db)
        .await
        .map_err(failed)?;
        if invited.is_none() {
            self.require_in_community(&mut db, &community, Role::Viewer).await?;
        }
        let rows = sqlx::query(select_resources!(
            ", b.creator AS publisher, b.created AS published",
            "JOIN publication b ON b.resource = r.id WHERE b.community = $1 \
             ORDER BY r.kind, c.name, p.name, r.name"
        ))
        .bind(community.id.as_str())
        .fetch_all(&mut *db)
        .await
        .map_err(failed)?;
        rows.iter().map(query::offer).collect()
    }

    async fn both_ends(
        &self,
        db: &mut AnyConnection,
        resource: &Resource,
        community: &str,
    ) -> Result<(Resource, Community)> {
        let resource = self.find_readable(db, &resource.id).await?;
        let organization = resource.owner.organization.clone();
        let name = CommunityName { organization, community: community.to_owned() };
        Ok((resource, self.find_community(db, &name).await?))
    }

    async fn policy(&self, db: &mut AnyConnection, resource: &Resource) -> Result<Policy> {
        Ok(self.find_organization(db, &resource.owner.organization).await?.policy)
    }
}

/// Takes a resource out of all projects of a community; returns their names.
async fn lose(db: &mut AnyConnection, resource: &Id, community: &Id) -> Result<Vec<ProjectName>> {
    let rows = sqlx::query(select_projects!(
        "JOIN addition a ON a.project = p.id \
         WHERE a.resource = $1 AND p.community = $2 ORDER BY p.name"
    ))
    .bind(resource.as_str())
    .bind(community.as_str())
    .fetch_all(&mut *db)
    .await
    .map_err(failed)?;
    sqlx::query(
        "DELETE FROM addition WHERE resource = $1 \
         AND project IN (SELECT id FROM project WHERE community = $2)",
    )
    .bind(resource.as_str())
    .bind(community.as_str())
    .execute(db)
    .await
    .map_err(failed)?;
    rows.iter().map(|row| query::project(row).map(|project| project.name)).collect()
}
