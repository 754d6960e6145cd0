//! Tags: names that somebody gave versions, so that `flowers@published` means one of them.

use sqlx::AnyConnection;

use super::database::{failed, field, now};
use super::model::{Id, Kind, Tag};
use super::{Catalog, commit, name, query, version};
use crate::error::{Error, ErrorKind, Result};

impl Catalog {
    /// Gives a version of a dataset a name; tells which version had it before, if another had.
    ///
    /// # Errors
    /// `AlreadyExists` when another version has that name, unless it `moves`; `InvalidInput` for
    /// what can't be a tag, or what isn't a dataset; `NotFound`; `PermissionDenied` below Developer
    /// of the project that owns the dataset.
    pub async fn tag(
        &self,
        resource: &Id,
        number: u32,
        tag: &str,
        moves: bool,
    ) -> Result<Option<u32>> {
        name::check_tag(tag)?;
        let mut db = self.write().await?;
        let resource = self.find_own(&mut db, resource).await?;
        if resource.kind != Kind::Dataset {
            let message = format!("{} {} can't have tags", resource.kind, resource.name);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        version::find(&mut db, &resource, i64::from(number)).await?;
        let before = tagged(&mut db, &resource.id, tag).await?.filter(|before| *before != number);
        if let Some(before) = before.filter(|_| !moves) {
            let message = format!("{}@{before} has the tag {tag} already", resource.name);
            return Err(Error::new(ErrorKind::AlreadyExists, message)
                .with_hint(format!("--move takes it to version {number}")));
        }
        sqlx::query(
            "INSERT INTO tag (resource, name, number, creator, created) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (resource, name) DO UPDATE SET \
             number = EXCLUDED.number, creator = EXCLUDED.creator, created = EXCLUDED.created",
        )
        .bind(resource.id.as_str())
        .bind(tag)
        .bind(i64::from(number))
        .bind(self.user())
        .bind(now())
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        commit(db).await?;
        Ok(before)
    }

    /// Takes a tag away; tells which version had it.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` below Developer of the project that owns the dataset.
    pub async fn untag(&self, resource: &Id, tag: &str) -> Result<u32> {
        let mut db = self.write().await?;
        let resource = self.find_own(&mut db, resource).await?;
        let number = tagged(&mut db, &resource.id, tag).await?.ok_or_else(|| {
            let message = format!("{} {} has no tag {tag}", resource.kind, resource.name);
            Error::new(ErrorKind::NotFound, message).with_hint(format!(
                "`atelier {} log {}` shows those it has",
                resource.kind, resource.name
            ))
        })?;
        sqlx::query("DELETE FROM tag WHERE resource = $1 AND name = $2")
            .bind(resource.id.as_str())
            .bind(tag)
            .execute(&mut *db)
            .await
            .map_err(failed)?;
        commit(db).await?;
        Ok(number)
    }

    /// The tags of a dataset, by name.
    ///
    /// # Errors
    /// `NotFound` where the user may not know of the dataset.
    pub async fn tags(&self, resource: &Id) -> Result<Vec<Tag>> {
        let mut db = self.read().await?;
        self.find_readable(&mut db, resource).await?;
        let rows = sqlx::query("SELECT name, number FROM tag WHERE resource = $1 ORDER BY name")
            .bind(resource.as_str())
            .fetch_all(&mut *db)
            .await
            .map_err(failed)?;
        let tag =
            |row| Ok(Tag { name: field(row, "name")?, version: query::number(row, "number")? });
        rows.iter().map(tag).collect()
    }

    /// The version that has a tag, if one has.
    ///
    /// # Errors
    /// `NotFound` where the user may not know of the dataset.
    pub async fn tagged(&self, resource: &Id, tag: &str) -> Result<Option<u32>> {
        let mut db = self.read().await?;
        self.find_readable(&mut db, resource).await?;
        tagged(&mut db, resource, tag).await
    }
}

async fn tagged(db: &mut AnyConnection, resource: &Id, tag: &str) -> Result<Option<u32>> {
    let row = sqlx::query("SELECT number FROM tag WHERE resource = $1 AND name = $2")
        .bind(resource.as_str())
        .bind(tag)
        .fetch_optional(db)
        .await
        .map_err(failed)?;
    row.map(|row| query::number(&row, "number")).transpose()
}
