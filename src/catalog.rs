//! The catalogue: who owns what, which versions there are, who may do what.
//!
//! One [`Catalog`] acts as one user, and each of its functions asks whether that user's role
//! allows it. What another organization owns doesn't exist for him: `NotFound`, never
//! `PermissionDenied`.
//!
//! Every change is one transaction that begins by counting [`Catalog::revision`] up. On SQLite it
//! begins `IMMEDIATE`, so that it waits for its turn instead of failing half way; on PostgreSQL
//! the counted row is what writers queue up at. The SQL text is the same for both.

use std::path::Path;
use std::sync::Arc;

use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyPool, Transaction};

use crate::error::{Error, ErrorKind, IoContext, Result};

mod access;
mod account;
pub mod collect;
mod community;
mod content;
mod database;
mod environment;
mod lease;
mod member;
pub mod model;
pub mod name;
mod organization;
mod project;
mod query;
mod recipient;
mod resource;
mod room;
mod share;
mod tag;
mod version;

pub use content::{StoreIdentity, StoredObject};
pub use lease::{Claim, FilesAt, Owner, Reader, Writer};
pub use model::*;
pub use name::{CommunityName, ProjectName, Reference};
pub use recipient::{Holder, Reach};
pub use version::checkpoint_name;

use database::{failed, field};

/// The catalogue, as one user may see and change it. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Catalog {
    pool: AnyPool,
    user: Arc<str>,
}

impl Catalog {
    /// Opens the catalogue in a SQLite file; makes the file, its folder and its tables first if
    /// they aren't there. Several processes may do so at once.
    ///
    /// # Errors
    /// `Unsupported` for a file of a newer program; `Damaged`, `PermissionDenied`, `Io`.
    pub async fn open(file: &Path, user: &str) -> Result<Self> {
        name::check_user(user)?;
        Ok(Self { pool: database::open(file).await?, user: user.into() })
    }

    /// Opens a catalogue that is there already.
    ///
    /// # Errors
    /// `NotFound` when it isn't; otherwise as [`Catalog::open`].
    pub async fn open_existing(file: &Path, user: &str) -> Result<Self> {
        if !file.try_exists().context(|| format!("{} can't be looked at", file.display()))? {
            let home = file.parent().unwrap_or(file).display();
            return Err(Error::new(ErrorKind::NotFound, format!("there is no home at {home}"))
                .with_hint("`atelier init` makes one"));
        }
        Self::open(file, user).await
    }

    /// The same catalogue, acting as another user.
    #[must_use]
    pub fn as_user(&self, user: &str) -> Self {
        Self { pool: self.pool.clone(), user: user.into() }
    }

    /// Who acts.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// A number that grows with every change: as long as it stays, everything has stayed.
    pub async fn revision(&self) -> Result<i64> {
        let mut db = self.read().await?;
        let row = sqlx::query("SELECT value FROM revision WHERE id = 1")
            .fetch_one(&mut *db)
            .await
            .map_err(failed)?;
        field(&row, "value")
    }

    /// Closes the connections, waiting for what is under way.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn read(&self) -> Result<PoolConnection<Any>> {
        self.pool.acquire().await.map_err(failed)
    }

    /// Begins a change; dropping it without `commit` undoes it.
    async fn write(&self) -> Result<Transaction<'static, Any>> {
        let mut db = self.pool.begin_with(database::BEGIN).await.map_err(failed)?;
        sqlx::query("UPDATE revision SET value = value + 1 WHERE id = 1")
            .execute(&mut *db)
            .await
            .map_err(failed)?;
        Ok(db)
    }
}

async fn commit(db: Transaction<'static, Any>) -> Result<()> {
    db.commit().await.map_err(failed)
}
