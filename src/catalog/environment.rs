//! Environment files: ciphertext, changed only by who has seen the last change.

use data_encoding::BASE64;
use serde_json::Value;
use sqlx::AnyConnection;

use super::database::{damaged, failed, field};
use super::model::{Environment, Kind, NewResource, Project, Resource, Role};
use super::resource::{insert, own, store};
use super::{Catalog, commit};
use crate::error::{Error, ErrorKind, Result};

impl Catalog {
    /// The environment file that shows under a name in a project, its own or an added one.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` below Developer, since content isn't for Viewers.
    pub async fn environment(&self, project: &Project, name: &str) -> Result<Environment> {
        let resource = self.resource(project, Kind::Secret, name).await?;
        let mut db = self.read().await?;
        self.require(&mut db, project, Role::Developer).await?;
        let row = sqlx::query("SELECT generation, body FROM environment WHERE resource = $1")
            .bind(resource.id.as_str())
            .fetch_optional(&mut *db)
            .await
            .map_err(failed)?
            .ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("environment file {name} is empty"))
            })?;
        let body: String = field(&row, "body")?;
        Ok(Environment {
            resource,
            generation: field(&row, "generation")?,
            body: BASE64
                .decode(body.as_bytes())
                .map_err(|error| damaged("an environment file", error))?,
        })
    }

    /// Replaces an environment file of the project if it still has the generation that the
    /// change was made from, `None` for a file that isn't there yet; returns the new generation.
    ///
    /// # Errors
    /// `StaleHandle` when somebody else was faster; `NotPermitted` for a file of another
    /// project; `InvalidInput`; `PermissionDenied` below Developer.
    pub async fn put_environment(
        &self,
        project: &Project,
        name: &str,
        expected_generation: Option<i64>,
        body: Vec<u8>,
    ) -> Result<i64> {
        let mut db = self.write().await?;
        self.require(&mut db, project, Role::Developer).await?;
        let resource = match own(&mut db, &project.id, Kind::Secret, name).await? {
            Some(resource) => store(&mut db, &resource).await?,
            None if expected_generation.is_none() => {
                refuse_foreign(&mut db, project, name).await?;
                let new = NewResource {
                    kind: Kind::Secret,
                    name: name.to_owned(),
                    description: String::new(),
                    spec: Value::Object(serde_json::Map::new()),
                };
                insert(&mut db, project, self.user(), &new).await?
            }
            None => return Err(lost(name)),
        };
        let (generation, body) = (expected_generation.unwrap_or(0) + 1, BASE64.encode(&body));
        let written = match expected_generation {
            None => sqlx::query(
                "INSERT INTO environment (resource, generation, body) VALUES ($1, $2, $3) \
                 ON CONFLICT (resource) DO NOTHING",
            )
            .bind(resource.id.as_str())
            .bind(generation)
            .bind(body),
            Some(expected) => sqlx::query(
                "UPDATE environment SET generation = $2, body = $3 \
                 WHERE resource = $1 AND generation = $4",
            )
            .bind(resource.id.as_str())
            .bind(generation)
            .bind(body)
            .bind(expected),
        };
        let written = written.execute(&mut *db).await.map_err(failed)?;
        if written.rows_affected() == 0 {
            return Err(lost(name));
        }
        commit(db).await?;
        Ok(generation)
    }
}

/// A new file under the name of an added one would hide it, where editing it was meant.
async fn refuse_foreign(db: &mut AnyConnection, project: &Project, name: &str) -> Result<()> {
    let all = super::resource::shown(db, &project.id, Kind::Secret).await?;
    let foreign = all.into_iter().find(|shown| shown.added && shown.name == name);
    match foreign {
        None => Ok(()),
        Some(shown) => {
            let Resource { owner, .. } = &shown.resource;
            Err(Error::new(
                ErrorKind::NotPermitted,
                format!("environment file {name} belongs to {owner}"),
            )
            .with_hint("it can't be edited, only copied: `atelier secret copy`"))
        }
    }
}

fn lost(name: &str) -> Error {
    Error::new(
        ErrorKind::StaleHandle,
        format!("environment file {name} was changed by somebody else meanwhile"),
    )
    .with_hint("try again: nothing of his change or yours is lost")
}
