//! Who puts objects into the store, and publishes one version that is made of them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::AnyConnection;

use super::{Holder, Renewal};
use crate::catalog::content::{self, StoredObject};
use crate::catalog::database::{failed, field};
use crate::catalog::model::{NewResource, NewVersion, Project, Resource, Version};
use crate::catalog::{Catalog, commit};
use crate::error::Result;

/// Somebody who puts objects into the store and then publishes one version that is made of them.
///
/// What he puts there stays until he ends, and so does everything that was there when he began.
/// Clones are the same writer.
#[derive(Clone)]
pub struct Writer(Arc<Shared>);

struct Shared {
    holder: Arc<Holder>,
    /// Objects that are durable and that the catalogue doesn't know to be. Guards a list.
    durable: Mutex<Vec<String>>,
    _renewal: Renewal,
}

impl Catalog {
    /// Begins to write; the lease lasts that long after its last renewal. What a version is to be
    /// built upon has to be looked up afterwards.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn begin_writing(&self, lasts: Duration) -> Result<Writer> {
        let holder = Arc::new(Holder::begin(self, "writer", lasts).await?);
        let renewed = holder.clone();
        let renewal = Renewal::start(lasts, move || renew(renewed.clone()));
        Ok(Writer(Arc::new(Shared { holder, durable: Mutex::default(), _renewal: renewal })))
    }
}

async fn renew(holder: Arc<Holder>) -> Result<()> {
    let (mut db, _) = holder.catalog.change_content().await?;
    if holder.has_ended() {
        return Ok(());
    }
    holder.touch(&mut db).await?;
    commit(db).await
}

impl Writer {
    /// Announces an object, before its first byte is sent. `false` when the store had an object
    /// of that name and may be removing it still: then nothing may be stored under it any more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn announce(&self, object: &StoredObject) -> Result<bool> {
        let holder = &self.0.holder;
        let (mut db, _) = holder.catalog.change_content().await?;
        let arrived = self.note_durable(&mut db).await?;
        let found = sqlx::query("SELECT state FROM object WHERE id = $1")
            .bind(&object.id)
            .fetch_optional(&mut *db)
            .await
            .map_err(failed)?;
        let state: Option<String> = found.map(|row| field(&row, "state")).transpose()?;
        match state.as_deref() {
            None => insert(&mut db, object).await?,
            Some("condemned") => revive(&mut db, &object.id).await?,
            Some("uploading" | "live") => {}
            Some(_) => return Ok(false),
        }
        holder.touch(&mut db).await?;
        sqlx::query(
            "INSERT INTO lease_object (lease, object) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        )
        .bind(holder.id.as_str())
        .bind(&object.id)
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        commit(db).await?;
        self.forget(&arrived);
        Ok(true)
    }

    /// The objects that may be used.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn live_objects(&self) -> Result<Vec<StoredObject>> {
        self.0.holder.catalog.live_objects().await
    }

    /// Says that an object that was announced is durable now. The catalogue learns it with the
    /// next announcement, or when the version is published.
    pub fn arrived(&self, object: &str) {
        self.durable().push(object.to_owned());
    }

    /// Publishes a version as [`Catalog::publish_version`] does, once however often it is asked
    /// to, and ends.
    ///
    /// # Errors
    /// `StaleHandle` when something that the version needs was collected since this writer began,
    /// which takes that he wasn't heard of for longer than his lease; and those of
    /// `publish_version`.
    pub async fn publish(
        &self,
        project: &Project,
        new: NewResource,
        version: NewVersion,
    ) -> Result<(Resource, Version)> {
        self.0.holder.catalog.publish_for(Some(self), project, new, version).await
    }

    /// Gives back what was held and isn't published. What arrived is found by the next writer,
    /// unless it is collected before.
    ///
    /// # Errors
    /// Those of the database; the lease lapses then.
    pub async fn end(&self) -> Result<()> {
        let holder = &self.0.holder;
        if holder.has_ended() {
            return Ok(());
        }
        let (mut db, _) = holder.catalog.change_content().await?;
        self.note_durable(&mut db).await?;
        holder.give_back(&mut db).await?;
        commit(db).await
    }

    /// The name that a version has of who published it.
    pub(in crate::catalog) fn id(&self) -> &str {
        self.0.holder.id.as_str()
    }

    /// Ends as part of the change that publishes.
    pub(in crate::catalog) async fn give_back(&self, db: &mut AnyConnection) -> Result<()> {
        self.0.holder.give_back(db).await
    }

    /// Tells the catalogue what is durable; returns it, to be forgotten once the change is done.
    pub(in crate::catalog) async fn note_durable(
        &self,
        db: &mut AnyConnection,
    ) -> Result<Vec<String>> {
        let arrived = self.durable().clone();
        let now = content::time(db).await?;
        for object in &arrived {
            // One that was condemned meanwhile is still there; one that is deleted isn't.
            sqlx::query(
                "UPDATE object SET state = 'live', since = $2, durable = 1 \
                 WHERE id = $1 AND state IN ('uploading', 'condemned', 'live')",
            )
            .bind(object)
            .bind(now)
            .execute(&mut *db)
            .await
            .map_err(failed)?;
        }
        Ok(arrived)
    }

    fn forget(&self, arrived: &[String]) {
        self.durable().retain(|object| !arrived.contains(object));
    }

    fn durable(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn insert(db: &mut AnyConnection, object: &StoredObject) -> Result<()> {
    let now = content::time(db).await?;
    sqlx::query(
        "INSERT INTO object (id, area, bytes, state, since, durable, condemned) \
         VALUES ($1, $2, $3, 'uploading', $4, 0, 0)",
    )
    .bind(&object.id)
    .bind(&object.area)
    .bind(i64::try_from(object.bytes).unwrap_or(i64::MAX))
    .bind(now)
    .execute(db)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Takes a condemned object back: as live if it was, else as one that is on its way.
async fn revive(db: &mut AnyConnection, object: &str) -> Result<()> {
    sqlx::query(
        "UPDATE object SET state = CASE durable WHEN 1 THEN 'live' ELSE 'uploading' END \
         WHERE id = $1",
    )
    .bind(object)
    .execute(db)
    .await
    .map_err(failed)?;
    Ok(())
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Writer").field(&self.0.holder.id).finish()
    }
}
