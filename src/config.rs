//! What was typed becomes what is meant: options and environment, resolved once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcetera::BaseStrategy;

use crate::error::{Error, ErrorKind, Result};

pub use self::serving::{ByteCount, CacheSize, Serving, ServingArgs, Span};
pub use self::store::{BucketUrl, StoreLocation};

mod home;
mod serving;
mod store;

/// How long a lease on the content store lasts that isn't renewed: long enough for a machine that
/// is busy, short enough that what a dead one held is free after a coffee break.
const LEASE: Duration = Duration::from_mins(5);

/// Where the identities of a host are kept unless the environment says otherwise.
const HOST_IDENTITY: &str = "/etc/atelier/identity.txt";

/// Options that every command takes.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Where the catalogue, the store and the projects' files live [default: `atelier` in the XDG
    /// data directory]
    #[arg(long, global = true, env = "ATELIER_HOME", value_name = "DIR")]
    pub home: Option<PathBuf>,

    /// The project to work on [default: the one chosen with `atelier use`]
    #[arg(long, global = true, env = "ATELIER_PROJECT", value_name = "ORG/COMMUNITY/PROJECT")]
    pub project: Option<String>,

    /// Where the content of datasets and checkpoints is, such as `s3://bucket/prefix` or an absolute
    /// path; a catalogue belongs to the first one for good [default: `store` in the home]
    #[arg(long, global = true, env = "ATELIER_STORE", value_name = "URL")]
    pub store: Option<StoreLocation>,

    /// How long what a command or mount uses stays when it isn't heard of any more
    #[arg(long, global = true, env = "ATELIER_LEASE", value_name = "TIME", hide = true)]
    pub lease: Option<Span>,

    /// Who is acting [default: the name of the user who runs this]
    #[arg(long, global = true, env = "ATELIER_USER", value_name = "USER", hide = true)]
    pub user: Option<String>,

    /// Print machine-readable JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// Where everything is and who is acting.
#[derive(Clone, Debug)]
pub struct Config {
    /// The home: catalogue, store and files, readable by its owner only.
    pub home: PathBuf,
    /// Where blocks and indexes that can be rebuilt are kept.
    pub cache: PathBuf,
    /// Where what lives as long as a login is kept, if there is such a place.
    pub runtime: Option<PathBuf>,
    /// Where Jupyter keeps how its servers and kernels are reached.
    pub jupyter: PathBuf,
    /// Where `sops` and we look for age identities.
    pub identity_file: PathBuf,
    /// Where the age identities of the host are, which only root can read.
    pub host_identity_file: PathBuf,
    /// Where it is kept which versions of environment files a user has seen.
    pub seen_file: PathBuf,
    /// The content store named by option or environment.
    pub store: Option<StoreLocation>,
    /// The URL of the S3 service that the environment names.
    pub s3_endpoint: Option<String>,
    /// How long a lease on the content store lasts that isn't renewed.
    pub lease: Duration,
    /// The project named by option or environment.
    pub project: Option<String>,
    /// The user who acts.
    pub user: String,
}

impl Config {
    /// Resolves options against the environment and the XDG base directories.
    ///
    /// # Errors
    /// `InvalidInput` when there is no home directory to put things in, or no user name.
    pub fn resolve(args: &GlobalArgs) -> Result<Self> {
        let base = etcetera::base_strategy::Xdg::new().map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "no home directory is known")
                .with_source(error)
                .with_hint("set HOME, or name a directory with --home")
        })?;
        let identity_file = std::env::var_os("SOPS_AGE_KEY_FILE")
            .map_or_else(|| base.config_dir().join("sops/age/keys.txt"), PathBuf::from);
        Ok(Self {
            home: absolute(&args.home.clone().unwrap_or_else(|| base.data_dir().join("atelier")))?,
            cache: base.cache_dir().join("atelier"),
            runtime: base.runtime_dir().map(|dir| dir.join("atelier")),
            jupyter: jupyter_runtime(&base),
            identity_file,
            host_identity_file: std::env::var_os("ATELIER_HOST_IDENTITY")
                .map_or_else(|| PathBuf::from(HOST_IDENTITY), PathBuf::from),
            seen_file: base
                .state_dir()
                .unwrap_or_else(|| base.data_dir())
                .join("atelier/environments.json"),
            store: args.store.clone(),
            s3_endpoint: ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
                .iter()
                .find_map(|name| std::env::var(name).ok().filter(|url| !url.is_empty())),
            lease: args.lease.map_or(LEASE, |Span(span)| span),
            project: args.project.clone(),
            user: args.user.clone().map_or_else(login_name, Ok)?,
        })
    }

    /// Refuses a home that others could change under us.
    ///
    /// # Errors
    /// `PermissionDenied`, with what is wrong and how to mend it.
    pub fn check_home(&self) -> Result<()> {
        home::check(&self.home)
    }

    /// Refuses a home that others could put something else in the place of, before it is made.
    ///
    /// # Errors
    /// `PermissionDenied`, with what is wrong and how to mend it.
    pub fn check_place_of_home(&self) -> Result<()> {
        home::check_place(&self.home)
    }

    /// The SQLite file of the embedded catalogue.
    pub fn catalog_file(&self) -> PathBuf {
        self.home.join("catalog.db")
    }

    /// The directory of the embedded content store.
    pub fn store_dir(&self) -> PathBuf {
        self.home.join("store")
    }

    /// The directory in which running kernels write their variables.
    pub fn kernels_dir(&self) -> PathBuf {
        self.cache.join("kernels")
    }

    /// Where sockets of mounts may be, the place to make them first.
    pub fn socket_dirs(&self) -> Vec<PathBuf> {
        self.runtime.iter().cloned().chain([self.home.join("run")]).collect()
    }

    /// The directory of datasets that commands are filling.
    pub fn drafts_dir(&self) -> PathBuf {
        self.home.join("drafts")
    }

    /// The directory of a project's storage.
    pub fn files_dir(&self, project_id: &str) -> PathBuf {
        self.home.join("projects").join(project_id).join("files")
    }

    /// The directory of the journals of what is changed in a project's storage.
    pub fn journals_dir(&self, project_id: &str) -> PathBuf {
        self.home.join("projects").join(project_id).join("journals")
    }

    /// The directory of what checkpoints of a project know of the files that they read.
    pub fn seen_dir(&self, project_id: &str) -> PathBuf {
        self.home.join("projects").join(project_id).join("seen")
    }
}

/// As `jupyter --runtime-dir` has it.
fn jupyter_runtime(base: &impl BaseStrategy) -> PathBuf {
    let named =
        |name: &str| std::env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    named("JUPYTER_RUNTIME_DIR").unwrap_or_else(|| {
        named("JUPYTER_DATA_DIR").unwrap_or_else(|| base.data_dir().join("jupyter")).join("runtime")
    })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|error| Error::io(error, format!("{} can't be resolved", path.display())))
}

/// The name of the effective user as the user database has it, else `uid-<number>`.
///
/// `$USER` is what the shell was told, not who is running, so it isn't asked.
fn login_name() -> Result<String> {
    let uid = rustix::process::geteuid();
    let users = std::fs::read_to_string("/etc/passwd")
        .map_err(|error| Error::io(error, "the user database /etc/passwd can't be read"))?;
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.as_raw().to_string()).then(|| name.to_owned())
    });
    Ok(name.unwrap_or_else(|| format!("uid-{}", uid.as_raw())))
}
