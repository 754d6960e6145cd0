//! Roles: who may see, use and change what.

use std::fmt::Display;

use sqlx::AnyConnection;

use super::Catalog;
use super::database::failed;
use super::model::{Community, Id, Organization, Project, Role};
use super::name::{CommunityName, ProjectName};
use super::query::{self, select_communities, select_projects};
use crate::error::{Error, ErrorKind, Result};

impl Role {
    /// The role in each project of a community that a role in the community carries.
    ///
    /// A Developer of the community makes projects, but uses those of others only where he is
    /// invited: there he is a Viewer.
    #[must_use]
    pub fn inherited(self) -> Self {
        match self {
            Self::Viewer | Self::Developer => Self::Viewer,
            Self::Editor => Self::Editor,
            Self::Admin => Self::Admin,
        }
    }
}

impl Catalog {
    /// Finds an organization that the user is a member of.
    pub(super) async fn find_organization(
        &self,
        db: &mut AnyConnection,
        name: &str,
    ) -> Result<Organization> {
        let row = sqlx::query(
            "SELECT o.* FROM organization o \
             JOIN community d ON d.organization = o.id AND d.is_default = 1 \
             JOIN community_member m ON m.community = d.id AND m.user_name = $2 \
             WHERE o.name = $1",
        )
        .bind(name)
        .bind(self.user())
        .fetch_optional(db)
        .await
        .map_err(failed)?;
        match row {
            Some(row) => query::organization(&row),
            None => Err(absent("organization", name, "org list")),
        }
    }

    /// Finds a community of an organization that the user is a member of.
    pub(super) async fn find_community(
        &self,
        db: &mut AnyConnection,
        name: &CommunityName,
    ) -> Result<Community> {
        let row = sqlx::query(select_communities!(
            "JOIN community d ON d.organization = o.id AND d.is_default = 1 \
             JOIN community_member m ON m.community = d.id AND m.user_name = $3 \
             WHERE o.name = $1 AND c.name = $2"
        ))
        .bind(&name.organization)
        .bind(&name.community)
        .bind(self.user())
        .fetch_optional(db)
        .await
        .map_err(failed)?;
        match row {
            Some(row) => query::community(&row),
            None => Err(absent("community", name, "community list")),
        }
    }

    /// Finds a project in which the user has `needed` or more.
    pub(super) async fn find_project(
        &self,
        db: &mut AnyConnection,
        name: &ProjectName,
        needed: Role,
    ) -> Result<Project> {
        let row = sqlx::query(select_projects!(
            "JOIN community d ON d.organization = o.id AND d.is_default = 1 \
             JOIN community_member m ON m.community = d.id AND m.user_name = $4 \
             WHERE o.name = $1 AND c.name = $2 AND p.name = $3"
        ))
        .bind(&name.organization)
        .bind(&name.community)
        .bind(&name.project)
        .bind(self.user())
        .fetch_optional(&mut *db)
        .await
        .map_err(failed)?;
        let project = match row {
            Some(row) => query::project(&row)?,
            None => return Err(absent("project", name, "project list")),
        };
        self.require(db, &project, needed).await?;
        Ok(project)
    }

    /// Refuses unless the user has `needed` or more in the project.
    pub(super) async fn require(
        &self,
        db: &mut AnyConnection,
        project: &Project,
        needed: Role,
    ) -> Result<Role> {
        self.require_in(db, &project.id, &project.name, needed).await
    }

    /// The same for a project of which only identifier and name are at hand.
    pub(super) async fn require_in(
        &self,
        db: &mut AnyConnection,
        project: &Id,
        name: &ProjectName,
        needed: Role,
    ) -> Result<Role> {
        let on = format!("{}/{}", name.community, name.project);
        match role_in_project(db, project, self.user()).await? {
            Standing::Stranger => Err(absent("project", name, "project list")),
            Standing::Member(role) => self.at_least(role, needed, name, &on),
        }
    }

    /// Refuses unless the user has `needed` or more in the community.
    pub(super) async fn require_in_community(
        &self,
        db: &mut AnyConnection,
        community: &Community,
        needed: Role,
    ) -> Result<Role> {
        let role = role_in_community(db, &community.id, self.user()).await?;
        self.at_least(role, needed, &community.name, &community.name.community)
    }

    fn at_least(
        &self,
        role: Option<Role>,
        needed: Role,
        name: &dyn Display,
        on: &str,
    ) -> Result<Role> {
        if let Some(role) = role.filter(|role| *role >= needed) {
            return Ok(role);
        }
        let user = self.user();
        let has = role.map_or_else(|| "no role".to_owned(), |role| format!("the role {role}"));
        Err(Error::new(
            ErrorKind::PermissionDenied,
            format!("{user} has {has} on {name}, and this needs {needed}"),
        )
        .with_hint(format!(
            "one of its admins can run `atelier member add {user} --role {needed} --on \"{on}\"`"
        )))
    }
}

/// How a user stands to a project.
pub(super) enum Standing {
    /// Not a member of its organization, or there is no such project.
    Stranger,
    /// A member of its organization, with the effective role on the project, if any.
    Member(Option<Role>),
}

/// The effective role: the higher one of the direct and the inherited.
pub(super) async fn role_in_project(
    db: &mut AnyConnection,
    project: &Id,
    user: &str,
) -> Result<Standing> {
    let row = sqlx::query(
        "SELECT pm.role AS direct, cm.role AS above FROM project p \
         JOIN community c ON c.id = p.community \
         JOIN community d ON d.organization = c.organization AND d.is_default = 1 \
         JOIN community_member m ON m.community = d.id AND m.user_name = $2 \
         LEFT JOIN project_member pm ON pm.project = p.id AND pm.user_name = $2 \
         LEFT JOIN community_member cm ON cm.community = c.id AND cm.user_name = $2 \
         WHERE p.id = $1",
    )
    .bind(project.as_str())
    .bind(user)
    .fetch_optional(db)
    .await
    .map_err(failed)?;
    let Some(row) = row else {
        return Ok(Standing::Stranger);
    };
    Ok(Standing::Member(query::effective_role(&row)?))
}

/// The role that was granted in a community.
pub(super) async fn role_in_community(
    db: &mut AnyConnection,
    community: &Id,
    user: &str,
) -> Result<Option<Role>> {
    let row =
        sqlx::query("SELECT role FROM community_member WHERE community = $1 AND user_name = $2")
            .bind(community.as_str())
            .bind(user)
            .fetch_optional(db)
            .await
            .map_err(failed)?;
    row.map_or(Ok(None), |row| query::word_or_none(&row, "role"))
}

/// What is said of something that isn't there, or that the user may not know of.
pub(super) fn absent(what: &str, name: impl Display, list: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{what} {name} isn't there"))
        .with_hint(format!("`atelier {list}` shows what is"))
}

/// What is said when a name is taken.
pub(super) fn taken(what: &str, name: impl Display) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("{what} {name} is there already"))
}
