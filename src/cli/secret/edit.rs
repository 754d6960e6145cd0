//! `atelier secret edit`: an environment file in an editor, its plaintext in memory only.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::BASE32_NOPAD;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::{Absent, Context, DEFAULT, Environments, read_all, table};
use crate::catalog::{self, Kind};
use crate::cli::child::{self, Ended, Signals};
use crate::cli::run::KEY_VARIABLES;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::secret::{Changes, OpenEnvironment};

/// The type of a file system whose files are in memory, see `statfs(2)`.
const TMPFS: i64 = 0x0102_1994;

/// Where every Linux has such a file system, see `shm_overview(7)`.
const SHARED_MEMORY: &str = "/dev/shm";

/// What the names of directories begin with in which plaintext is while it is edited.
const ROOM: &str = "atelier-";

/// What is edited.
#[derive(Debug, clap::Args)]
pub struct Edit {
    /// The environment file, made if it isn't there
    #[arg(long = "env", value_name = "NAME", default_value = DEFAULT)]
    environment: String,
}

impl Edit {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let name = &self.environment;
        catalog::name::check_resource(Kind::Secret, name)?;
        let environments = Environments::open_project(context).await?;
        let shown = environments.catalog.resource(&environments.project, Kind::Secret, name).await;
        let before = match shown {
            Err(error) if error.kind() == ErrorKind::NotFound => OpenEnvironment::create(name)?,
            _ => environments.open(name).await?,
        };
        let mut signals = Signals::listen()?;
        let room = Room::make(context.config.runtime.as_deref())?;
        let plain = before.plain()?;
        let file = room.file(name, plain.as_bytes())?;
        let edited = loop {
            edit(&file, &mut signals).await?;
            let text = Room::read(&file)?;
            if text == plain {
                table::say(format!("environment file {name} is unchanged"));
                return Ok(());
            }
            match before.clone().rewrite(&text) {
                Ok(_) => break text,
                Err(error) if io::stdin().is_terminal() => {
                    table::say(format!("error: {error}"));
                    table::say("Enter edits it again, Ctrl-D gives up");
                    if io::stdin().read_line(&mut String::new()).unwrap_or(0) == 0 {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        };
        let mut changes = Changes::default();
        environments
            .change(name, Absent::Create, |present| {
                // Whoever changed it meanwhile would lose his change without knowing.
                if present.sealed() != before.sealed() || present.plain()? != plain {
                    let message = format!("environment file {name} was changed meanwhile");
                    return Err(Error::new(ErrorKind::StaleHandle, message)
                        .with_hint("edit it once more; nothing of yours was written"));
                }
                changes = present.rewrite(&edited)?;
                Ok(true)
            })
            .await?;
        told("set", &changes.set);
        told("deleted", &changes.deleted);
        table::say(format!("environment file {name} is changed"));
        Ok(())
    }
}

fn told(what: &str, keys: &[String]) {
    if !keys.is_empty() {
        table::say(format!("{what}: {}", keys.join(", ")));
    }
}

/// Lets the user edit a file to his liking.
async fn edit(file: &Path, signals: &mut Signals) -> Result<()> {
    let chosen = ["VISUAL", "EDITOR"].iter().filter_map(std::env::var_os);
    let editor = chosen.into_iter().find(|editor| !editor.is_empty());
    let mut script = editor.unwrap_or_else(|| OsString::from("vi"));
    // It may have arguments, so a shell reads it, as git and others do it.
    script.push(" \"$@\"");
    let mut command = Command::new("sh");
    command.arg("-c").arg(&script).arg("sh").arg(file);
    for key in KEY_VARIABLES {
        command.env_remove(key);
    }
    match child::run(command, signals).await? {
        Ended::Exited(status) if status.success() => Ok(()),
        Ended::Exited(_) | Ended::NotRun(_) => {
            Err(Error::new(ErrorKind::Io, "the editor failed, so nothing is changed"))
        }
    }
}

/// A directory in memory that only this user can enter; what is in it is wiped in the end.
struct Room {
    dir: PathBuf,
    /// Held as long as somebody is in it.
    _lock: File,
}

impl Room {
    fn make(runtime: Option<&Path>) -> Result<Self> {
        let places = runtime.and_then(Path::parent).into_iter().chain([Path::new(SHARED_MEMORY)]);
        for place in places.filter(|place| is_memory(place)) {
            Self::clear(place);
            let mut random = [0; 10];
            getrandom::fill(&mut random).map_err(|error| {
                Error::new(ErrorKind::Io, "the system gives no random numbers").with_source(error)
            })?;
            let dir = place.join(format!("{ROOM}{}", BASE32_NOPAD.encode(&random)));
            if DirBuilder::new().mode(0o700).create(&dir).is_ok()
                && let Some(room) = Self::enter(dir)
            {
                return Ok(room);
            }
        }
        Err(Error::new(ErrorKind::Unsupported, "there is no memory to keep plaintext in")
            .with_hint("$XDG_RUNTIME_DIR or /dev/shm has to be a tmpfs that you may write"))
    }

    /// Takes a room that nobody is in.
    fn enter(dir: PathBuf) -> Option<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let mut options = OpenOptions::new();
        let lock = options.read(true).custom_flags(flags.bits().cast_signed()).open(&dir).ok()?;
        let is_ours = lock.metadata().ok()?.uid() == rustix::process::geteuid().as_raw();
        (is_ours && lock.try_lock().is_ok()).then_some(Self { dir, _lock: lock })
    }

    /// Wipes what processes left that were killed.
    fn clear(place: &Path) {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let random = name.to_str().and_then(|name| name.strip_prefix(ROOM));
            if random.is_some_and(|random| BASE32_NOPAD.decode(random.as_bytes()).is_ok())
                && let Some(room) = Self::enter(entry.path())
            {
                drop(room);
            }
        }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let file = self.dir.join(format!("{name}.env"));
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
        made.and_then(|mut file| file.write_all(bytes))
            .context(|| format!("{} can't be made", file.display()))?;
        Ok(file)
    }

    fn read(file: &Path) -> Result<Zeroizing<String>> {
        let what = file.display().to_string();
        let opened = File::open(file).context(|| format!("{what} can't be read"))?;
        let bytes = read_all(opened, &what)?;
        let text = str::from_utf8(&bytes).map_err(|_| {
            Error::new(ErrorKind::InvalidInput, "what you wrote isn't text".to_owned())
        })?;
        Ok(Zeroizing::new(text.to_owned()))
    }
}

impl Drop for Room {
    /// Wipes each file, also those that the editor made beside.
    fn drop(&mut self) {
        for entry in walkdir::WalkDir::new(&self.dir).into_iter().filter_map(Result::ok) {
            if entry.file_type().is_file() {
                let wiped = entry.metadata().map_err(io::Error::from).and_then(|metadata| {
                    let zeros = vec![0; usize::try_from(metadata.len()).unwrap_or(0)];
                    OpenOptions::new().write(true).open(entry.path())?.write_all(&zeros)
                });
                if let Err(error) = wiped {
                    tracing::warn!(%error, "what an editor left in memory can't be wiped");
                }
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            table::say(format!("warning: {} can't be removed: {error}", self.dir.display()));
        }
    }
}

fn is_memory(place: &Path) -> bool {
    rustix::fs::statfs(place).is_ok_and(|found| found.f_type == TMPFS)
}
