//! `atelier publish`, `unpublish`, `add` and `remove`: sharing between projects.

use std::process::ExitCode;

use clap::Args;

use super::{Context, place, reseal, table};
use crate::catalog::{Catalog, Kind, Project, Reach, Reference, Shown};
use crate::error::{Error, ErrorKind, Result};

/// Offer a resource of your project to the projects of a community
#[derive(Debug, Args)]
pub struct Publish {
    /// The resource, such as dataset/flowers
    #[arg(value_name = "KIND/NAME")]
    resource: String,
    /// The community, of the same organization
    #[arg(long, value_name = "COMMUNITY")]
    to: String,
}

/// Take a resource back from a community; its projects lose it
#[derive(Debug, Args)]
pub struct Unpublish {
    /// The resource, such as dataset/flowers
    #[arg(value_name = "KIND/NAME")]
    resource: String,
    /// The community [default: the one it is published in]
    #[arg(long, value_name = "COMMUNITY")]
    from: Option<String>,
}

/// Add a resource that your project's community offers
#[derive(Debug, Args)]
pub struct Add {
    /// The resource, as `atelier resources` lists it
    #[arg(value_name = "COMMUNITY/PROJECT/KIND/NAME")]
    reference: String,
}

/// Take an added resource out of your project
#[derive(Debug, Args)]
pub struct Remove {
    /// The resource, under the name it shows or as it was added
    #[arg(value_name = "KIND/NAME")]
    resource: String,
}

impl Publish {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let catalog = context.catalog().await?;
        let project = context.project(&catalog).await?;
        let shown = own(&catalog, &project, &self.resource).await?;
        let community = within(&project, &self.to)?;
        catalog.publish(&shown.resource, community).await?;
        if shown.resource.kind == Kind::Secret {
            // Its members shall be able to open it, or not be offered it at all.
            let reach = Reach { secrets: vec![shown.resource.clone()], others: 0 };
            if let Err(error) = reseal::all(context, &catalog, reach).await {
                catalog.unpublish(&shown.resource, community).await?;
                return Err(error);
            }
        }
        table::say(format!("{} is published in {community}", self.resource));
        Ok(ExitCode::SUCCESS)
    }
}

impl Unpublish {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let catalog = context.catalog().await?;
        let project = context.project(&catalog).await?;
        let shown = own(&catalog, &project, &self.resource).await?;
        let community = match &self.from {
            Some(community) => within(&project, community)?.to_owned(),
            None => only(catalog.uses(&shown.resource).await?.published, &self.resource)?,
        };
        let losers = catalog.unpublish(&shown.resource, &community).await?;
        table::say(format!("{} isn't published in {community} any more", self.resource));
        for loser in losers {
            table::say(format!("{loser} lost it"));
        }
        if shown.resource.kind == Kind::Secret {
            let reach = Reach { secrets: vec![shown.resource], others: 0 };
            reseal::all(context, &catalog, reach).await?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Add {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let catalog = context.catalog().await?;
        let project = context.project(&catalog).await?;
        let reference: Reference = self.reference.parse()?;
        let added = catalog.add(&project, &reference).await?;
        table::say(format!("{}/{} is there in {}", reference.kind, added.name, project.name));
        Ok(ExitCode::SUCCESS)
    }
}

impl Remove {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let catalog = context.catalog().await?;
        let project = context.project(&catalog).await?;
        let shown = match self.resource.parse::<Reference>() {
            Ok(reference) => by_reference(&catalog, &project, &reference).await?,
            Err(_) => place::shown(&catalog, &project, &self.resource).await?,
        };
        if !shown.added {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{} wasn't added to {}, it is its own", self.resource, project.name),
            )
            .with_hint(match shown.resource.kind {
                Kind::S3 => format!("`atelier s3 disconnect {}` deletes it", shown.name),
                kind => format!("`atelier {kind} delete {}` deletes it", shown.name),
            }));
        }
        catalog.remove(&project, &shown.resource.id).await?;
        table::say(format!("{} is out of {}", self.resource, project.name));
        Ok(ExitCode::SUCCESS)
    }
}

/// A resource that the project owns: an added one is for its owner to share.
async fn own(catalog: &Catalog, project: &Project, text: &str) -> Result<Shown> {
    let shown = place::shown(catalog, project, text).await?;
    if shown.added {
        return Err(Error::new(
            ErrorKind::NotPermitted,
            format!("{text} belongs to {}", shown.resource.owner),
        )
        .with_hint("only the project that owns it can share it"));
    }
    Ok(shown)
}

/// The community's name, which may be written with the organization in front.
fn within<'a>(project: &Project, community: &'a str) -> Result<&'a str> {
    match community.split_once('/') {
        None => Ok(community),
        Some((organization, rest)) if organization == project.name.organization => Ok(rest),
        Some(_) => Err(Error::new(
            ErrorKind::NotFound,
            format!("community {community} isn't there for {}", project.name),
        )
        .with_hint("nothing is shared across organizations")),
    }
}

fn only(mut published: Vec<String>, resource: &str) -> Result<String> {
    match (published.pop(), published.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(Error::new(ErrorKind::NotFound, format!("{resource} isn't published"))),
        (Some(last), false) => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{resource} is published in {}, {last}", published.join(", ")),
        )
        .with_hint("name one with --from")),
    }
}

async fn by_reference(
    catalog: &Catalog,
    project: &Project,
    reference: &Reference,
) -> Result<Shown> {
    let all = catalog.resources(project, reference.kind).await?;
    all.into_iter().find(|shown| shown.resource.reference() == *reference).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("{reference} wasn't added to {}", project.name))
    })
}
