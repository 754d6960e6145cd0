//! `atelier dataset`: immutable, versioned directories.

use std::process::ExitCode;

use clap::Subcommand;
use indicatif::HumanBytes;
use jiff::Timestamp;
use serde::Serialize;

use super::{Context, draft, table};
use crate::catalog::{Catalog, Kind, Project, Resource, Shown, Version, VersionChange};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::verify::distrust;
use crate::workspace::Workspace;

mod create;
mod diff;
mod export;
mod find;
mod init;
mod init_code;
mod show;
mod tag;
mod warm;

use create::Create;
use find::At;
use warm::Warm;

/// How many affected files a report names.
const NAMED: usize = 20;

/// Keep directories as immutable, versioned datasets.
#[derive(Debug, Subcommand)]
pub enum Dataset {
    /// Take a directory, an archive or a bucket in as a dataset, or as the next version of one
    Create(Create),
    /// Let a command fill a new dataset
    ///
    /// The command finds the path of an empty directory in `$ATELIER_DATASET`. What it has written
    /// there when it ends with exit code 0 is the dataset; otherwise nothing is left of it, and its
    /// exit code is that of this program. Signals are passed on.
    ///
    /// The catalogue keeps the command and the script that it names first as the dataset's init
    /// code: have secrets in the environment, not among its arguments.
    Init(init::Init),
    /// List the datasets of the project
    List,
    /// Show a version with all that is known of it
    ///
    /// STORED is what making it added to the store, NEEDED what it needs of it, and UNIQUE what no
    /// other version needs: that much would be free without it.
    Show(Named),
    /// List the versions of a dataset, newest first
    Log {
        /// The dataset
        name: String,
    },
    /// Show what was added, removed and changed between two versions
    Diff(diff::Diff),
    /// Give a version a name, by which it is reached as NAME@TAG
    Tag(tag::TagVersion),
    /// Take a version's name away
    Untag(tag::UntagVersion),
    /// Write a version into an empty directory, as plain files
    ///
    /// Modes, times and links are kept. One that was interrupted goes on when it is run again.
    Export(export::Export),
    /// Read a whole dataset and check every byte
    Verify(Named),
    /// Bring a dataset into memory, or from a bucket onto the disk, before it is read
    Warm(Warm),
    /// Show a dataset, or one version of it, in the project
    Activate(Named),
    /// Hide a dataset, or one version of it, from the project
    Deactivate(Named),
    /// Delete a dataset, or one version of it
    Delete(Named),
}

/// A dataset, or one version of it.
#[derive(Debug, clap::Args)]
pub struct Named {
    /// The dataset; without a version or tag the newest active one, or all of it
    #[arg(value_name = "NAME[@VERSION|@TAG]")]
    name: String,
}

/// A dataset as it is listed.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    version: Option<u32>,
    files: u64,
    bytes: u64,
    active: bool,
    added: bool,
    creator: String,
    created: Timestamp,
    description: String,
}

/// A version of a dataset as it is shown.
#[derive(Debug, Serialize)]
struct Described {
    name: String,
    version: u32,
    files: u64,
    bytes: u64,
    /// What this version added to the store, in bytes.
    stored_bytes: Option<u64>,
    active: bool,
    creator: String,
    created: Timestamp,
    description: String,
    root: String,
}

impl table::Row for Listed {
    const HEADER: &'static [&'static str] =
        &["NAME", "VERSION", "FILES", "SIZE", "ACTIVE", "CREATOR", "CREATED", "DESCRIPTION"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.version.map_or_else(|| "-".to_owned(), |version| version.to_string()),
            self.files.to_string(),
            HumanBytes(self.bytes).to_string(),
            yes_or_no(self.active),
            self.creator.clone(),
            table::time(self.created),
            self.description.clone(),
        ]
    }
}

impl table::Row for Described {
    const HEADER: &'static [&'static str] = &[
        "NAME",
        "VERSION",
        "FILES",
        "SIZE",
        "STORED",
        "ACTIVE",
        "CREATOR",
        "CREATED",
        "DESCRIPTION",
        "ROOT",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.version.to_string(),
            self.files.to_string(),
            HumanBytes(self.bytes).to_string(),
            self.stored(),
            yes_or_no(self.active),
            self.creator.clone(),
            table::time(self.created),
            self.description.clone(),
            self.root.clone(),
        ]
    }
}

impl Described {
    fn new(resource: &Resource, version: Version) -> Self {
        Self {
            name: resource.name.clone(),
            version: version.number,
            files: version.files,
            bytes: version.bytes,
            stored_bytes: version.spec.get("stored").and_then(serde_json::Value::as_u64),
            active: resource.active && version.active,
            creator: version.creator,
            created: version.created,
            description: resource.description.clone(),
            root: version.root,
        }
    }

    fn stored(&self) -> String {
        let stored = self.stored_bytes.map(|stored| HumanBytes(stored).to_string());
        stored.unwrap_or_else(|| "-".to_owned())
    }
}

impl Dataset {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let workspace = match &self {
            Self::Warm(warm) => {
                let serving = warm.serving(context)?;
                Workspace::open_to_serve(&context.config, &serving).await?
            }
            _ => Workspace::open(&context.config).await?,
        };
        let project = context.project(&workspace.catalog).await?;
        let at = At { catalog: &workspace.catalog, project: &project };
        draft::clear(&context.config);
        match self {
            Self::Init(init) => return init.run(context, &workspace, &project).await,
            Self::Create(create) => create.run(context, &workspace, &project).await?,
            Self::List => table::list(&at.listed().await?, context.json)?,
            Self::Show(named) => at.show(&named.name, context.json).await?,
            Self::Log { name } => at.log(&name, context.json).await?,
            Self::Diff(diff) => diff.run(&at, &workspace, context.json).await?,
            Self::Tag(tag) => tag.run(&at).await?,
            Self::Untag(untag) => untag.run(&at).await?,
            Self::Export(export) => export.run(&at, &workspace).await?,
            Self::Verify(named) => at.verify(&workspace, &named.name).await?,
            Self::Warm(warm) => warm.run(context, &workspace, &at).await?,
            Self::Activate(named) => at.activate(&named.name, true).await?,
            Self::Deactivate(named) => at.activate(&named.name, false).await?,
            Self::Delete(named) => at.delete(&workspace, &named.name).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl At<'_> {
    async fn listed(&self) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for Shown { name, active, added, resource } in
            self.catalog.resources(self.project, Kind::Dataset).await?
        {
            let version = self.catalog.newest_version(&resource.id).await?;
            let of = |number: fn(&Version) -> u64| version.as_ref().map_or(0, number);
            listed.push(Listed {
                name,
                files: of(|version| version.files),
                bytes: of(|version| version.bytes),
                version: version.map(|version| version.number),
                active,
                added,
                creator: resource.creator,
                created: resource.created,
                description: resource.description,
            });
        }
        Ok(listed)
    }

    async fn verify(&self, workspace: &Workspace, text: &str) -> Result<()> {
        self.require_developer().await?;
        let (shown, version) = self.version(text).await?;
        let name = format!("{}@{}", shown.name, version.number);
        let verified = workspace.open_version(&version).await?.verify().await?;
        distrust(self.catalog, &verified.damage).await?;
        for damaged in &verified.damage {
            table::say(damaged.error.to_string());
        }
        for path in verified.affected.iter().take(NAMED) {
            table::say(format!("affected: {path}"));
        }
        if let Some(more) = verified.affected.len().checked_sub(NAMED + 1) {
            table::say(format!("and {} more", more + 1));
        }
        if !verified.is_whole() {
            let message = format!("dataset {name} is damaged");
            return Err(Error::new(ErrorKind::Damaged, message).with_hint(
                "where the files are still at hand, `atelier dataset create` it again: what is \
                 damaged isn't used any more",
            ));
        }
        let Version { files, bytes, .. } = version;
        let (bytes, objects) = (HumanBytes(bytes), verified.objects);
        table::say(format!("dataset {name} is whole: {files} files, {bytes}, {objects} objects"));
        Ok(())
    }

    async fn activate(&self, text: &str, active: bool) -> Result<()> {
        let (shown, number) = self.named(text).await?;
        match number {
            Some(number) => {
                let change = VersionChange { active: Some(active), ..VersionChange::default() };
                self.catalog.update_version(&shown.resource.id, number, change).await?;
            }
            None => {
                self.catalog.activate(self.project, Kind::Dataset, text, active).await?;
            }
        }
        let state = if active { "active" } else { "inactive" };
        table::say(format!("dataset {text} is {state}"));
        Ok(())
    }

    async fn delete(&self, workspace: &Workspace, text: &str) -> Result<()> {
        let (shown, number) = self.named(text).await?;
        if shown.added {
            let message = format!("dataset {text} belongs to {}", shown.resource.owner);
            return Err(Error::new(ErrorKind::PermissionDenied, message).with_hint(format!(
                "`atelier remove dataset/{text}` takes it out of this project"
            )));
        }
        let id = &shown.resource.id;
        let mut gone = self.catalog.versions(id).await?;
        gone.retain(|version| number.is_none_or(|number| version.number == number));
        match number {
            Some(number) => self.catalog.delete_version(id, number).await?,
            None => self.catalog.delete_resource(&shown.resource).await?,
        }
        for version in gone {
            workspace.drop_record(&shown.resource, version.number).await?;
        }
        table::say(format!("dataset {text} is deleted"));
        Ok(())
    }
}

async fn require_developer(catalog: &Catalog, project: &Project) -> Result<()> {
    At { catalog, project }.require_developer().await
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}
