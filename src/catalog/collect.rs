//! What a collector asks of the catalogue: which objects nobody needs any more.
//!
//! Each step is one transaction, and any number of collectors may be at it, beside those who read
//! and write. Nothing is lost if one of them stops anywhere.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::AnyConnection;

use super::content::{self, StoredObject, micros, need, object};
use super::database::{failed, field};
use super::lease::{Writer, process};
use super::model::{Kind, Resource, Version};
use super::query::select_resources;
use super::{Catalog, commit, query};
use crate::error::{Error, ErrorKind, Result};

/// Objects that one step takes at most, so that nobody waits long for the database.
const STEP: i64 = 256;

/// Whether an object is needed: by a version, or by a root that somebody has open at time `$1`.
macro_rules! needed {
    () => {
        "EXISTS (SELECT 1 FROM need n WHERE n.object = object.id AND ( \
         EXISTS (SELECT 1 FROM version v WHERE v.root = n.root) OR \
         EXISTS (SELECT 1 FROM lease_root r JOIN lease l ON l.id = r.lease \
         WHERE r.root = n.root AND l.expires >= $1)))"
    };
}

/// Whether an object is one that somebody is putting into the store at time `$1`.
macro_rules! announced {
    () => {
        "EXISTS (SELECT 1 FROM lease_object a JOIN lease l ON l.id = a.lease \
         WHERE a.object = object.id AND l.expires >= $1)"
    };
}

/// Condemned objects that can be removed at time `$1` if they were condemned until `$2`: no
/// writer is left that began before and so may have found them.
macro_rules! removable {
    () => {
        concat!(
            "state = 'condemned' AND since <= $2 AND NOT ",
            needed!(),
            " AND NOT ",
            announced!(),
            " AND NOT EXISTS (SELECT 1 FROM lease w WHERE w.role = 'writer' \
             AND w.began < object.condemned AND w.expires >= $1)"
        )
    };
}

/// Some objects and their length together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// How many bytes they have.
    pub bytes: u64,
}

impl Amount {
    /// Counts some more.
    pub fn add(&mut self, objects: u64, bytes: u64) {
        self.objects += objects;
        self.bytes += bytes;
    }
}

/// How the store stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Objects that are used.
    pub kept: Amount,
    /// Objects that nobody needs.
    pub condemned: Amount,
    /// Those of them that can be removed now; the others wait for their grace to pass, or for a
    /// writer who began before they were condemned.
    pub removable: Amount,
}

/// A version and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rooted {
    /// Its root.
    pub root: String,
    /// Its resource's identifier.
    pub resource: String,
    /// Its number.
    pub number: u32,
    /// The kind of its resource.
    pub kind: Kind,
    /// The name of its resource, below its project.
    pub name: String,
    /// The project: organization, community and project.
    pub project: String,
}

impl Catalog {
    /// All versions, whoever owns them.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn all_versions(&self) -> Result<Vec<Rooted>> {
        let rows = sqlx::query(
            "SELECT v.root, v.resource, v.number, r.kind, r.name, p.name AS project, \
             c.name AS community, o.name AS organization FROM version v \
             JOIN resource r ON r.id = v.resource JOIN project p ON p.id = r.project \
             JOIN community c ON c.id = p.community JOIN organization o ON o.id = c.organization \
             ORDER BY o.name, c.name, p.name, r.kind, r.name, v.number",
        )
        .fetch_all(&mut *self.read().await?)
        .await
        .map_err(failed)?;
        let rooted = |row| {
            let [organization, community, project]: [String; 3] =
                [field(row, "organization")?, field(row, "community")?, field(row, "project")?];
            Ok(Rooted {
                root: field(row, "root")?,
                resource: field(row, "resource")?,
                number: query::number(row, "number")?,
                kind: query::word(row, "kind")?,
                name: field(row, "name")?,
                project: format!("{organization}/{community}/{project}"),
            })
        };
        rows.iter().map(rooted).collect()
    }

    /// The roots of versions that don't say what they need, as those of the first format.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn unknown_roots(&self) -> Result<Vec<String>> {
        unknown_roots(&mut *self.read().await?).await
    }

    /// Notes what the root of a version needs that doesn't say so itself.
    ///
    /// # Errors
    /// `StaleHandle` when some of it was collected.
    pub async fn adopt(&self, root: &str, objects: &[StoredObject]) -> Result<()> {
        let (mut db, _) = self.change_content().await?;
        let now = content::time(&mut db).await?;
        for object in objects {
            sqlx::query(
                "INSERT INTO object (id, area, bytes, state, since, durable, condemned) \
                 VALUES ($1, $2, $3, 'live', $4, 1, 0) ON CONFLICT DO NOTHING",
            )
            .bind(&object.id)
            .bind(&object.area)
            .bind(i64::try_from(object.bytes).unwrap_or(i64::MAX))
            .bind(now)
            .execute(&mut *db)
            .await
            .map_err(failed)?;
        }
        let ids: Vec<_> = objects.iter().map(|object| object.id.clone()).collect();
        need(&mut db, root, &ids).await?;
        commit(db).await
    }

    /// How the store would stand after [`condemn`](Self::condemn), if what was condemned for
    /// `grace` could be removed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn outlook(&self, grace: Duration) -> Result<Outlook> {
        let (mut db, clock) = self.change_content().await?;
        condemn(&mut db, clock).await?;
        let (now, until) = times(&mut db, grace).await?;
        let rows = sqlx::query(
            "SELECT state, COUNT(*) AS objects, CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS bytes \
             FROM object GROUP BY state",
        )
        .fetch_all(&mut *db)
        .await
        .map_err(failed)?;
        let mut outlook = Outlook::default();
        for row in &rows {
            let (objects, bytes) = (query::number(row, "objects")?, query::number(row, "bytes")?);
            match field::<String>(row, "state")?.as_str() {
                "live" | "uploading" => outlook.kept.add(objects, bytes),
                "condemned" | "deleting" => outlook.condemned.add(objects, bytes),
                _ => {}
            }
        }
        let rows = sqlx::query(concat!(
            "SELECT id, area, bytes FROM object WHERE (",
            removable!(),
            ") OR state = 'deleting'"
        ))
        .bind(now)
        .bind(until)
        .fetch_all(&mut *db)
        .await
        .map_err(failed)?;
        for row in &rows {
            outlook.removable.add(1, object(row)?.bytes);
        }
        // Nothing of this is committed.
        Ok(outlook)
    }

    /// Condemns the objects that nobody needs, and takes back those that somebody needs again;
    /// returns what was condemned.
    ///
    /// # Errors
    /// `ResourceBusy` when it isn't known what some version needs.
    pub async fn condemn(&self) -> Result<Amount> {
        let (mut db, clock) = self.change_content().await?;
        if let Some(root) = unknown_roots(&mut db).await?.first() {
            let message = format!("it isn't known what the version with root {root} needs");
            return Err(Error::new(ErrorKind::ResourceBusy, message)
                .with_hint("collect again; if it stays so, `atelier store verify` says why"));
        }
        let condemned = condemn(&mut db, clock).await?;
        commit(db).await?;
        Ok(condemned)
    }

    /// Some of the objects that were condemned for `grace` and that nobody can need any more. They
    /// never come back: whoever gets them has to remove them, and to say so to
    /// [`removed`](Self::removed). Those that another collector left behind come again.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn take_removable(&self, grace: Duration) -> Result<Vec<StoredObject>> {
        let (mut db, _) = self.change_content().await?;
        let (now, until) = times(&mut db, grace).await?;
        let rows = sqlx::query(concat!(
            "SELECT id, area, bytes FROM object WHERE (",
            removable!(),
            ") OR state = 'deleting' ORDER BY id LIMIT $3"
        ))
        .bind(now)
        .bind(until)
        .bind(STEP)
        .fetch_all(&mut *db)
        .await
        .map_err(failed)?;
        let objects: Vec<_> = rows.iter().map(object).collect::<Result<_>>()?;
        for object in &objects {
            enter(&mut db, &object.id, "deleting", now).await?;
        }
        commit(db).await?;
        Ok(objects)
    }

    /// Notes that objects are removed. What one of them needed, if it was a root, is forgotten.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn removed(&self, objects: &[StoredObject]) -> Result<()> {
        let (mut db, _) = self.change_content().await?;
        let now = content::time(&mut db).await?;
        for object in objects {
            enter(&mut db, &object.id, "deleted", now).await?;
            sqlx::query("DELETE FROM need WHERE root = $1")
                .bind(&object.id)
                .execute(&mut *db)
                .await
                .map_err(failed)?;
        }
        commit(db).await
    }

    /// Puts the root `new`, which a writer made and which holds the same, in the place of `old`;
    /// tells in how many versions.
    ///
    /// # Errors
    /// `StaleHandle` when something that the new root needs was collected.
    pub async fn replace_root(
        &self,
        writer: &Writer,
        old: &str,
        new: &str,
        needs: &[String],
    ) -> Result<u64> {
        let (mut db, _) = self.change_content().await?;
        writer.note_durable(&mut db).await?;
        let replaced = sqlx::query("UPDATE version SET root = $2 WHERE root = $1")
            .bind(old)
            .bind(new)
            .execute(&mut *db)
            .await
            .map_err(failed)?
            .rows_affected();
        if replaced > 0 {
            need(&mut db, new, needs).await?;
        }
        commit(db).await?;
        Ok(replaced)
    }

    /// Notes that an object isn't what it was: nothing new is built upon it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn distrust(&self, object: &str) -> Result<()> {
        let (mut db, _) = self.change_content().await?;
        sqlx::query("UPDATE object SET durable = 0 WHERE id = $1")
            .bind(object)
            .execute(&mut *db)
            .await
            .map_err(failed)?;
        commit(db).await
    }

    /// The objects that aren't what they were, as far as that was noted.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn distrusted(&self) -> Result<Vec<String>> {
        let rows =
            sqlx::query("SELECT id FROM object WHERE state = 'live' AND durable = 0 ORDER BY id")
                .fetch_all(&mut *self.read().await?)
                .await
                .map_err(failed)?;
        rows.iter().map(|row| field(row, "id")).collect()
    }

    /// Notes that an object that was [distrusted](Self::distrusted) is what it was.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn trust(&self, object: &str) -> Result<()> {
        let (mut db, _) = self.change_content().await?;
        sqlx::query("UPDATE object SET durable = 1 WHERE id = $1 AND state = 'live'")
            .bind(object)
            .execute(&mut *db)
            .await
            .map_err(failed)?;
        commit(db).await
    }

    /// The records of all versions, whoever owns them, each with that of its resource.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn records(&self) -> Result<Vec<(Resource, Version)>> {
        let mut db = self.read().await?;
        let rows = sqlx::query("SELECT * FROM version ORDER BY resource, number")
            .fetch_all(&mut *db)
            .await
            .map_err(failed)?;
        let versions: Vec<_> = rows.iter().map(query::version).collect::<Result<_>>()?;
        let rows = sqlx::query(select_resources!("WHERE r.versions > 0"))
            .fetch_all(&mut *db)
            .await
            .map_err(failed)?;
        let resources: Vec<_> = rows.iter().map(query::resource).collect::<Result<_>>()?;
        let resources: HashMap<_, _> =
            resources.into_iter().map(|resource| (resource.id.clone(), resource)).collect();
        let with_resource =
            |version: Version| Some((resources.get(&version.resource)?.clone(), version));
        Ok(versions.into_iter().filter_map(with_resource).collect())
    }
}

async fn times(db: &mut AnyConnection, grace: Duration) -> Result<(i64, i64)> {
    let now = content::time(db).await?;
    Ok((now, now.saturating_sub(micros(grace))))
}

async fn condemn(db: &mut AnyConnection, clock: i64) -> Result<Amount> {
    let now = content::time(db).await?;
    give_up(db, now).await?;
    sqlx::query(concat!(
        "UPDATE object SET state = 'live' WHERE state = 'condemned' AND durable = 1 AND ",
        needed!()
    ))
    .bind(now)
    .execute(&mut *db)
    .await
    .map_err(failed)?;
    let rows = sqlx::query(concat!(
        "SELECT id, area, bytes FROM object WHERE state IN ('live', 'uploading') AND NOT ",
        needed!(),
        " AND NOT ",
        announced!()
    ))
    .bind(now)
    .fetch_all(&mut *db)
    .await
    .map_err(failed)?;
    let mut condemned = Amount::default();
    for row in &rows {
        let object = object(row)?;
        condemned.add(1, object.bytes);
        sqlx::query(
            "UPDATE object SET state = 'condemned', since = $2, condemned = $3 WHERE id = $1",
        )
        .bind(&object.id)
        .bind(now)
        .bind(clock)
        .execute(&mut *db)
        .await
        .map_err(failed)?;
    }
    Ok(condemned)
}

/// Gives up the leases that have lapsed, and those of processes that have ended.
async fn give_up(db: &mut AnyConnection, now: i64) -> Result<()> {
    let rows = sqlx::query("SELECT id, host, process, expires FROM lease")
        .fetch_all(&mut *db)
        .await
        .map_err(failed)?;
    for row in &rows {
        let (host, process): (String, String) = (field(row, "host")?, field(row, "process")?);
        if field::<i64>(row, "expires")? < now || process::has_ended(&host, &process) {
            sqlx::query("DELETE FROM lease WHERE id = $1")
                .bind(field::<String>(row, "id")?)
                .execute(&mut *db)
                .await
                .map_err(failed)?;
        }
    }
    Ok(())
}

async fn enter(db: &mut AnyConnection, object: &str, state: &'static str, now: i64) -> Result<()> {
    sqlx::query("UPDATE object SET state = $2, since = $3 WHERE id = $1 AND state <> $2")
        .bind(object)
        .bind(state)
        .bind(now)
        .execute(db)
        .await
        .map_err(failed)?;
    Ok(())
}

async fn unknown_roots(db: &mut AnyConnection) -> Result<Vec<String>> {
    let rows = sqlx::query(
        "SELECT DISTINCT v.root FROM version v \
         WHERE NOT EXISTS (SELECT 1 FROM need n WHERE n.root = v.root) ORDER BY v.root",
    )
    .fetch_all(db)
    .await
    .map_err(failed)?;
    rows.iter().map(|row| field(row, "root")).collect()
}
