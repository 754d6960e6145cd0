//! Projects: made in a community, chosen with `use`, deleted when they are empty.

use sqlx::AnyConnection;

use super::access::{Standing, absent, role_in_project, taken};
use super::database::{BEGIN, failed, field, new_id, now};
use super::model::{Id, Project, Role};
use super::name::{self, CommunityName, ProjectName};
use super::query::{self, select_projects};
use super::{Catalog, commit, member};
use crate::error::{Error, ErrorKind, Result};

/// The largest quota, in GiB.
const MAX_QUOTA_GIB: u32 = 4096;

impl Catalog {
    /// Makes a project, of which the user becomes Admin; `quota_gib` limits its storage.
    ///
    /// # Errors
    /// `InvalidInput`, `AlreadyExists`; `PermissionDenied` below Developer of the community.
    pub async fn create_project(
        &self,
        at: &CommunityName,
        name: &str,
        description: &str,
        quota_gib: Option<u32>,
    ) -> Result<Project> {
        name::check_project(name)?;
        name::check_description(description)?;
        check_quota(quota_gib)?;
        let mut db = self.write().await?;
        let community = self.find_community(&mut db, at).await?;
        self.require_in_community(&mut db, &community, Role::Developer).await?;
        let CommunityName { organization, community: above } = community.name;
        let name = ProjectName { organization, community: above, project: name.to_owned() };
        let id = new_id()?;
        let made = sqlx::query(
            "INSERT INTO project (id, community, name, description, quota_gib, checkpoints, \
             creator, created, modified) VALUES ($1, $2, $3, $4, $5, 0, $6, $7, $7) \
             ON CONFLICT (community, name) DO NOTHING",
        )
        .bind(id.as_str())
        .bind(community.id.as_str())
        .bind(&name.project)
        .bind(description)
        .bind(quota_gib.map(i64::from))
        .bind(self.user())
        .bind(now())
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        if made.rows_affected() == 0 {
            return Err(taken("project", name));
        }
        member::grant_in_project(&mut db, &id, self.user(), Role::Admin).await?;
        let made = self.find_project(&mut db, &name, Role::Viewer).await?;
        commit(db).await?;
        Ok(made)
    }

    /// Limits the storage of a project, or with `None` no more. What is there stays, also when it
    /// is more.
    ///
    /// # Errors
    /// `InvalidInput`; `NotFound`; `PermissionDenied` below Editor.
    pub async fn resize_project(
        &self,
        name: &ProjectName,
        quota_gib: Option<u32>,
    ) -> Result<Project> {
        check_quota(quota_gib)?;
        let set = "UPDATE project SET quota_gib = $2, modified = $3 WHERE id = $1";
        self.set_limit(name, set, quota_gib).await
    }

    /// Keeps the files of a project out of its checkpoints while they have more, or with `None`
    /// never.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` below Editor.
    pub async fn limit_checkpoints(
        &self,
        name: &ProjectName,
        checkpoint_gib: Option<u32>,
    ) -> Result<Project> {
        let set = "UPDATE project SET checkpoint_gib = $2, modified = $3 WHERE id = $1";
        self.set_limit(name, set, checkpoint_gib).await
    }

    /// Sets a limit by a statement that takes the project's id, the limit and the time.
    async fn set_limit(
        &self,
        name: &ProjectName,
        set: &'static str,
        gib: Option<u32>,
    ) -> Result<Project> {
        let mut db = self.write().await?;
        let project = self.find_project(&mut db, name, Role::Editor).await?;
        sqlx::query(set)
            .bind(project.id.as_str())
            .bind(gib.map(i64::from))
            .bind(now())
            .execute(&mut *db)
            .await
            .map_err(failed)?;
        let changed = self.find_project(&mut db, name, Role::Viewer).await?;
        commit(db).await?;
        Ok(changed)
    }

    /// The projects that the user may see, by name: in one community, or anywhere.
    pub async fn projects(&self, at: Option<&CommunityName>) -> Result<Vec<Project>> {
        let mut db = self.read().await?;
        if let Some(at) = at {
            self.find_community(&mut db, at).await?;
        }
        let rows = sqlx::query(select_projects!(
            "WHERE (EXISTS (SELECT 1 FROM project_member m \
             WHERE m.project = p.id AND m.user_name = $1) OR EXISTS (SELECT 1 \
             FROM community_member m WHERE m.community = c.id AND m.user_name = $1)) \
             ORDER BY o.name, c.name, p.name"
        ))
        .bind(self.user())
        .fetch_all(&mut *db)
        .await
        .map_err(failed)?;
        let mut projects = rows.iter().map(query::project).collect::<Result<Vec<_>>>()?;
        projects.retain(|project| at.is_none_or(|at| project.name.at() == *at));
        Ok(projects)
    }

    /// A project that the user may see.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` when it is in his organization and he has no role on it.
    pub async fn project(&self, name: &ProjectName) -> Result<Project> {
        self.find_project(&mut *self.read().await?, name, Role::Viewer).await
    }

    /// The project of a name as it was typed, or else the one that the user chose.
    ///
    /// # Errors
    /// As [`Catalog::project`]; `InvalidInput` when there is no name and none was chosen.
    pub async fn project_or_selected(&self, name: Option<&str>) -> Result<Project> {
        match name {
            Some(name) => self.project(&name.parse()?).await,
            None => self.selected_project().await?.ok_or_else(|| {
                Error::new(ErrorKind::InvalidInput, "no project is chosen").with_hint(
                    "choose one with `atelier use ORG/COMMUNITY/PROJECT`, or name it with --project",
                )
            }),
        }
    }

    /// A project that the user may see, by its identifier.
    ///
    /// # Errors
    /// As [`Catalog::project`].
    pub async fn project_by_id(&self, id: &Id) -> Result<Project> {
        let mut db = self.read().await?;
        let project = by_id(&mut db, id).await?;
        self.require(&mut db, &project, Role::Viewer).await?;
        Ok(project)
    }

    /// The user's effective role on a project.
    pub async fn role_on(&self, project: &Project) -> Result<Option<Role>> {
        match role_in_project(&mut *self.read().await?, &project.id, self.user()).await? {
            Standing::Stranger => Ok(None),
            Standing::Member(role) => Ok(role),
        }
    }

    /// Deletes a project that owns nothing any more.
    ///
    /// # Errors
    /// `ResourceBusy` with what is in it; `PermissionDenied` below Editor.
    pub async fn delete_project(&self, name: &ProjectName) -> Result<()> {
        let mut db = self.write().await?;
        let project = self.find_project(&mut db, name, Role::Editor).await?;
        let rows = sqlx::query(
            "SELECT kind || ' ' || name AS thing FROM resource WHERE project = $1 ORDER BY thing",
        )
        .bind(project.id.as_str())
        .fetch_all(&mut *db)
        .await
        .map_err(failed)?;
        let things = rows.iter().map(|row| field(row, "thing")).collect::<Result<Vec<String>>>()?;
        if !things.is_empty() {
            return Err(Error::new(
                ErrorKind::ResourceBusy,
                format!("project {name} isn't empty: {}", things.join(", ")),
            )
            .with_hint("delete these first"));
        }
        sqlx::query("DELETE FROM project WHERE id = $1")
            .bind(project.id.as_str())
            .execute(&mut *db)
            .await
            .map_err(failed)?;
        commit(db).await
    }

    /// Makes a project the one that the user's commands work on.
    pub async fn select_project(&self, name: &ProjectName) -> Result<Project> {
        // Nothing that others can see changes, so the revision stays.
        let mut db = self.pool.begin_with(BEGIN).await.map_err(failed)?;
        let project = self.find_project(&mut db, name, Role::Viewer).await?;
        sqlx::query(
            "INSERT INTO selection (user_name, project) VALUES ($1, $2) \
             ON CONFLICT (user_name) DO UPDATE SET project = excluded.project",
        )
        .bind(self.user())
        .bind(project.id.as_str())
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        commit(db).await?;
        Ok(project)
    }

    /// The project that the user chose, if it is still there and he may still see it.
    pub async fn selected_project(&self) -> Result<Option<Project>> {
        let mut db = self.read().await?;
        let row = sqlx::query(select_projects!(
            "JOIN selection s ON s.project = p.id WHERE s.user_name = $1"
        ))
        .bind(self.user())
        .fetch_optional(&mut *db)
        .await
        .map_err(failed)?;
        let Some(project) = row.as_ref().map(query::project).transpose()? else {
            return Ok(None);
        };
        let standing = role_in_project(&mut db, &project.id, self.user()).await?;
        Ok(matches!(standing, Standing::Member(Some(_))).then_some(project))
    }
}

fn check_quota(quota_gib: Option<u32>) -> Result<()> {
    if quota_gib.is_some_and(|quota| !(1..=MAX_QUOTA_GIB).contains(&quota)) {
        let message = format!("a quota is 1 to {MAX_QUOTA_GIB} GiB");
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(())
}

/// Finds a project, whoever asks.
pub(super) async fn by_id(db: &mut AnyConnection, id: &Id) -> Result<Project> {
    let row = sqlx::query(select_projects!("WHERE p.id = $1"))
        .bind(id.as_str())
        .fetch_optional(db)
        .await
        .map_err(failed)?;
    query::project(&row.ok_or_else(|| absent("project", id, "project list"))?)
}
