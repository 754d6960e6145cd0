//! How much versions need of the content store, and how many datasets a project may show.

use sqlx::AnyConnection;

use super::database::{failed, field};
use super::model::{Id, Kind, Needed, Project, Role, Version};
use super::name::ProjectName;
use super::resource::shown;
use super::{Catalog, commit, query};
use crate::error::{Error, ErrorKind, Result};

impl Catalog {
    /// What a version, and its dataset with all versions, need of the content store.
    ///
    /// # Errors
    /// `NotFound` where the user may not know of the dataset.
    pub async fn needed(&self, version: &Version) -> Result<Needed> {
        let mut db = self.read().await?;
        self.find_readable(&mut db, &version.resource).await?;
        // The same root in another version keeps all of it.
        let row = sqlx::query(
            "SELECT \
             (SELECT CAST(COALESCE(SUM(o.bytes), 0) AS BIGINT) FROM object o \
             WHERE o.id IN (SELECT object FROM need WHERE root = $1)) AS needed, \
             (SELECT CAST(COALESCE(SUM(o.bytes), 0) AS BIGINT) FROM object o \
             WHERE o.id IN (SELECT object FROM need WHERE root = $1) AND NOT EXISTS ( \
             SELECT 1 FROM need n JOIN version v ON v.root = n.root WHERE n.object = o.id \
             AND NOT (v.resource = $2 AND v.number = $3))) AS needed_alone, \
             (SELECT CAST(COALESCE(SUM(o.bytes), 0) AS BIGINT) FROM object o \
             WHERE o.id IN (SELECT n.object FROM need n JOIN version v ON v.root = n.root \
             WHERE v.resource = $2)) AS dataset, \
             (SELECT CAST(COALESCE(SUM(v.bytes), 0) AS BIGINT) FROM version v \
             WHERE v.resource = $2) AS logical",
        )
        .bind(&version.root)
        .bind(version.resource.as_str())
        .bind(i64::from(version.number))
        .fetch_one(&mut *db)
        .await
        .map_err(failed)?;
        Ok(Needed {
            all: query::number(&row, "needed")?,
            unique: query::number(&row, "needed_alone")?,
            dataset: query::number(&row, "dataset")?,
            logical: query::number(&row, "logical")?,
        })
    }

    /// Limits how many datasets of a project may be active at a time, its own and added ones.
    ///
    /// # Errors
    /// `ResourceBusy` when more are active now; `NotFound`; `PermissionDenied` below Editor.
    pub async fn limit_active_datasets(
        &self,
        name: &ProjectName,
        most: Option<u32>,
    ) -> Result<Project> {
        let mut db = self.write().await?;
        let project = self.find_project(&mut db, name, Role::Editor).await?;
        let active = active(&mut db, &project.id).await?;
        if most.is_some_and(|most| active.len() > most as usize) {
            let (count, names) = (active.len(), active.join(", "));
            let message = format!("{count} datasets of {name} are active: {names}");
            return Err(Error::new(ErrorKind::ResourceBusy, message)
                .with_hint("`atelier dataset deactivate NAME` hides one"));
        }
        sqlx::query("UPDATE project SET active_datasets = $2 WHERE id = $1")
            .bind(project.id.as_str())
            .bind(most.map(i64::from))
            .execute(&mut *db)
            .await
            .map_err(failed)?;
        let changed = self.find_project(&mut db, name, Role::Viewer).await?;
        commit(db).await?;
        Ok(changed)
    }

    /// Whether one dataset more may be active in a project now; making it so decides.
    ///
    /// # Errors
    /// `StorageFull` when as many are active as may be; `PermissionDenied` below Viewer.
    pub async fn check_active_datasets(&self, project: &Project) -> Result<()> {
        let mut db = self.read().await?;
        self.require(&mut db, project, Role::Viewer).await?;
        check_active(&mut db, &project.id, Kind::Dataset).await
    }
}

/// Checks that one resource more of a kind may be active in a project.
pub(super) async fn check_active(db: &mut AnyConnection, project: &Id, kind: Kind) -> Result<()> {
    if kind != Kind::Dataset {
        return Ok(());
    }
    let row = sqlx::query("SELECT name, active_datasets FROM project WHERE id = $1")
        .bind(project.as_str())
        .fetch_one(&mut *db)
        .await
        .map_err(failed)?;
    let most: Option<i64> = field(&row, "active_datasets")?;
    let Some(most) = most.map(|most| usize::try_from(most).unwrap_or(0)) else { return Ok(()) };
    let active = active(db, project).await?;
    if active.len() < most {
        return Ok(());
    }
    let project: String = field(&row, "name")?;
    let names = active.join(", ");
    let message = match most {
        0 => format!("no dataset may be active in project {project}"),
        1 => format!("project {project} may have 1 active dataset, and has {names}"),
        _ => format!("project {project} may have {most} active datasets, and has {names}"),
    };
    Err(Error::new(ErrorKind::StorageFull, message).with_hint(
        "`atelier dataset deactivate NAME` hides one, \
         `atelier project set --active-datasets N` allows more",
    ))
}

/// The names of a project's active datasets.
async fn active(db: &mut AnyConnection, project: &Id) -> Result<Vec<String>> {
    let all = shown(db, project, Kind::Dataset).await?;
    Ok(all.into_iter().filter(|shown| shown.active).map(|shown| shown.name).collect())
}
