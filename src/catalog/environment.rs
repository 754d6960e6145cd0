//! Environment files: ciphertext, changed only by who has seen the last change.

use data_encoding::BASE64;
use serde_json::Value;
use sqlx::AnyConnection;

use super::database::{damaged, failed, field};
use super::model::{Environment, Kind, NewResource, Project, Resource, Role};
use super::resource::{insert, own, store};
use super::{Catalog, commit};
use crate::error::{Error, ErrorKind, Result};

/// The longest body that is kept or read, in characters: base64 of 1 MiB, which is more than any
/// environment file may have.
const MAX_BODY: i64 = 4 * (1 << 20) / 3 + 4;

impl Catalog {
    /// The environment file that shows under a name in a project, its own or an added one.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` below Developer, since content isn't for Viewers.
    pub async fn environment(&self, project: &Project, name: &str) -> Result<Environment> {
        let resource = self.resource(project, Kind::Secret, name).await?;
        let mut db = self.read().await?;
        self.require(&mut db, project, Role::Developer).await?;
        content(&mut db, resource).await
    }

    /// The environment file that an S3 connection names, as its own project sees it.
    ///
    /// Who may use a connection may have what its key is in brought to him, sealed as it is:
    /// opening it takes a key of that project's.
    ///
    /// # Errors
    /// `NotFound` where the user may not know of the connection, and when there is no such file.
    pub async fn environment_behind(
        &self,
        connection: &Resource,
        name: &str,
    ) -> Result<Environment> {
        let mut db = self.read().await?;
        let connection = self.find_readable(&mut db, &connection.id).await?;
        let all = super::resource::shown(&mut db, &connection.project, Kind::Secret).await?;
        let found = all.into_iter().find(|shown| shown.name == name).ok_or_else(|| {
            let Resource { owner, .. } = &connection;
            Error::new(ErrorKind::NotFound, format!("secret {name} of {owner} isn't there"))
        })?;
        content(&mut db, found.resource).await
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
        if i64::try_from(body.len()).unwrap_or(i64::MAX) > MAX_BODY {
            let message = format!("environment file {name} would have more than 1 MiB");
            return Err(Error::new(ErrorKind::FileTooLarge, message));
        }
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

/// Reads what an environment file holds; one that is too long isn't brought into memory.
async fn content(db: &mut AnyConnection, resource: Resource) -> Result<Environment> {
    let row = sqlx::query(
        "SELECT generation, CASE WHEN octet_length(body) <= $2 THEN body END AS body \
         FROM environment WHERE resource = $1",
    )
    .bind(resource.id.as_str())
    .bind(MAX_BODY)
    .fetch_optional(db)
    .await
    .map_err(failed)?
    .ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("environment file {} is empty", resource.name))
    })?;
    let body: Option<String> = field(&row, "body")?;
    let body = body.ok_or_else(|| damaged("an environment file", "it has more than 1 MiB"))?;
    let body = BASE64.decode(body.as_bytes());
    Ok(Environment {
        resource,
        generation: field(&row, "generation")?,
        body: body.map_err(|error| damaged("an environment file", error))?,
    })
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
