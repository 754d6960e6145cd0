//! Whose the files of a project are: one home has them, and one mount at a time changes them.

use std::fmt;
use std::time::Duration;

use sqlx::any::AnyRow;
use sqlx::{Any, AnyConnection, Transaction};

use super::process;
use crate::catalog::content::{self, micros};
use crate::catalog::database::{BEGIN, failed, field, new_id};
use crate::catalog::model::{Id, Project};
use crate::catalog::{Catalog, commit};
use crate::error::{Error, ErrorKind, Result};

/// Who asks for the files of a project.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The name of the home that he would have them in.
    pub home: String,
    /// What people call the host.
    pub host_name: String,
    /// Where they will be mounted.
    pub place: String,
    /// How long he is believed to be alive when he isn't heard of.
    pub lasts: Duration,
}

/// Somebody who has the files of a project mounted.
pub struct Owner {
    catalog: Catalog,
    project: Id,
    lease: Id,
    lasts: Duration,
}

/// Where the files of a project are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesAt {
    /// The name of the home.
    pub home: String,
    /// What people call the host.
    pub host_name: String,
    /// Where they are mounted, if they are.
    pub place: Option<String>,
}

impl Catalog {
    /// Takes the files of a project for one mount; tells also whether they were in another home.
    /// Then they belong to this one only once they are [settled](Owner::settle) here.
    ///
    /// # Errors
    /// `ResourceBusy` while another mount of this home has them, and when another home has them,
    /// unless `take_over`.
    pub async fn own_files(
        &self,
        project: &Project,
        claim: &Claim,
        take_over: bool,
    ) -> Result<(Owner, bool)> {
        // Nothing that others see of the project changes, so the revision stays.
        let mut db = self.pool.begin_with(BEGIN).await.map_err(failed)?;
        let now = content::time(&mut db).await?;
        let present = find(&mut db, project).await?;
        let elsewhere = present.as_ref().is_some_and(|row| row.at.home != claim.home);
        if let Some(Row { at, .. }) = present.as_ref().filter(|_| elsewhere && !take_over) {
            return Err(at.elsewhere(project));
        }
        if let Some(Row { at, .. }) = present.as_ref().filter(|row| !elsewhere && row.lives(now)) {
            let place = at.place.as_deref().unwrap_or_default();
            let message = format!("project {} is mounted on {place} already", project.name);
            return Err(Error::new(ErrorKind::ResourceBusy, message)
                .with_hint("use that mount or unmount it; `-o ro` mounts a project once more"));
        }
        let lease = new_id()?;
        sqlx::query(
            "INSERT INTO storage (project, home, host_name, lease, place, host, process, expires) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
             ON CONFLICT (project) DO UPDATE SET lease = EXCLUDED.lease, place = EXCLUDED.place, \
             host = EXCLUDED.host, process = EXCLUDED.process, expires = EXCLUDED.expires",
        )
        .bind(project.id.as_str())
        .bind(&claim.home)
        .bind(&claim.host_name)
        .bind(lease.as_str())
        .bind(&claim.place)
        .bind(process::host())
        .bind(process::this())
        .bind(now.saturating_add(micros(claim.lasts)))
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        commit(db).await?;
        let (catalog, project, lasts) = (self.clone(), project.id.clone(), claim.lasts);
        Ok((Owner { catalog, project, lease, lasts }, elsewhere))
    }

    /// Where the files of a project are; `None` where they were never mounted.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn files_at(&self, project: &Project) -> Result<Option<FilesAt>> {
        let mut db = self.read().await?;
        let now = content::time(&mut db).await?;
        Ok(find(&mut db, project).await?.map(|row| {
            let place = row.at.place.clone().filter(|_| row.lives(now));
            FilesAt { place, ..row.at }
        }))
    }
}

impl FilesAt {
    /// Why who is in another home can't have the files of a project.
    pub fn elsewhere(&self, project: &Project) -> Error {
        let message = format!("the files of {} are on host {}", project.name, self.host_name);
        Error::new(ErrorKind::ResourceBusy, message).with_hint(
            "work there, or `atelier mount --take-over` brings the newest checkpoint's here; \
             what was changed there since stays there",
        )
    }
}

impl Owner {
    /// Says that they belong to the home of who took them over.
    ///
    /// # Errors
    /// `StaleHandle` when somebody else took them meanwhile.
    pub async fn settle(&self, claim: &Claim) -> Result<()> {
        let mut db = self.begin().await?;
        let settled = sqlx::query(
            "UPDATE storage SET home = $3, host_name = $4 WHERE project = $1 AND lease = $2",
        )
        .bind(self.project.as_str())
        .bind(self.lease.as_str())
        .bind(&claim.home)
        .bind(&claim.host_name)
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        commit(db).await?;
        if settled.rows_affected() == 0 {
            let message = "the project's files were taken over by somebody else";
            return Err(Error::new(ErrorKind::StaleHandle, message));
        }
        Ok(())
    }

    /// Whether they are still his.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_owner(&self) -> Result<bool> {
        let found = sqlx::query("SELECT lease FROM storage WHERE project = $1 AND lease = $2")
            .bind(self.project.as_str())
            .bind(self.lease.as_str())
            .fetch_optional(&mut *self.catalog.read().await?)
            .await
            .map_err(failed)?;
        Ok(found.is_some())
    }

    /// Says that he is alive.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn renew(&self) -> Result<()> {
        let mut db = self.begin().await?;
        let expires = content::time(&mut db).await?.saturating_add(micros(self.lasts));
        self.update(
            &mut db,
            "UPDATE storage SET expires = $3 WHERE project = $1 AND lease = $2",
            expires,
        )
        .await?;
        commit(db).await
    }

    /// Says that he is done; the files stay in his home.
    ///
    /// # Errors
    /// Those of the database; the lease lapses then.
    pub async fn end(&self) -> Result<()> {
        let mut db = self.begin().await?;
        let statement =
            "UPDATE storage SET lease = '', expires = $3 WHERE project = $1 AND lease = $2";
        self.update(&mut db, statement, 0).await?;
        commit(db).await
    }

    /// How often it takes to say so.
    pub fn lasts(&self) -> Duration {
        self.lasts
    }

    async fn begin(&self) -> Result<Transaction<'static, Any>> {
        self.catalog.pool.begin_with(BEGIN).await.map_err(failed)
    }

    async fn update(
        &self,
        db: &mut AnyConnection,
        statement: &'static str,
        expires: i64,
    ) -> Result<()> {
        sqlx::query(statement)
            .bind(self.project.as_str())
            .bind(self.lease.as_str())
            .bind(expires)
            .execute(db)
            .await
            .map(|_| ())
            .map_err(failed)
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Owner").field(&self.lease).finish()
    }
}

/// What is known of a project's files.
struct Row {
    at: FilesAt,
    host: String,
    process: String,
    expires: i64,
}

impl Row {
    /// Whether somebody has them mounted, as far as can be told.
    fn lives(&self, now: i64) -> bool {
        self.at.place.is_some()
            && self.expires >= now
            && !process::has_ended(&self.host, &self.process)
    }
}

async fn find(db: &mut AnyConnection, project: &Project) -> Result<Option<Row>> {
    let found = sqlx::query("SELECT * FROM storage WHERE project = $1")
        .bind(project.id.as_str())
        .fetch_optional(db)
        .await
        .map_err(failed)?;
    found.as_ref().map(read).transpose()
}

fn read(row: &AnyRow) -> Result<Row> {
    let lease: String = field(row, "lease")?;
    let place: String = field(row, "place")?;
    let at = FilesAt {
        home: field(row, "home")?,
        host_name: field(row, "host_name")?,
        place: Some(place).filter(|_| !lease.is_empty()),
    };
    let (host, process) = (field(row, "host")?, field(row, "process")?);
    Ok(Row { at, host, process, expires: field(row, "expires")? })
}
