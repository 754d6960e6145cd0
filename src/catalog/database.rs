//! The SQLite file behind the catalogue: made, locked, migrated, opened.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use jiff::Timestamp;
use sqlx::any::{AnyPoolOptions, AnyRow};
use sqlx::{Any, AnyConnection, AnyPool, ColumnIndex, Connection, Decode, Row, Type};

use super::model::Id;
use crate::error::{Error, ErrorKind, IoContext, Result};

/// What each format adds to the one before; the first makes an empty catalogue.
const MIGRATIONS: &[&str] = &[
    include_str!("schema.sql"),
    include_str!("content.sql"),
    include_str!("tag.sql"),
    include_str!("storage.sql"),
    include_str!("account.sql"),
    include_str!("recipient.sql"),
];

/// Begins a change. IMMEDIATE takes the write lock at once, within the busy timeout; a
/// transaction that reads first and writes later would fail where another wrote in between
/// (<https://www.sqlite.org/isolation.html>).
pub(super) const BEGIN: &str = "BEGIN IMMEDIATE";

/// What every connection is told. The busy timeout, in milliseconds, is how long a change waits
/// for others; each of them takes a few.
const SETTINGS: &str = "PRAGMA busy_timeout = 30000; PRAGMA journal_mode = WAL; \
                        PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON";

/// Opens the database, making and migrating it under a lock on its folder: the change to WAL
/// can't wait for a busy database, so only one process may be at it.
pub(super) async fn open(file: &Path) -> Result<AnyPool> {
    let (path, folder) = (file.to_owned(), file.parent().unwrap_or(Path::new("/")).to_owned());
    let lock = tokio::task::spawn_blocking(move || -> Result<File> {
        let shown = folder.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .context(|| format!("the folder {shown} can't be made"))?;
        let lock = File::open(&folder).context(|| format!("the folder {shown} can't be opened"))?;
        lock.lock().context(|| format!("the folder {shown} can't be locked"))?;
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .context(|| format!("the catalogue {} can't be opened", path.display()))?;
        Ok(lock)
    })
    .await
    .map_err(|error| {
        Error::new(ErrorKind::Io, "opening the catalogue was cut off").with_source(error)
    })??;
    sqlx::any::install_default_drivers();
    let url = url(file);
    // Not through the pool, which would try again and again to open what can't be opened.
    let mut first = AnyConnection::connect(&url).await.map_err(failed)?;
    sqlx::raw_sql(SETTINGS).execute(&mut first).await.map_err(failed)?;
    migrate(&mut first, file).await?;
    let pool = connect(&url).await?;
    first.close().await.map_err(failed)?;
    drop(lock);
    Ok(pool)
}

async fn connect(url: &str) -> Result<AnyPool> {
    AnyPoolOptions::new()
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(35))
        .test_before_acquire(false)
        .after_connect(|db, _| {
            Box::pin(async move { sqlx::raw_sql(SETTINGS).execute(db).await.map(|_| ()) })
        })
        .connect(url)
        .await
        .map_err(failed)
}

/// The file's path as a URL, in which `?`, `#`, `%` and blanks mean themselves.
fn url(file: &Path) -> String {
    let mut url = "sqlite://".to_owned();
    for &byte in file.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
            url.push(char::from(byte));
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url
}

async fn migrate(db: &mut AnyConnection, file: &Path) -> Result<()> {
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS format (version BIGINT PRIMARY KEY)")
        .execute(&mut *db)
        .await
        .map_err(failed)?;
    let mut db = db.begin_with(BEGIN).await.map_err(failed)?;
    let found = format(&mut db).await?;
    let known = MIGRATIONS.len();
    if found > known {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the catalogue {} has format {found}, this program knows formats up to {known}",
                file.display()
            ),
        )
        .with_hint("install the newer atelier that wrote it"));
    }
    for (version, statements) in (1i64..).zip(MIGRATIONS).skip(found) {
        sqlx::raw_sql(*statements).execute(&mut *db).await.map_err(failed)?;
        sqlx::query("INSERT INTO format (version) VALUES ($1)")
            .bind(version)
            .execute(&mut *db)
            .await
            .map_err(failed)?;
    }
    db.commit().await.map_err(failed)
}

async fn format(db: &mut AnyConnection) -> Result<usize> {
    let row = sqlx::query("SELECT COALESCE(MAX(version), 0) AS version FROM format")
        .fetch_one(db)
        .await
        .map_err(failed)?;
    usize::try_from(field::<i64>(&row, "version")?).map_err(|error| damaged("its format", error))
}

/// A new identifier: 128 random bits, as 26 lower-case letters and digits.
pub(super) fn new_id() -> Result<Id> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| {
        Error::new(ErrorKind::Io, "the system has no random numbers").with_source(error)
    })?;
    Ok(Id(BASE32_NOPAD.encode(&bits).to_ascii_lowercase()))
}

/// The time as it is stored: microseconds since 1970.
pub(super) fn now() -> i64 {
    Timestamp::now().as_microsecond()
}

/// Reads a column.
pub(super) fn field<'r, T>(row: &'r AnyRow, name: &'static str) -> Result<T>
where
    T: Decode<'r, Any> + Type<Any>,
    &'static str: ColumnIndex<AnyRow>,
{
    row.try_get(name).map_err(failed)
}

/// What a stored value is that can't have been written here.
pub(super) fn damaged(
    what: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::new(ErrorKind::Damaged, format!("the catalogue is damaged: {what} makes no sense"))
        .with_source(source)
}

/// Says what a failure of the database means.
pub(super) fn failed(error: sqlx::Error) -> Error {
    let code = match &error {
        sqlx::Error::Database(database) => {
            database.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or(0)
        }
        sqlx::Error::PoolTimedOut => 5,
        _ => 0,
    };
    // SQLITE_IOERR_SHMSIZE: where no byte is left, the file that connections share can't be made.
    let code = if code == 4874 { 13 } else { code };
    // The low byte is the primary result code, see https://www.sqlite.org/rescode.html
    let (kind, message) = match code & 0xff {
        5 | 6 => (ErrorKind::TimedOut, "the catalogue was busy for too long"),
        8 => (ErrorKind::ReadOnlyFilesystem, "the catalogue can't be written"),
        11 | 26 => (ErrorKind::Damaged, "the catalogue is damaged"),
        13 => (ErrorKind::StorageFull, "the disk has no room for the catalogue"),
        14 => (ErrorKind::PermissionDenied, "the catalogue can't be opened"),
        _ => (ErrorKind::Io, "the catalogue failed"),
    };
    Error::new(kind, message).with_source(error)
}
