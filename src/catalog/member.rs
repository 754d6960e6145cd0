//! Members: roles granted and taken away.

use std::collections::BTreeMap;

use sqlx::AnyConnection;

use super::database::{damaged, failed, field};
use super::model::{Community, Id, Member, Project, Role, Scope};
use super::query::{self, select_communities};
use super::{Catalog, commit, name, recipient};
use crate::error::{Error, ErrorKind, Result};

impl Catalog {
    /// Grants a user a role, in place of the one he may have. He becomes a member of the
    /// organization, if he isn't yet.
    ///
    /// # Errors
    /// `PermissionDenied` below Admin; `NotPermitted` when nobody would be Admin any more;
    /// `InvalidInput` for a role below Developer in the default community.
    pub async fn set_role(&self, user: &str, role: Role, on: &Scope) -> Result<()> {
        name::check_user(user)?;
        let mut db = self.write().await?;
        let organization = match on {
            Scope::Community(name) => {
                let community = self.find_community(&mut db, name).await?;
                self.require_in_community(&mut db, &community, Role::Admin).await?;
                if community.is_default && role < Role::Developer {
                    return Err(Error::new(
                        ErrorKind::InvalidInput,
                        format!("every member of {name} is at least developer there"),
                    ));
                }
                grant_in_community(&mut db, &community.id, user, role).await?;
                &name.organization
            }
            Scope::Project(name) => {
                let project = self.find_project(&mut db, name, Role::Admin).await?;
                grant_in_project(&mut db, &project.id, user, role).await?;
                &name.organization
            }
        };
        let organization = self.find_organization(&mut db, organization).await?;
        let team = default_community(&mut db, &organization.id).await?;
        sqlx::query(
            "INSERT INTO community_member (community, user_name, role) VALUES ($1, $2, $3) \
             ON CONFLICT (community, user_name) DO NOTHING",
        )
        .bind(team.id.as_str())
        .bind(user)
        .bind(Role::Developer.as_str())
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        keep_admins(&mut db, &organization.id, user).await?;
        commit(db).await
    }

    /// Takes a user's role away. Who leaves the default community leaves the organization, with
    /// all its communities and projects. Everybody may leave by himself.
    ///
    /// # Errors
    /// `PermissionDenied` below Admin; `NotFound` when no role was granted there; `NotPermitted`
    /// when nobody would be Admin any more.
    pub async fn remove_member(&self, user: &str, on: &Scope) -> Result<()> {
        let mut db = self.write().await?;
        let needed = if user == self.user() { Role::Viewer } else { Role::Admin };
        let (organization, removed) = match on {
            Scope::Community(name) => {
                let community = self.find_community(&mut db, name).await?;
                self.require_in_community(&mut db, &community, needed).await?;
                let organization = self.find_organization(&mut db, &name.organization).await?.id;
                let everywhere = community.is_default.then_some(&organization);
                let removed = take_from_community(&mut db, &community.id, user, everywhere).await?;
                (organization, removed)
            }
            Scope::Project(name) => {
                let project = self.find_project(&mut db, name, needed).await?;
                let organization = self.find_organization(&mut db, &name.organization).await?.id;
                (organization, take_from_project(&mut db, &project.id, user).await?)
            }
        };
        if !removed {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{user} was granted no role on {on}"),
            ));
        }
        keep_admins(&mut db, &organization, user).await?;
        recipient::forget(&mut db, user, on).await?;
        commit(db).await
    }

    /// The members of a community or a project with their effective roles, by name.
    ///
    /// # Errors
    /// `PermissionDenied` for who has no role there himself.
    pub async fn members(&self, on: &Scope) -> Result<Vec<Member>> {
        let mut db = self.read().await?;
        match on {
            Scope::Community(name) => {
                let community = self.find_community(&mut db, name).await?;
                self.require_in_community(&mut db, &community, Role::Viewer).await?;
                let granted = community_roles(&mut db, &community.id).await?;
                Ok(granted
                    .into_iter()
                    .map(|(user, role)| Member { user, role, inherited: false })
                    .collect())
            }
            Scope::Project(name) => {
                let project = self.find_project(&mut db, name, Role::Viewer).await?;
                project_members(&mut db, &project).await
            }
        }
    }
}

pub(super) async fn developers(db: &mut AnyConnection, project: &Project) -> Result<Vec<String>> {
    let members = project_members(db, project).await?;
    Ok(members.into_iter().filter(|m| m.role >= Role::Developer).map(|m| m.user).collect())
}

async fn project_members(db: &mut AnyConnection, project: &Project) -> Result<Vec<Member>> {
    let mut members: BTreeMap<String, Member> = community_roles(db, &project.community)
        .await?
        .into_iter()
        .map(|(user, role)| {
            (user.clone(), Member { user, role: role.inherited(), inherited: true })
        })
        .collect();
    let rows = sqlx::query("SELECT user_name, role FROM project_member WHERE project = $1")
        .bind(project.id.as_str())
        .fetch_all(db)
        .await
        .map_err(failed)?;
    for (user, role) in granted(&rows)? {
        if members.get(&user).is_none_or(|member| member.role <= role) {
            members.insert(user.clone(), Member { user, role, inherited: false });
        }
    }
    Ok(members.into_values().collect())
}

async fn community_roles(db: &mut AnyConnection, community: &Id) -> Result<Vec<(String, Role)>> {
    let rows = sqlx::query(
        "SELECT user_name, role FROM community_member WHERE community = $1 ORDER BY user_name",
    )
    .bind(community.as_str())
    .fetch_all(db)
    .await
    .map_err(failed)?;
    granted(&rows)
}

fn granted(rows: &[sqlx::any::AnyRow]) -> Result<Vec<(String, Role)>> {
    rows.iter()
        .map(|row| {
            let role = query::word_or_none(row, "role")?;
            Ok((field(row, "user_name")?, role.ok_or_else(|| damaged("a role", "it is missing"))?))
        })
        .collect()
}

/// The community that every member of the organization is in.
pub(super) async fn default_community(
    db: &mut AnyConnection,
    organization: &Id,
) -> Result<Community> {
    let row = sqlx::query(select_communities!("WHERE c.organization = $1 AND c.is_default = 1"))
        .bind(organization.as_str())
        .fetch_one(db)
        .await
        .map_err(failed)?;
    query::community(&row)
}

pub(super) async fn grant_in_community(
    db: &mut AnyConnection,
    community: &Id,
    user: &str,
    role: Role,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO community_member (community, user_name, role) VALUES ($1, $2, $3) \
         ON CONFLICT (community, user_name) DO UPDATE SET role = excluded.role",
    )
    .bind(community.as_str())
    .bind(user)
    .bind(role.as_str())
    .execute(db)
    .await
    .map_err(failed)?;
    Ok(())
}

pub(super) async fn grant_in_project(
    db: &mut AnyConnection,
    project: &Id,
    user: &str,
    role: Role,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO project_member (project, user_name, role) VALUES ($1, $2, $3) \
         ON CONFLICT (project, user_name) DO UPDATE SET role = excluded.role",
    )
    .bind(project.as_str())
    .bind(user)
    .bind(role.as_str())
    .execute(db)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Takes the role in a community away, or all roles in an organization; says whether there was
/// one.
async fn take_from_community(
    db: &mut AnyConnection,
    community: &Id,
    user: &str,
    everywhere: Option<&Id>,
) -> Result<bool> {
    let gone = sqlx::query("DELETE FROM community_member WHERE community = $1 AND user_name = $2")
        .bind(community.as_str())
        .bind(user)
        .execute(&mut *db)
        .await
        .map_err(failed)?;
    if let Some(organization) = everywhere {
        for statement in [
            "DELETE FROM project_member WHERE user_name = $2 AND project IN (SELECT p.id \
             FROM project p JOIN community c ON c.id = p.community WHERE c.organization = $1)",
            "DELETE FROM community_member WHERE user_name = $2 AND community IN \
             (SELECT id FROM community WHERE organization = $1)",
            "DELETE FROM account WHERE user_name = $2 AND organization = $1",
        ] {
            sqlx::query(statement)
                .bind(organization.as_str())
                .bind(user)
                .execute(&mut *db)
                .await
                .map_err(failed)?;
        }
    }
    Ok(gone.rows_affected() > 0)
}

async fn take_from_project(db: &mut AnyConnection, project: &Id, user: &str) -> Result<bool> {
    let gone = sqlx::query("DELETE FROM project_member WHERE project = $1 AND user_name = $2")
        .bind(project.as_str())
        .bind(user)
        .execute(db)
        .await
        .map_err(failed)?;
    Ok(gone.rows_affected() > 0)
}

/// Refuses a change that leaves a community without an Admin; its projects have one in him.
async fn keep_admins(db: &mut AnyConnection, organization: &Id, user: &str) -> Result<()> {
    let rows = sqlx::query(
        "SELECT name FROM community c WHERE organization = $1 AND NOT EXISTS \
         (SELECT 1 FROM community_member m WHERE m.community = c.id AND m.role = 'admin') \
         ORDER BY name",
    )
    .bind(organization.as_str())
    .fetch_all(db)
    .await
    .map_err(failed)?;
    let orphans = rows.iter().map(|row| field(row, "name")).collect::<Result<Vec<String>>>()?;
    if orphans.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NotPermitted,
        format!("{user} is the last admin of {}", orphans.join(", ")),
    )
    .with_hint("make somebody else admin there first"))
}
