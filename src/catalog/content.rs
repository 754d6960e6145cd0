//! What the catalogue knows of the content store: which one it is, and what becomes of its objects.
//!
//! An object is `uploading` from before its first byte is sent, `live` once it is durable,
//! `condemned` when nobody needs it, and `deleting` when a collector is about to remove it; what
//! is `deleted` is remembered for ever. Its name is the hash of its bytes, so it could come back:
//! a condemned object does, a deleting or deleted one never. Whoever needs such bytes again makes
//! an object of another name, for a collector that slept for a week may still remove the old one.
//!
//! No clock of ours decides what is kept. Times come from the database, and all they decide is
//! when somebody who isn't heard of any more is given up. If he comes back, he finds that what he
//! needs is there, or is told that it isn't: publishing looks at every object once more.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::any::AnyRow;
use sqlx::{Any, AnyConnection, Transaction};

use super::database::{self, damaged, failed, field, new_id};
use super::{Catalog, commit, query};
use crate::error::{Error, ErrorKind, Result};

/// An object of the content store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredObject {
    /// The hash of its bytes, which is its name.
    pub id: String,
    /// The part of the store it is in.
    pub area: String,
    /// How long it is, in bytes.
    pub bytes: u64,
}

/// The content store that a catalogue belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreIdentity {
    /// The name that the store has of its catalogue: random, and never used twice.
    pub name: String,
    /// Where it is.
    pub location: String,
    /// Whether the store is known to have that name.
    pub bound: bool,
}

impl Catalog {
    /// The content store that the catalogue belongs to, if it belongs to one yet.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn store(&self) -> Result<Option<StoreIdentity>> {
        identity(&mut *self.read().await?).await
    }

    /// Makes the catalogue belong to the store at `location`, unless it belongs to one already;
    /// returns the one it belongs to.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn choose_store(&self, location: &str) -> Result<StoreIdentity> {
        let (mut db, _) = self.change_content().await?;
        sqlx::query("UPDATE store SET name = $1, location = $2 WHERE id = 1 AND name = ''")
            .bind(new_id()?.as_str())
            .bind(location)
            .execute(&mut *db)
            .await
            .map_err(failed)?;
        let chosen = identity(&mut db).await?;
        commit(db).await?;
        chosen.ok_or_else(|| damaged("its store", "it has no name"))
    }

    /// Notes that the store knows its catalogue, or with `false` that it knows another: then the
    /// choice is undone.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn settle_store(&self, bound: bool) -> Result<()> {
        let (mut db, _) = self.change_content().await?;
        let statement = if bound {
            "UPDATE store SET bound = 1 WHERE id = 1"
        } else {
            "UPDATE store SET name = '', location = '' WHERE id = 1 AND bound = 0"
        };
        sqlx::query(statement).execute(&mut *db).await.map_err(failed)?;
        commit(db).await
    }

    /// The objects that are in the store and may be used, by their names.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn live_objects(&self) -> Result<Vec<StoredObject>> {
        let rows = sqlx::query(
            "SELECT id, area, bytes FROM object WHERE state = 'live' AND durable = 1 ORDER BY id",
        )
        .fetch_all(&mut *self.read().await?)
        .await
        .map_err(failed)?;
        rows.iter().map(object).collect()
    }

    /// All objects that were ever in the store, by their names, with their state.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn all_objects(&self) -> Result<Vec<(StoredObject, String)>> {
        let rows = sqlx::query("SELECT id, area, bytes, state FROM object ORDER BY id")
            .fetch_all(&mut *self.read().await?)
            .await
            .map_err(failed)?;
        rows.iter().map(|row| Ok((object(row)?, field(row, "state")?))).collect()
    }

    /// Begins a change of what the store holds; returns the clock as it is now.
    pub(super) async fn change_content(&self) -> Result<(Transaction<'static, Any>, i64)> {
        let mut db = self.pool.begin_with(database::BEGIN).await.map_err(failed)?;
        let clock = advance(&mut db).await?;
        Ok((db, clock))
    }
}

/// Counts the clock up and returns it. Whoever does waits until nobody else is changing the store.
pub(super) async fn advance(db: &mut AnyConnection) -> Result<i64> {
    let row = sqlx::query("UPDATE store SET clock = clock + 1 WHERE id = 1 RETURNING clock")
        .fetch_one(db)
        .await
        .map_err(failed)?;
    field(&row, "clock")
}

/// What time it is where the database is, in microseconds since 1970.
pub(super) async fn time(db: &mut AnyConnection) -> Result<i64> {
    let row = sqlx::query("SELECT CAST(CURRENT_TIMESTAMP AS TEXT) AS now")
        .fetch_one(db)
        .await
        .map_err(failed)?;
    let text: String = field(&row, "now")?;
    parse_time(&text).ok_or_else(|| damaged("its time", text))
}

/// Reads a time as databases write it: SQLite without an offset, in UTC, PostgreSQL with one.
fn parse_time(text: &str) -> Option<i64> {
    let time = text.parse::<Timestamp>().or_else(|_| format!("{text}Z").parse());
    time.ok().map(Timestamp::as_microsecond)
}

/// A length of time as it is stored, in microseconds.
pub(super) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX / 4)
}

/// Makes `objects` the ones that `root` needs, all of which must be there; condemned ones come
/// back.
///
/// # Errors
/// `StaleHandle` when one of them has been collected.
pub(super) async fn need(db: &mut AnyConnection, root: &str, objects: &[String]) -> Result<()> {
    for object in objects {
        let there = sqlx::query(
            "UPDATE object SET state = 'live' WHERE id = $1 AND durable = 1 \
             AND state IN ('live', 'condemned')",
        )
        .bind(object)
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        if there.rows_affected() == 0 {
            return Err(Error::new(
                ErrorKind::StaleHandle,
                format!("object {object} was collected while something was made of it"),
            )
            .with_hint("do it again: what is still stored is found again"));
        }
        sqlx::query("INSERT INTO need (root, object) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(root)
            .bind(object)
            .execute(&mut *db)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

pub(super) fn object(row: &AnyRow) -> Result<StoredObject> {
    Ok(StoredObject {
        id: field(row, "id")?,
        area: field(row, "area")?,
        bytes: query::number(row, "bytes")?,
    })
}

async fn identity(db: &mut AnyConnection) -> Result<Option<StoreIdentity>> {
    let row = sqlx::query("SELECT name, location, bound FROM store WHERE id = 1")
        .fetch_one(db)
        .await
        .map_err(failed)?;
    let name: String = field(&row, "name")?;
    if name.is_empty() {
        return Ok(None);
    }
    let (location, bound) = (field(&row, "location")?, query::truth(&row, "bound")?);
    Ok(Some(StoreIdentity { name, location, bound }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_databases_write_them() {
        let noon = Some(1_700_000_000_000_000);
        assert_eq!(parse_time("2023-11-14 22:13:20"), noon);
        assert_eq!(parse_time("2023-11-14 22:13:20+00"), noon);
        assert_eq!(parse_time("2023-11-15 03:43:20.000000+05:30"), noon);
        assert_eq!(parse_time("soon"), None);
    }
}
