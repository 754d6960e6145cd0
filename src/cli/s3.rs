//! `atelier s3`: connections to buckets.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Context, table};
use crate::catalog::{Kind, NewResource, Shown};
use crate::error::{Error, ErrorKind, Result};
use crate::object::s3::{Connection, Diagnosis, KeyReference, Limits, Reading, SecretReference};
use crate::workspace::{Keys, Workspace};

/// Connect S3 buckets to your project
#[derive(Debug, Subcommand)]
pub enum S3 {
    /// Connect a bucket, or the part of one below a prefix
    ///
    /// Without --key-id, whatever the AWS tools would use is used where the project is mounted:
    /// environment, profile, SSO, or the role of the instance.
    Connect(Box<Connect>),
    /// Try a connection: how fast it is, or what is wrong with it
    ///
    /// A few keys are listed and a byte of one object is read.
    Test(Named),
    /// List the connections of your project
    List,
    /// Show a connection
    Show(Named),
    /// Show a connection's bucket in the mount
    Activate(Named),
    /// Hide a connection's bucket from the mount
    Deactivate(Named),
    /// Remove a connection; the bucket stays as it is
    Disconnect(Named),
}

/// A connection by its name.
#[derive(Debug, Args)]
pub struct Named {
    /// The name of the connection
    name: String,
}

/// What is connected.
#[derive(Debug, Args)]
pub struct Connect {
    #[command(flatten)]
    named: Named,
    /// The bucket
    #[arg(long)]
    bucket: String,
    /// The URL of the service [default: AWS]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The bucket's region [default: that of the AWS profile, else us-east-1]
    #[arg(long)]
    region: Option<String>,
    /// Show only the keys below this prefix
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// Name the bucket in the path of URLs, as many services of one's own want it
    #[arg(long)]
    path_style: bool,
    /// The id of an access key [default: the AWS default chain]
    #[arg(long, value_name = "ID", requires = "secret_ref")]
    key_id: Option<String>,
    /// Where the access key's secret is, such as `project/AWS_SECRET_ACCESS_KEY`
    #[arg(long, value_name = "ENV/KEY", requires = "key_id")]
    secret_ref: Option<SecretReference>,
    /// Where the session token is, if the access key is a temporary one
    #[arg(long, value_name = "ENV/KEY", requires = "key_id")]
    token_ref: Option<SecretReference>,
    /// What the bucket is for
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// Don't try the connection first
    #[arg(long)]
    no_test: bool,
}

/// A connection as it is listed.
#[derive(Serialize)]
struct Listed {
    name: String,
    #[serde(flatten)]
    connection: Connection,
    active: bool,
    /// The project that owns it, if it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    description: String,
}

impl table::Row for Listed {
    const HEADER: &'static [&'static str] =
        &["NAME", "BUCKET", "SERVICE", "KEY", "ACTIVE", "FROM", "DESCRIPTION"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.connection.to_string(),
            self.connection.service().to_owned(),
            key(&self.connection),
            yes(self.active),
            self.from.clone().unwrap_or_default(),
            self.description.clone(),
        ]
    }
}

/// Everything that is known of a connection, which doesn't include its secret.
#[derive(Serialize)]
struct Details {
    #[serde(flatten)]
    listed: Listed,
    id: String,
    creator: String,
    created: jiff::Timestamp,
    modified: jiff::Timestamp,
}

impl table::Row for Details {
    const HEADER: &'static [&'static str] = &[
        "NAME",
        "BUCKET",
        "SERVICE",
        "REGION",
        "PATH STYLE",
        "KEY",
        "ACTIVE",
        "FROM",
        "DESCRIPTION",
        "CREATOR",
        "CREATED",
        "MODIFIED",
        "ID",
    ];

    fn cells(&self) -> Vec<String> {
        let Listed { name, connection, active, from, description } = &self.listed;
        vec![
            name.clone(),
            connection.to_string(),
            connection.service().to_owned(),
            connection.region.clone().unwrap_or_default(),
            yes(connection.needs_path_style()),
            key(connection),
            yes(*active),
            from.clone().unwrap_or_default(),
            description.clone(),
            self.creator.clone(),
            table::time(self.created),
            table::time(self.modified),
            self.id.clone(),
        ]
    }
}

/// How trying a connection went.
#[derive(Serialize)]
struct Tried {
    name: String,
    connection: String,
    service: String,
    works: bool,
    #[serde(flatten)]
    found: Option<Diagnosis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Tried {
    fn new(name: String, connection: &Connection, outcome: &Result<Diagnosis>) -> Self {
        let error = outcome.as_ref().err();
        Self {
            name,
            connection: connection.to_string(),
            service: connection.service().to_owned(),
            works: outcome.is_ok(),
            found: outcome.as_ref().ok().cloned(),
            error: error.map(ToString::to_string),
            hint: error.and_then(Error::hint).map(str::to_owned),
        }
    }
}

impl table::Row for Tried {
    const HEADER: &'static [&'static str] = &["NAME", "WORKS", "ERROR"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), yes(self.works), self.error.clone().unwrap_or_default()]
    }
}

impl S3 {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        match self {
            Self::Connect(connect) => connect.run(context).await?,
            Self::Test(named) => named.test(context).await?,
            Self::List => list(context).await?,
            Self::Show(named) => named.show(context).await?,
            Self::Activate(named) => named.activate(context, true).await?,
            Self::Deactivate(named) => named.activate(context, false).await?,
            Self::Disconnect(named) => named.disconnect(context).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Connect {
    async fn run(self, context: &Context) -> Result<()> {
        let workspace = Workspace::open(&context.config).await?;
        let project = workspace.project().await?;
        let name = self.named.name;
        let taken = workspace.catalog.resource(&project, Kind::S3, &name).await;
        if taken.is_ok_and(|found| found.project == project.id) {
            let message = format!("s3 {name} of {} is there already", project.name);
            return Err(Error::new(ErrorKind::AlreadyExists, message)
                .with_hint(format!("`atelier s3 disconnect {name}` removes it")));
        }
        let token = self.token_ref;
        let key = self.key_id.zip(self.secret_ref);
        let key = key.map(|(id, secret)| KeyReference { id, secret, token });
        let connection = Connection {
            bucket: self.bucket,
            endpoint: self.endpoint,
            region: self.region,
            prefix: self.prefix,
            path_style: self.path_style,
            key,
        }
        .checked()?;
        if !self.no_test {
            diagnose(&workspace, Keys::Of(&project), connection.clone()).await.map_err(
                |error| {
                    let hint = error.hint().map(|hint| format!("{hint}; ")).unwrap_or_default();
                    error.with_hint(format!("{hint}--no-test connects without trying"))
                },
            )?;
        }
        let new = NewResource {
            kind: Kind::S3,
            name: name.clone(),
            description: self.description,
            spec: connection.to_spec()?,
        };
        workspace.catalog.create_resource(&project, new).await?;
        table::say(format!("{connection} is connected as {name}"));
        Ok(())
    }
}

impl Named {
    async fn test(self, context: &Context) -> Result<()> {
        let workspace = Workspace::open(&context.config).await?;
        let project = workspace.project().await?;
        let shown = workspace.catalog.shown(&project, Kind::S3, &self.name).await?;
        let connection = Connection::from_spec(&shown.resource.spec)?;
        let keys = Keys::Behind(&shown.resource);
        let outcome = diagnose(&workspace, keys, connection.clone()).await.and_then(|found| {
            if shown.active {
                return Ok(found);
            }
            let message = format!("{connection} works, but {} is inactive", self.name);
            Err(Error::new(ErrorKind::PermissionDenied, message)
                .with_hint(format!("`atelier s3 activate {}` shows it", self.name)))
        });
        table::made(&Tried::new(self.name.clone(), &connection, &outcome), context.json)?;
        let Diagnosis { list_millis, read } = outcome?;
        let name = &self.name;
        table::say(format!("{name} works: {connection} at {}", connection.service()));
        table::say(format!("it lists in {list_millis} ms"));
        let Some(Reading { key, first_byte_millis, ranges, if_match }) = read else {
            table::say("it holds no object to read yet");
            return Ok(());
        };
        table::say(format!("it reads: the first byte of {key} comes after {first_byte_millis} ms"));
        if !ranges {
            table::say("warning: it can't read parts of objects, only their start");
        }
        if !if_match {
            table::say(
                "warning: it ignores If-Match, so an open file is one version only as long as \
                 each answer names its version",
            );
        }
        Ok(())
    }

    async fn show(self, context: &Context) -> Result<()> {
        let catalog = context.catalog().await?;
        let project = context.project(&catalog).await?;
        let shown = catalog.shown(&project, Kind::S3, &self.name).await?;
        let resource = &shown.resource;
        let details = Details {
            id: resource.id.to_string(),
            creator: resource.creator.clone(),
            created: resource.created,
            modified: resource.modified,
            listed: Listed::new(shown)?,
        };
        table::show(&details, context.json)
    }

    async fn activate(self, context: &Context, active: bool) -> Result<()> {
        let catalog = context.catalog().await?;
        let project = context.project(&catalog).await?;
        catalog.activate(&project, Kind::S3, &self.name, active).await?;
        let state = if active { "active" } else { "inactive" };
        table::say(format!("{} is {state}", self.name));
        Ok(())
    }

    async fn disconnect(self, context: &Context) -> Result<()> {
        let catalog = context.catalog().await?;
        let project = context.project(&catalog).await?;
        let Shown { added, resource, .. } = catalog.shown(&project, Kind::S3, &self.name).await?;
        if added {
            let message = format!("{} belongs to {}", self.name, resource.owner);
            return Err(Error::new(ErrorKind::NotPermitted, message)
                .with_hint(format!("`atelier remove s3/{}` takes it out", self.name)));
        }
        catalog.delete_resource(&resource).await?;
        table::say(format!("{} is disconnected", self.name));
        Ok(())
    }
}

impl Listed {
    fn new(shown: Shown) -> Result<Self> {
        let Shown { name, active, added, resource } = shown;
        Ok(Self {
            name,
            connection: Connection::from_spec(&resource.spec)?,
            active,
            from: added.then(|| resource.owner.to_string()),
            description: resource.description,
        })
    }
}

async fn list(context: &Context) -> Result<()> {
    let catalog = context.catalog().await?;
    let project = context.project(&catalog).await?;
    let shown = catalog.resources(&project, Kind::S3).await?;
    let rows = shown.into_iter().map(Listed::new).collect::<Result<Vec<_>>>()?;
    table::list(&rows, context.json)
}

/// Tries a connection with the key it names.
async fn diagnose(
    workspace: &Workspace,
    keys: Keys<'_>,
    connection: Connection,
) -> Result<Diagnosis> {
    workspace.bucket(keys, connection, Limits::interactive()).await?.diagnose().await
}

fn key(connection: &Connection) -> String {
    match &connection.key {
        Some(key) => format!("{} ({})", key.id, key.secret),
        None => "default chain".to_owned(),
    }
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}
