//! Who reads versions, which stay readable until he is done.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::AnyConnection;

use super::{Holder, Renewal};
use crate::catalog::database::{failed, field};
use crate::catalog::model::{Id, Version};
use crate::catalog::{Catalog, commit};
use crate::error::{Error, ErrorKind, Result};

/// Somebody who reads versions, which stay readable until he ends, also when they are deleted.
/// Clones are the same reader.
#[derive(Clone)]
pub struct Reader(Arc<Shared>);

struct Shared {
    holder: Arc<Holder>,
    held: Arc<Held>,
    _renewal: Renewal,
}

/// The roots that are open. Guards a set; never held while the catalogue is asked.
#[derive(Default)]
struct Held(Mutex<HashSet<String>>);

impl Catalog {
    /// Begins to read; the lease lasts that long after its last renewal.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn begin_reading(&self, lasts: Duration) -> Result<Reader> {
        let holder = Arc::new(Holder::begin(self, "reader", lasts).await?);
        let held = Arc::<Held>::default();
        let renewed = (holder.clone(), held.clone());
        let renewal = Renewal::start(lasts, move || {
            let (holder, held) = renewed.clone();
            async move { held.renew(&holder).await }
        });
        Ok(Reader(Arc::new(Shared { holder, held, _renewal: renewal })))
    }
}

impl Reader {
    /// Holds a version from now on; returns its root, which may be another one than it was:
    /// collecting rewrites versions.
    ///
    /// # Errors
    /// `NotFound` when the version was deleted meanwhile.
    pub async fn hold(&self, version: &Version) -> Result<String> {
        let holder = &self.0.holder;
        let mut db = holder.catalog.read().await?;
        let root = root_of(&mut db, &version.resource, version.number).await?;
        drop(db);
        if self.0.held.lock().contains(&root) {
            return Ok(root);
        }
        let (mut db, _) = holder.catalog.change_content().await?;
        let root = root_of(&mut db, &version.resource, version.number).await?;
        holder.touch(&mut db).await?;
        take(&mut db, &holder.id, &root).await?;
        commit(db).await?;
        self.0.held.lock().insert(root.clone());
        Ok(root)
    }

    /// Whether an object isn't there any more since it was collected: this process wasn't heard of
    /// for longer than its lease.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn has_lost(&self, object: &str) -> Result<bool> {
        let mut db = self.0.holder.catalog.read().await?;
        let found =
            sqlx::query("SELECT id FROM object WHERE id = $1 AND state IN ('deleting', 'deleted')")
                .bind(object)
                .fetch_optional(&mut *db)
                .await
                .map_err(failed)?;
        Ok(found.is_some())
    }

    /// Gives back what is held.
    ///
    /// # Errors
    /// Those of the database; the lease lapses then.
    pub async fn end(&self) -> Result<()> {
        self.0.holder.end().await
    }
}

impl Held {
    async fn renew(&self, holder: &Holder) -> Result<()> {
        let (mut db, _) = holder.catalog.change_content().await?;
        if holder.has_ended() {
            return Ok(());
        }
        let mut lost = Vec::new();
        if holder.touch(&mut db).await? {
            let roots: Vec<_> = self.lock().iter().cloned().collect();
            for root in roots {
                if take(&mut db, &holder.id, &root).await? {
                    lost.push(root);
                }
            }
        }
        commit(db).await?;
        for root in lost {
            tracing::error!(
                root,
                "a version that is open was collected: this process wasn't heard of for too long"
            );
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn root_of(db: &mut AnyConnection, resource: &Id, number: u32) -> Result<String> {
    let row = sqlx::query("SELECT root FROM version WHERE resource = $1 AND number = $2")
        .bind(resource.as_str())
        .bind(i64::from(number))
        .fetch_optional(db)
        .await
        .map_err(failed)?;
    match row {
        Some(row) => field(&row, "root"),
        None => Err(Error::new(ErrorKind::NotFound, format!("version {number} was deleted"))),
    }
}

/// Holds a root and takes back what was condemned of it; tells whether something is gone.
async fn take(db: &mut AnyConnection, lease: &Id, root: &str) -> Result<bool> {
    sqlx::query("INSERT INTO lease_root (lease, root) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(lease.as_str())
        .bind(root)
        .execute(&mut *db)
        .await
        .map_err(failed)?;
    sqlx::query(
        "UPDATE object SET state = 'live' WHERE state = 'condemned' AND durable = 1 \
         AND id IN (SELECT object FROM need WHERE root = $1)",
    )
    .bind(root)
    .execute(&mut *db)
    .await
    .map_err(failed)?;
    // What a root needs is forgotten with the root itself.
    let gone = sqlx::query(
        "SELECT o.id FROM object o WHERE o.state IN ('deleting', 'deleted') \
         AND (o.id = $1 OR o.id IN (SELECT object FROM need WHERE root = $1)) LIMIT 1",
    )
    .bind(root)
    .fetch_optional(db)
    .await
    .map_err(failed)?;
    Ok(gone.is_some())
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reader").field(&self.0.holder.id).finish()
    }
}
