//! Communities: made by any member of their organization.

use super::access::{role_in_community, taken};
use super::database::{failed, field, new_id, now};
use super::model::{Community, Role};
use super::name::{self, CommunityName};
use super::query::{self, select_communities};
use super::{Catalog, commit, member};
use crate::error::{Error, ErrorKind, Result};

impl Catalog {
    /// Makes a community, of which the user becomes Admin.
    ///
    /// # Errors
    /// `InvalidInput`, `AlreadyExists`, `NotFound` for an organization he is no member of.
    pub async fn create_community(
        &self,
        organization: &str,
        name: &str,
        description: &str,
    ) -> Result<Community> {
        name::check_community(name)?;
        name::check_description(description)?;
        let mut db = self.write().await?;
        let above = self.find_organization(&mut db, organization).await?;
        let name =
            CommunityName { organization: organization.to_owned(), community: name.to_owned() };
        let id = new_id()?;
        let made = sqlx::query(
            "INSERT INTO community \
             (id, organization, name, description, is_default, creator, created, modified) \
             VALUES ($1, $2, $3, $4, 0, $5, $6, $6) ON CONFLICT (organization, name) DO NOTHING",
        )
        .bind(id.as_str())
        .bind(above.id.as_str())
        .bind(&name.community)
        .bind(description)
        .bind(self.user())
        .bind(now())
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        if made.rows_affected() == 0 {
            return Err(taken("community", name));
        }
        member::grant_in_community(&mut db, &id, self.user(), Role::Admin).await?;
        let made = self.find_community(&mut db, &name).await?;
        commit(db).await?;
        Ok(made)
    }

    /// All communities of an organization, by name; its members may know of each.
    pub async fn communities(&self, organization: &str) -> Result<Vec<Community>> {
        let mut db = self.read().await?;
        let organization = self.find_organization(&mut db, organization).await?;
        let rows = sqlx::query(select_communities!("WHERE o.id = $1 ORDER BY c.name"))
            .bind(organization.id.as_str())
            .fetch_all(&mut *db)
            .await
            .map_err(failed)?;
        rows.iter().map(query::community).collect()
    }

    /// A community of an organization that the user is a member of.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn community(&self, name: &CommunityName) -> Result<Community> {
        self.find_community(&mut *self.read().await?, name).await
    }

    /// The user's role in a community.
    pub async fn role_in(&self, community: &Community) -> Result<Option<Role>> {
        role_in_community(&mut *self.read().await?, &community.id, self.user()).await
    }

    /// Deletes an empty community.
    ///
    /// # Errors
    /// `NotPermitted` for the default one; `ResourceBusy` with what is in it; `PermissionDenied`
    /// below Editor.
    pub async fn delete_community(&self, name: &CommunityName) -> Result<()> {
        let mut db = self.write().await?;
        let community = self.find_community(&mut db, name).await?;
        if community.is_default {
            return Err(Error::new(
                ErrorKind::NotPermitted,
                format!("{name} is the team of its whole organization and stays"),
            ));
        }
        self.require_in_community(&mut db, &community, Role::Editor).await?;
        let rows = sqlx::query(
            "SELECT 'project ' || name AS thing FROM project WHERE community = $1 UNION ALL \
             SELECT 'published ' || r.kind || ' ' || p.name || '/' || r.name AS thing \
             FROM publication b JOIN resource r ON r.id = b.resource \
             JOIN project p ON p.id = r.project WHERE b.community = $1 ORDER BY thing",
        )
        .bind(community.id.as_str())
        .fetch_all(&mut *db)
        .await
        .map_err(failed)?;
        let things = rows.iter().map(|row| field(row, "thing")).collect::<Result<Vec<String>>>()?;
        if !things.is_empty() {
            return Err(Error::new(
                ErrorKind::ResourceBusy,
                format!("community {name} isn't empty: {}", things.join(", ")),
            )
            .with_hint("delete its projects and unpublish what it offers first"));
        }
        sqlx::query("DELETE FROM community WHERE id = $1")
            .bind(community.id.as_str())
            .execute(&mut *db)
            .await
            .map_err(failed)?;
        commit(db).await
    }
}
