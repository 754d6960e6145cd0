//! Accounts: which uid of a machine is which member of an organization.
//!
//! A mount that others may enter asks this for each of them. The numbers are those of the machines
//! that mount the organization's projects, which have them in common, as NFS and LDAP have it too.

use std::collections::BTreeMap;

use sqlx::AnyConnection;

use super::access::role_in_community;
use super::database::{damaged, failed, field, now};
use super::member::default_community;
use super::model::{Account, Id, Project, Role};
use super::{Catalog, commit, query};
use crate::error::{Error, ErrorKind, Result};

/// The number that stands for no user, see `chown(2)`.
const NOBODY: u32 = u32::MAX;

impl Catalog {
    /// Says that who works under `uid` on a machine is the member `user`. A member may have
    /// several accounts; an account has one member.
    ///
    /// # Errors
    /// `PermissionDenied` unless the acting user is Admin of the default community; `NotFound` for
    /// who isn't a member of the organization; `AlreadyExists` when the account is another
    /// member's.
    pub async fn map_account(&self, organization: &str, user: &str, uid: u32) -> Result<()> {
        if uid == NOBODY {
            return Err(Error::new(ErrorKind::InvalidInput, format!("no user has the uid {uid}")));
        }
        let mut db = self.write().await?;
        let id = self.administer(&mut db, organization).await?;
        let team = default_community(&mut db, &id).await?;
        if role_in_community(&mut db, &team.id, user).await?.is_none() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{user} isn't a member of {organization}"),
            )
            .with_hint(format!("`atelier member add {user} --role ROLE --on …` makes him one")));
        }
        let owner =
            sqlx::query("SELECT user_name FROM account WHERE organization = $1 AND uid = $2")
                .bind(id.as_str())
                .bind(i64::from(uid))
                .fetch_optional(&mut *db)
                .await
                .map_err(failed)?;
        if let Some(row) = owner {
            let owner: String = field(&row, "user_name")?;
            if owner == user {
                return Ok(());
            }
            return Err(Error::new(ErrorKind::AlreadyExists, format!("uid {uid} is {owner}"))
                .with_hint(format!("`atelier member unmap {uid}` takes that back")));
        }
        sqlx::query(
            "INSERT INTO account (organization, uid, user_name, creator, created) \
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(id.as_str())
        .bind(i64::from(uid))
        .bind(user)
        .bind(self.user())
        .bind(now())
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        commit(db).await
    }

    /// Says that who works under `uid` is no member; returns whom it was.
    ///
    /// # Errors
    /// `PermissionDenied` unless the acting user is Admin of the default community; `NotFound`.
    pub async fn unmap_account(&self, organization: &str, uid: u32) -> Result<String> {
        let mut db = self.write().await?;
        let id = self.administer(&mut db, organization).await?;
        let gone = sqlx::query(
            "DELETE FROM account WHERE organization = $1 AND uid = $2 RETURNING user_name",
        )
        .bind(id.as_str())
        .bind(i64::from(uid))
        .fetch_optional(&mut *db)
        .await
        .map_err(failed)?;
        let Some(row) = gone else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("uid {uid} is no member of {organization}"),
            )
            .with_hint("`atelier member accounts` lists those that are"));
        };
        let user = field(&row, "user_name")?;
        commit(db).await?;
        Ok(user)
    }

    /// The accounts of an organization's members, by uid.
    ///
    /// # Errors
    /// `NotFound` for who isn't a member himself.
    pub async fn accounts(&self, organization: &str) -> Result<Vec<Account>> {
        let mut db = self.read().await?;
        let id = self.find_organization(&mut db, organization).await?.id;
        let rows =
            sqlx::query("SELECT uid, user_name FROM account WHERE organization = $1 ORDER BY uid")
                .bind(id.as_str())
                .fetch_all(&mut *db)
                .await
                .map_err(failed)?;
        let account = |row| Ok(Account { uid: uid(row)?, user: field(row, "user_name")? });
        rows.iter().map(account).collect()
    }

    /// The effective role on a project of each account that has one.
    ///
    /// # Errors
    /// `PermissionDenied` for who has no role there himself.
    pub async fn roles_of_accounts(&self, project: &Project) -> Result<BTreeMap<u32, Role>> {
        let mut db = self.read().await?;
        self.require(&mut db, project, Role::Viewer).await?;
        let rows = sqlx::query(
            "SELECT a.uid, pm.role AS direct, cm.role AS above FROM project p \
             JOIN community c ON c.id = p.community \
             JOIN account a ON a.organization = c.organization \
             JOIN community d ON d.organization = c.organization AND d.is_default = 1 \
             JOIN community_member m ON m.community = d.id AND m.user_name = a.user_name \
             LEFT JOIN project_member pm ON pm.project = p.id AND pm.user_name = a.user_name \
             LEFT JOIN community_member cm ON cm.community = c.id AND cm.user_name = a.user_name \
             WHERE p.id = $1",
        )
        .bind(project.id.as_str())
        .fetch_all(&mut *db)
        .await
        .map_err(failed)?;
        let mut roles = BTreeMap::new();
        for row in &rows {
            if let Some(role) = query::effective_role(row)? {
                roles.insert(uid(row)?, role);
            }
        }
        Ok(roles)
    }

    /// Finds an organization of whose default community the user is Admin.
    async fn administer(&self, db: &mut AnyConnection, organization: &str) -> Result<Id> {
        let id = self.find_organization(db, organization).await?.id;
        let team = default_community(db, &id).await?;
        self.require_in_community(db, &team, Role::Admin).await?;
        Ok(id)
    }
}

fn uid(row: &sqlx::any::AnyRow) -> Result<u32> {
    u32::try_from(field::<i64>(row, "uid")?).map_err(|error| damaged("a uid", error))
}
