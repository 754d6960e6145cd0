//! Organizations: made with their default community, listed for their members, never deleted.

use super::access::taken;
use super::database::{failed, new_id, now};
use super::model::{Organization, Policy, Role};
use super::{Catalog, commit, member, name, query};
use crate::error::Result;

impl Catalog {
    /// Makes an organization with its default community `<name> Team`, of which the user becomes
    /// Admin.
    ///
    /// # Errors
    /// `InvalidInput`, `AlreadyExists`.
    pub async fn create_organization(&self, name: &str) -> Result<Organization> {
        name::check_organization(name)?;
        let mut db = self.write().await?;
        let (organization, team, now) = (new_id()?, new_id()?, now());
        let made = sqlx::query(
            "INSERT INTO organization (id, name, policy, creator, created, modified) \
             VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT (name) DO NOTHING",
        )
        .bind(organization.as_str())
        .bind(name)
        .bind(Policy::Seed.as_str())
        .bind(self.user())
        .bind(now)
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        if made.rows_affected() == 0 {
            return Err(taken("organization", name));
        }
        sqlx::query(
            "INSERT INTO community \
             (id, organization, name, description, is_default, creator, created, modified) \
             VALUES ($1, $2, $3, $4, 1, $5, $6, $6)",
        )
        .bind(team.as_str())
        .bind(organization.as_str())
        .bind(format!("{name} Team"))
        .bind(format!("Everybody in {name}"))
        .bind(self.user())
        .bind(now)
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        member::grant_in_community(&mut db, &team, self.user(), Role::Admin).await?;
        let made = self.find_organization(&mut db, name).await?;
        commit(db).await?;
        Ok(made)
    }

    /// The organizations that the user is a member of, by name.
    pub async fn organizations(&self) -> Result<Vec<Organization>> {
        let mut db = self.read().await?;
        let rows = sqlx::query(
            "SELECT o.* FROM organization o \
             JOIN community d ON d.organization = o.id AND d.is_default = 1 \
             JOIN community_member m ON m.community = d.id AND m.user_name = $1 ORDER BY o.name",
        )
        .bind(self.user())
        .fetch_all(&mut *db)
        .await
        .map_err(failed)?;
        rows.iter().map(query::organization).collect()
    }

    /// An organization that the user is a member of.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn organization(&self, name: &str) -> Result<Organization> {
        self.find_organization(&mut *self.read().await?, name).await
    }

    /// Decides who may publish resources in the organization.
    ///
    /// # Errors
    /// `PermissionDenied` unless the user is Admin of the default community.
    pub async fn set_policy(&self, organization: &str, policy: Policy) -> Result<()> {
        let mut db = self.write().await?;
        let organization = self.find_organization(&mut db, organization).await?;
        let team = member::default_community(&mut db, &organization.id).await?;
        self.require_in_community(&mut db, &team, Role::Admin).await?;
        sqlx::query("UPDATE organization SET policy = $2, modified = $3 WHERE id = $1")
            .bind(organization.id.as_str())
            .bind(policy.as_str())
            .bind(now())
            .execute(&mut *db)
            .await
            .map_err(failed)?;
        commit(db).await
    }
}
