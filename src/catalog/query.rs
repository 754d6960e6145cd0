//! Rows become what they stand for.

use jiff::Timestamp;
use sqlx::any::AnyRow;

use super::database::{damaged, field};
use super::model::{Community, Id, Offer, Organization, Project, Resource, Role, Version};
use super::name::{CommunityName, ProjectName};
use crate::error::Result;

/// Communities with the names above them; the argument goes on from there.
macro_rules! select_communities {
    ($rest:literal) => {
        concat!(
            "SELECT c.id, c.name, c.description, c.is_default, c.creator, c.created, c.modified, \
             o.name AS organization_name FROM community c \
             JOIN organization o ON o.id = c.organization ",
            $rest
        )
    };
}

/// Projects with the names above them; the argument goes on from there.
macro_rules! select_projects {
    ($rest:literal) => {
        concat!(
            "SELECT p.id, p.name, p.community, p.description, p.quota_gib, \
             p.active_datasets, p.checkpoint_gib, p.creator, p.created, p.modified, c.name AS community_name, o.name AS organization_name FROM project p \
             JOIN community c ON c.id = p.community \
             JOIN organization o ON o.id = c.organization ",
            $rest
        )
    };
}

/// Resources with the names above them, and more columns; the last argument goes on from there.
macro_rules! select_resources {
    ($more:literal, $rest:literal) => {
        concat!(
            "SELECT r.id, r.project, r.kind, r.name, r.description, r.spec, r.active, r.creator, \
             r.created, r.modified, p.name AS project_name, c.name AS community_name, \
             o.name AS organization_name",
            $more,
            " FROM resource r JOIN project p ON p.id = r.project \
             JOIN community c ON c.id = p.community \
             JOIN organization o ON o.id = c.organization ",
            $rest
        )
    };
    ($rest:literal) => {
        $crate::catalog::query::select_resources!("", $rest)
    };
}

pub(super) use {select_communities, select_projects, select_resources};

pub(super) fn organization(row: &AnyRow) -> Result<Organization> {
    Ok(Organization {
        id: id(row, "id")?,
        name: field(row, "name")?,
        policy: word(row, "policy")?,
        creator: field(row, "creator")?,
        created: time(row, "created")?,
        modified: time(row, "modified")?,
    })
}

pub(super) fn community(row: &AnyRow) -> Result<Community> {
    Ok(Community {
        id: id(row, "id")?,
        name: CommunityName {
            organization: field(row, "organization_name")?,
            community: field(row, "name")?,
        },
        description: field(row, "description")?,
        is_default: truth(row, "is_default")?,
        creator: field(row, "creator")?,
        created: time(row, "created")?,
        modified: time(row, "modified")?,
    })
}

pub(super) fn project(row: &AnyRow) -> Result<Project> {
    let limit = |name| {
        let limit: Option<i64> = field(row, name)?;
        limit.map(u32::try_from).transpose().map_err(|error| damaged(name, error))
    };
    Ok(Project {
        id: id(row, "id")?,
        name: ProjectName {
            organization: field(row, "organization_name")?,
            community: field(row, "community_name")?,
            project: field(row, "name")?,
        },
        community: id(row, "community")?,
        description: field(row, "description")?,
        quota_gib: limit("quota_gib")?,
        active_datasets: limit("active_datasets")?,
        checkpoint_gib: limit("checkpoint_gib")?,
        creator: field(row, "creator")?,
        created: time(row, "created")?,
        modified: time(row, "modified")?,
    })
}

pub(super) fn resource(row: &AnyRow) -> Result<Resource> {
    Ok(Resource {
        id: id(row, "id")?,
        kind: word(row, "kind")?,
        name: field(row, "name")?,
        project: id(row, "project")?,
        owner: ProjectName {
            organization: field(row, "organization_name")?,
            community: field(row, "community_name")?,
            project: field(row, "project_name")?,
        },
        description: field(row, "description")?,
        spec: json(row, "spec")?,
        active: truth(row, "active")?,
        creator: field(row, "creator")?,
        created: time(row, "created")?,
        modified: time(row, "modified")?,
    })
}

pub(super) fn version(row: &AnyRow) -> Result<Version> {
    Ok(Version {
        resource: id(row, "resource")?,
        number: number(row, "number")?,
        root: field(row, "root")?,
        files: number(row, "files")?,
        bytes: number(row, "bytes")?,
        active: truth(row, "active")?,
        spec: json(row, "spec")?,
        creator: field(row, "creator")?,
        created: time(row, "created")?,
    })
}

pub(super) fn offer(row: &AnyRow) -> Result<Offer> {
    Ok(Offer {
        resource: resource(row)?,
        publisher: field(row, "publisher")?,
        published: time(row, "published")?,
    })
}

pub(super) fn id(row: &AnyRow, name: &'static str) -> Result<Id> {
    field(row, name).map(Id)
}

pub(super) fn truth(row: &AnyRow, name: &'static str) -> Result<bool> {
    Ok(field::<i64>(row, name)? != 0)
}

/// Reads a word that may be missing.
/// The higher one of the role granted in a project, the column `direct`, and of what the one in its
/// community carries, the column `above`.
pub(super) fn effective_role(row: &AnyRow) -> Result<Option<Role>> {
    let direct: Option<Role> = word_or_none(row, "direct")?;
    let above: Option<Role> = word_or_none(row, "above")?;
    Ok(direct.max(above.map(Role::inherited)))
}

pub(super) fn word_or_none<T: std::str::FromStr<Err = crate::error::Error>>(
    row: &AnyRow,
    name: &'static str,
) -> Result<Option<T>> {
    let word: Option<String> = field(row, name)?;
    word.map(|word| word.parse()).transpose().map_err(|error| damaged(name, error))
}

pub(super) fn word<T: std::str::FromStr<Err = crate::error::Error>>(
    row: &AnyRow,
    name: &'static str,
) -> Result<T> {
    field::<String>(row, name)?.parse().map_err(|error| damaged(name, error))
}

pub(super) fn number<T: TryFrom<i64, Error = std::num::TryFromIntError>>(
    row: &AnyRow,
    name: &'static str,
) -> Result<T> {
    T::try_from(field::<i64>(row, name)?).map_err(|error| damaged(name, error))
}

fn time(row: &AnyRow, name: &'static str) -> Result<Timestamp> {
    Timestamp::from_microsecond(field(row, name)?).map_err(|error| damaged(name, error))
}

fn json(row: &AnyRow, name: &'static str) -> Result<serde_json::Value> {
    serde_json::from_str(field(row, name)?).map_err(|error| damaged(name, error))
}
