//! `atelier project`: work spaces.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Subcommand;
use serde::Serialize;

use super::checkpoint::Origin;
use super::{Context, place, table};
use crate::catalog::{Catalog, Project as Found, ProjectName, Role};
use crate::config::ByteCount;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::workspace::Workspace;

/// Projects: files and resources that can be mounted
#[derive(Debug, Subcommand)]
pub enum Project {
    /// Make a project; you become admin
    Create {
        /// Its name; without an organization it is made in the one at hand
        #[arg(value_name = "[ORG/]COMMUNITY/PROJECT")]
        name: String,
        /// What it is for
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// How much its files may take, in GiB [default: no limit]
        #[arg(long, value_name = "GIB")]
        quota: Option<u32>,
        /// Begin with the files and the variables of a checkpoint, of the project at hand if no
        /// other is named
        #[arg(long, value_name = "[PROJECT/checkpoint/]ID")]
        from: Option<String>,
        /// Take variables that another user saved; loading them runs code of his
        #[arg(long, requires = "from")]
        trust: bool,
    },
    /// List the projects you may see, in one community or everywhere
    List {
        /// The community
        #[arg(value_name = "[ORG/]COMMUNITY")]
        community: Option<String>,
    },
    /// Show one, by default the one you chose
    Show {
        /// Its name
        #[arg(value_name = "[ORG/]COMMUNITY/PROJECT")]
        name: Option<String>,
    },
    /// Change the settings of one, by default of the one you chose
    Set {
        /// Its name
        #[arg(value_name = "[ORG/]COMMUNITY/PROJECT")]
        name: Option<String>,
        /// How many of its datasets may be active at a time, or `none` for no limit
        #[arg(long, value_name = "N|none", required_unless_present = "checkpoint_files")]
        active_datasets: Option<Limit>,
        /// Up to how much its files may have to be taken into checkpoints, in whole GiB such as
        /// 20GiB, or `none` for no limit
        #[arg(long, value_name = "SIZE|none")]
        checkpoint_files: Option<String>,
    },
    /// Limit how much the files of one may take, by default of the one you chose
    ///
    /// A write that would take more is answered with "no space left on device". A mount that has a
    /// limit follows at once; one without gets its first when it is mounted again.
    Resize {
        /// Its name, and how much, in whole GiB up to 4096, such as 10GiB; or `none` for no limit
        #[arg(value_name = "[[ORG/]COMMUNITY/PROJECT] SIZE|none", required = true, num_args = 1..=2)]
        words: Vec<String>,
    },
    /// Delete one that owns no resources
    Delete {
        /// Its name
        #[arg(value_name = "[ORG/]COMMUNITY/PROJECT")]
        name: String,
        /// Delete the files in its storage with it
        #[arg(long)]
        with_files: bool,
    },
}

/// A number, or `none` for no limit.
#[derive(Clone, Copy, Debug)]
pub struct Limit(Option<u32>);

impl FromStr for Limit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "none" {
            return Ok(Self(None));
        }
        text.parse().map(|number| Self(Some(number))).map_err(|_| {
            let message = format!("\"{text}\" is no limit: write a number or none");
            Error::new(ErrorKind::InvalidInput, message)
        })
    }
}

#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    project: Found,
    /// The role of who asks.
    role: Option<Role>,
}

impl Line {
    async fn new(catalog: &Catalog, project: Found) -> Result<Self> {
        Ok(Self { role: catalog.role_on(&project).await?, project })
    }
}

impl table::Row for Line {
    const HEADER: &'static [&'static str] = &[
        "NAME",
        "YOUR ROLE",
        "QUOTA",
        "CHECKPOINT FILES",
        "ACTIVE DATASETS",
        "CREATOR",
        "CREATED",
        "DESCRIPTION",
    ];

    fn cells(&self) -> Vec<String> {
        let Found { name, active_datasets, creator, created, description, .. } = &self.project;
        let size = |gib: Option<u32>| gib.map(|gib| format!("{gib} GiB"));
        vec![
            name.to_string(),
            self.role.map_or_else(|| "-".to_owned(), |role| role.to_string()),
            size(self.project.quota_gib).unwrap_or_else(|| "-".to_owned()),
            size(self.project.checkpoint_gib).unwrap_or_else(|| "all".to_owned()),
            active_datasets.map_or_else(|| "no limit".to_owned(), |most| format!("at most {most}")),
            creator.clone(),
            table::time(*created),
            description.clone(),
        ]
    }
}

impl Project {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let catalog = context.catalog().await?;
        match self {
            Self::Create { name, description, quota, from, trust } => {
                let name = place::project(context, &catalog, &name).await?;
                let origin = match from {
                    Some(from) => Some(origin(context, &catalog, &from, &name, trust).await?),
                    None => None,
                };
                let made =
                    catalog.create_project(&name.at(), &name.project, &description, quota).await?;
                if let Some((workspace, origin)) = origin
                    && let Err(error) = origin.fill(&context.config, &workspace, &made).await
                {
                    // One that is half made is of no use; why it is says the first error.
                    let _ = discard(context, &catalog, &made).await;
                    return Err(error);
                }
                table::say(format!("project {name} made"));
                if catalog.selected_project().await?.is_none() {
                    catalog.select_project(&name).await?;
                    table::say("commands work on it from now on; `atelier use` chooses another");
                }
                table::made(&Line::new(&catalog, made).await?, context.json)?;
            }
            Self::List { community } => {
                let at = match community {
                    Some(community) => Some(place::community(context, &catalog, &community).await?),
                    None => None,
                };
                let mut all = Vec::new();
                for project in catalog.projects(at.as_ref()).await? {
                    all.push(Line::new(&catalog, project).await?);
                }
                table::list(&all, context.json)?;
            }
            Self::Show { name } => {
                let found = match name {
                    Some(name) => {
                        catalog.project(&place::project(context, &catalog, &name).await?).await?
                    }
                    None => context.project(&catalog).await?,
                };
                table::show(&Line::new(&catalog, found).await?, context.json)?;
            }
            Self::Set { name, active_datasets, checkpoint_files } => {
                let checkpoint_files = checkpoint_files.as_deref().map(parse_quota).transpose()?;
                let name = match name {
                    Some(name) => place::project(context, &catalog, &name).await?,
                    None => context.project(&catalog).await?.name,
                };
                let mut changed = catalog.project(&name).await?;
                if let Some(Limit(most)) = active_datasets {
                    changed = catalog.limit_active_datasets(&name, most).await?;
                    table::say(match most {
                        Some(most) => format!("project {name} may have {most} active datasets"),
                        None => format!("project {name} may have any number of active datasets"),
                    });
                }
                if let Some(most) = checkpoint_files {
                    changed = catalog.limit_checkpoints(&name, most).await?;
                    table::say(match most {
                        Some(most) => {
                            format!("checkpoints of {name} take up to {most} GiB of files")
                        }
                        None => format!("checkpoints of {name} take all files"),
                    });
                }
                table::made(&Line::new(&catalog, changed).await?, context.json)?;
            }
            Self::Resize { words } => resize(context, &catalog, &words).await?,
            Self::Delete { name, with_files } => {
                let name = place::project(context, &catalog, &name).await?;
                let project = catalog.project(&name).await?;
                if let Some(place) = catalog.files_at(&project).await?.and_then(|at| at.place) {
                    let message = format!("project {name} is mounted on {place}");
                    return Err(
                        Error::new(ErrorKind::ResourceBusy, message).with_hint("unmount it first")
                    );
                }
                let files = context.config.files_dir(project.id.as_str());
                if !with_files && !is_empty(&files)? {
                    return Err(Error::new(
                        ErrorKind::ResourceBusy,
                        format!("project {name} isn't empty: files/"),
                    )
                    .with_hint("--with-files deletes its files with it"));
                }
                catalog.delete_project(&name).await?;
                remove(files.parent().unwrap_or(&files))?;
                table::say(format!("project {name} deleted"));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Limits the files of a project, and says where that doesn't hold yet.
async fn resize(context: &Context, catalog: &Catalog, words: &[String]) -> Result<()> {
    let (name, size) = match words {
        [name, size] => (Some(name), size),
        [size, ..] => (None, size),
        [] => return Err(Error::new(ErrorKind::InvalidInput, "no size is named")),
    };
    let quota = parse_quota(size)?;
    let name = match name {
        Some(name) => place::project(context, catalog, name).await?,
        None => context.project(catalog).await?.name,
    };
    let before = catalog.project(&name).await?;
    let changed = catalog.resize_project(&name, quota).await?;
    table::say(match quota {
        Some(quota) => format!("the files of {name} may take {quota} GiB"),
        None => format!("the files of {name} may take any room"),
    });
    if let (None, Some(_)) = (before.quota_gib, quota)
        && let Some(place) = catalog.files_at(&changed).await?.and_then(|at| at.place)
    {
        table::say(format!("it holds once {place} is mounted again"));
    }
    table::made(&Line::new(catalog, changed).await?, context.json)?;
    Ok(())
}

/// Reads a quota: whole GiB, or `none`.
fn parse_quota(text: &str) -> Result<Option<u32>> {
    if text == "none" {
        return Ok(None);
    }
    let invalid = || {
        let message = format!("\"{text}\" is no quota: write whole GiB such as 10GiB, or none");
        Error::new(ErrorKind::InvalidInput, message)
    };
    // A number alone is GiB, as `project create --quota` has it.
    if let Ok(gib) = text.parse() {
        return Ok(Some(gib));
    }
    let ByteCount(bytes) = text.parse().map_err(|_| invalid())?;
    let gib = u32::try_from(bytes >> 30).map_err(|_| invalid())?;
    if u64::from(gib) << 30 == bytes { Ok(Some(gib)) } else { Err(invalid()) }
}

/// The checkpoint that a new project begins with, and what it is read through.
async fn origin(
    context: &Context,
    catalog: &Catalog,
    from: &str,
    new: &ProjectName,
    trust: bool,
) -> Result<(Workspace, Origin)> {
    let workspace = Workspace::open(&context.config).await?;
    let (project, id) = match from.split_once("/checkpoint/") {
        Some((project, id)) => {
            (catalog.project(&place::project(context, catalog, project).await?).await?, id)
        }
        None => (context.project(catalog).await?, from),
    };
    let origin = Origin::find(&workspace, &project, id, new, trust).await?;
    Ok((workspace, origin))
}

/// Removes a project that couldn't be filled.
async fn discard(context: &Context, catalog: &Catalog, made: &Found) -> Result<()> {
    catalog.delete_project(&made.name).await?;
    let files = context.config.files_dir(made.id.as_str());
    remove(files.parent().unwrap_or(&files))
}

fn is_empty(dir: &Path) -> Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).context(|| format!("{} can't be read", dir.display())),
    }
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.context(|| format!("{} can't be deleted", dir.display())),
    }
}
