//! Leases: what those who write and read the content store use stays until they are done.
//!
//! A lease is renewed as long as its process lives. One that isn't lapses after a while, which
//! the database's clock decides: when it is past the end, for it may tell whole seconds only and
//! no lease shall end early. One of a process of this host that has ended is given up at once.
//! Whoever comes back after that takes his lease again and learns whether he lost anything.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::AnyConnection;
use tokio::task::AbortHandle;

use super::content::{self, micros};
use super::database::{failed, field, new_id};
use super::model::Id;
use super::{Catalog, commit};
use crate::error::Result;

mod owner;
pub(super) mod process;
mod reader;
mod writer;

pub use owner::{Claim, FilesAt, Owner};
pub use reader::Reader;
pub use writer::Writer;

/// A lease is renewed so many times before it would lapse.
const RENEWALS: u32 = 4;

/// No lease is renewed more often, however short it is.
const LEAST_PAUSE: Duration = Duration::from_millis(200);

/// A lease, and whose it is.
#[derive(Debug)]
struct Holder {
    catalog: Catalog,
    id: Id,
    role: &'static str,
    began: i64,
    lasts: Duration,
    /// Whether it was given back.
    ended: AtomicBool,
}

impl Holder {
    async fn begin(catalog: &Catalog, role: &'static str, lasts: Duration) -> Result<Self> {
        let (mut db, began) = catalog.change_content().await?;
        let (catalog, id) = (catalog.clone(), new_id()?);
        let holder = Self { catalog, id, role, began, lasts, ended: AtomicBool::new(false) };
        holder.touch(&mut db).await?;
        commit(db).await?;
        Ok(holder)
    }

    /// Takes the lease, or takes it again; tells whether it had lapsed.
    async fn touch(&self, db: &mut AnyConnection) -> Result<bool> {
        let now = content::time(db).await?;
        let found = sqlx::query("SELECT expires FROM lease WHERE id = $1")
            .bind(self.id.as_str())
            .fetch_optional(&mut *db)
            .await
            .map_err(failed)?;
        let lapsed = match found {
            Some(row) => field::<i64>(&row, "expires")? < now,
            None => true,
        };
        sqlx::query(
            "INSERT INTO lease (id, role, user_name, host, process, began, expires) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (id) DO UPDATE SET expires = EXCLUDED.expires",
        )
        .bind(self.id.as_str())
        .bind(self.role)
        .bind(self.catalog.user())
        .bind(process::host())
        .bind(process::this())
        .bind(self.began)
        .bind(now.saturating_add(micros(self.lasts)))
        .execute(db)
        .await
        .map_err(failed)?;
        Ok(lapsed)
    }

    /// Gives the lease back as part of a change.
    async fn give_back(&self, db: &mut AnyConnection) -> Result<()> {
        // Before the change is done: a renewal that waits for it finds the lease ended.
        self.ended.store(true, Ordering::SeqCst);
        sqlx::query("DELETE FROM lease WHERE id = $1")
            .bind(self.id.as_str())
            .execute(db)
            .await
            .map_err(failed)?;
        Ok(())
    }

    async fn end(&self) -> Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        let (mut db, _) = self.catalog.change_content().await?;
        self.give_back(&mut db).await?;
        commit(db).await
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

/// A task that renews a lease for as long as this is there.
#[derive(Debug)]
struct Renewal(AbortHandle);

impl Renewal {
    /// Calls `renew` in time, again and again.
    fn start<F>(lasts: Duration, mut renew: impl FnMut() -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<()>> + Send,
    {
        let pause = (lasts / RENEWALS).max(LEAST_PAUSE);
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                if let Err(error) = renew().await {
                    tracing::warn!("a lease on the content store can't be renewed: {error:?}");
                }
            }
        });
        Self(task.abort_handle())
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}
