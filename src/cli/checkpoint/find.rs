//! Which checkpoint is meant: by number, pinned name or `latest`.

use crate::catalog::{Catalog, Kind, Project, Resource, Shown, checkpoint_name};
use crate::error::{Error, ErrorKind, Result};

/// The project's checkpoints, oldest first, and those that were added to it.
pub(super) async fn all(catalog: &Catalog, project: &Project) -> Result<Vec<Shown>> {
    catalog.resources(project, Kind::Checkpoint).await
}

/// The checkpoint that is meant.
///
/// # Errors
/// `NotFound`.
pub(super) async fn one(catalog: &Catalog, project: &Project, id: &str) -> Result<Shown> {
    let mut all = all(catalog, project).await?;
    let number = id.parse::<u32>().ok().map(checkpoint_name);
    let place = match id {
        "latest" => newest(&all),
        _ => all
            .iter()
            .position(|shown| shown.name == id || Some(&shown.name) == number.as_ref())
            .or_else(|| all.iter().position(|shown| is_pinned_as(shown, id))),
    };
    match place {
        Some(place) => Ok(all.swap_remove(place)),
        None => Err(absent(project, id, all.is_empty())),
    }
}

/// Like [`one`], of the project's own.
///
/// # Errors
/// `NotFound`; `NotPermitted` for a checkpoint that was added from another project.
pub(super) async fn own(catalog: &Catalog, project: &Project, id: &str) -> Result<Resource> {
    let Shown { added, resource, name, .. } = one(catalog, project, id).await?;
    if added {
        let owner = &resource.owner;
        return Err(Error::new(
            ErrorKind::NotPermitted,
            format!("checkpoint {name} belongs to project {owner}"),
        )
        .with_hint(format!("add `--project {owner}`")));
    }
    Ok(resource)
}

/// The place of the newest of the project's own checkpoints.
pub(super) fn newest(all: &[Shown]) -> Option<usize> {
    all.iter().rposition(|shown| !shown.added)
}

fn is_pinned_as(shown: &Shown, name: &str) -> bool {
    !shown.added && shown.resource.pinned_name() == Some(name)
}

fn absent(project: &Project, id: &str, none: bool) -> Error {
    let name = &project.name;
    if none {
        return Error::new(ErrorKind::NotFound, format!("project {name} has no checkpoint yet"))
            .with_hint("`atelier checkpoint create --notebook files/NOTEBOOK` makes one");
    }
    Error::new(ErrorKind::NotFound, format!("project {name} has no checkpoint \"{id}\""))
        .with_hint("`atelier checkpoint list` shows those it has")
}
