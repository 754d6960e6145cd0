//! What the names typed on the command line mean.

use super::Context;
use crate::catalog::{Catalog, CommunityName, Kind, Project, ProjectName, Scope, Shown};
use crate::error::{Error, ErrorKind, Result};

impl Context {
    /// Opens the catalogue of the home.
    pub async fn catalog(&self) -> Result<Catalog> {
        self.config.check_home()?;
        Catalog::open_existing(&self.config.catalog_file(), &self.config.user).await
    }

    /// The project to work on: from `--project`, `$ATELIER_PROJECT` or `atelier use`.
    pub async fn project(&self, catalog: &Catalog) -> Result<Project> {
        catalog.project_or_selected(self.config.project.as_deref()).await
    }

    /// The organization in which names that leave it out are meant: that of the project to work
    /// on, or the only one there is.
    pub async fn organization(&self, catalog: &Catalog) -> Result<String> {
        if self.config.project.is_some() || catalog.selected_project().await?.is_some() {
            return Ok(self.project(catalog).await?.name.organization);
        }
        let mut all = catalog.organizations().await?;
        match (all.pop(), all.is_empty()) {
            (Some(only), true) => Ok(only.name),
            (None, _) => Err(Error::new(ErrorKind::InvalidInput, "there is no organization yet")
                .with_hint("`atelier org create NAME` makes one")),
            (Some(_), false) => Err(Error::new(
                ErrorKind::InvalidInput,
                "it isn't clear which organization is meant",
            )
            .with_hint("put its name and a / in front, or choose a project with `atelier use`")),
        }
    }
}

/// `ORGANIZATION/COMMUNITY`, or a community of the organization at hand.
pub(super) async fn community(
    context: &Context,
    catalog: &Catalog,
    text: &str,
) -> Result<CommunityName> {
    if text.contains('/') {
        return text.parse();
    }
    let organization = context.organization(catalog).await?;
    Ok(CommunityName { organization, community: text.to_owned() })
}

/// `ORGANIZATION/COMMUNITY/PROJECT`, or `COMMUNITY/PROJECT` of the organization at hand.
pub(super) async fn project(
    context: &Context,
    catalog: &Catalog,
    text: &str,
) -> Result<ProjectName> {
    if text.matches('/').count() == 1 {
        let organization = context.organization(catalog).await?;
        return format!("{organization}/{text}").parse();
    }
    text.parse()
}

/// `COMMUNITY` or `COMMUNITY/PROJECT` of the organization at hand, or
/// `ORGANIZATION/COMMUNITY/PROJECT`.
pub(super) async fn scope(context: &Context, catalog: &Catalog, text: &str) -> Result<Scope> {
    if text.contains('/') {
        return Ok(Scope::Project(project(context, catalog, text).await?));
    }
    Ok(Scope::Community(community(context, catalog, text).await?))
}

/// `KIND/NAME`: what shows under that name in the project.
pub(super) async fn shown(catalog: &Catalog, project: &Project, text: &str) -> Result<Shown> {
    let Some((kind, name)) = text.split_once('/') else {
        return Err(Error::new(ErrorKind::InvalidInput, format!("\"{text}\" names no resource"))
            .with_hint("write it as KIND/NAME, such as dataset/flowers"));
    };
    catalog.shown(project, kind.parse::<Kind>()?, name).await
}
