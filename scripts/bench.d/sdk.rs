//! The S3 client without a file system, for `scripts/bench`: fills the bucket, and shows what the
//! server gives.

// Counts become figures of a few digits.
#![allow(clippy::cast_precision_loss)]

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atelier::object::s3::{Connection, Credentials, Limits, S3Store};
use atelier::object::{Depth, ObjectStore as _, PutMode};
use clap::{Args, Parser, Subcommand};
use futures_util::StreamExt as _;
use serde_json::json;
use walkdir::WalkDir;

type Outcome = Result<serde_json::Value, Box<dyn Error + Send + Sync>>;

/// Uses a bucket by the AWS SDK; keys come from the environment, as the AWS tools have it
#[derive(Parser)]
struct Sdk {
    #[arg(long)]
    endpoint: String,
    #[arg(long)]
    bucket: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put every file below a directory into the bucket
    Upload { dir: PathBuf },
    /// Read an object by ranged requests
    Sequential {
        key: String,
        #[command(flatten)]
        effort: Effort,
        /// Bytes of one request
        #[arg(long, default_value_t = 8 << 20)]
        part: u64,
    },
    /// Read the whole objects below small/, as the uploaded directory names them
    Small {
        dir: PathBuf,
        #[command(flatten)]
        effort: Effort,
    },
    /// List the keys below a prefix, all the way
    List { prefix: String },
}

#[derive(Args)]
struct Effort {
    /// How many requests are under way
    #[arg(long, default_value_t = 4)]
    in_flight: usize,
    /// Stop after this time
    #[arg(long, default_value = "3600")]
    seconds: f64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let sdk = Sdk::parse_from(std::env::args_os().filter(|argument| argument != "--bench"));
    let connection = Connection {
        endpoint: Some(sdk.endpoint),
        region: Some("us-east-1".to_owned()),
        path_style: true,
        ..Connection::new(sdk.bucket)
    };
    let limits = Limits::default();
    let store = S3Store::connect(connection, Credentials::DefaultChain, limits, Arc::default());
    let store = store.await?;
    let line = match sdk.command {
        Command::Upload { dir } => upload(&store, &dir).await,
        Command::Sequential { key, effort, part } => sequential(&store, &key, &effort, part).await,
        Command::Small { dir, effort } => small(&store, &dir, &effort).await,
        Command::List { prefix } => list(&store, &prefix).await,
    }?;
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

async fn upload(store: &S3Store, dir: &Path) -> Outcome {
    let start = Instant::now();
    let keys = keys(dir)?;
    let mut puts = futures_util::stream::iter(&keys)
        .map(|key| async move {
            let bytes = tokio::fs::read(dir.join(key)).await?;
            store.put(key, bytes.into(), PutMode::Overwrite).await?;
            Ok::<_, Box<dyn Error + Send + Sync>>(())
        })
        .buffer_unordered(16);
    while let Some(put) = puts.next().await {
        put?;
    }
    Ok(json!({ "objects": keys.len(), "seconds": start.elapsed().as_secs_f64() }))
}

async fn sequential(store: &S3Store, key: &str, effort: &Effort, part: u64) -> Outcome {
    let start = Instant::now();
    let size = store.head(key).await?.size;
    let mut gets = futures_util::stream::iter((0..size).step_by(usize::try_from(part)?))
        .map(|offset| async move {
            let mut bytes = 0;
            let mut count = |piece: bytes::Bytes| bytes += piece.len();
            store.get_into(key, offset..(offset + part).min(size), None, &mut count).await?;
            Ok::<_, Box<dyn Error + Send + Sync>>(bytes)
        })
        .buffered(effort.in_flight);
    let mut bytes = 0;
    while let Some(read) = gets.next().await {
        bytes += read?;
        if start.elapsed() > Duration::from_secs_f64(effort.seconds) {
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({ "bytes": bytes, "seconds": seconds, "rate": bytes as f64 / 1e6 / seconds }))
}

async fn small(store: &S3Store, dir: &Path, effort: &Effort) -> Outcome {
    let mut keys = keys(dir)?;
    keys.retain(|key| key.starts_with("small/"));
    let start = Instant::now();
    let mut gets = futures_util::stream::iter(&keys)
        .map(|key| store.get(key, 0..1 << 20, None))
        .buffer_unordered(effort.in_flight);
    let mut files = 0_u32;
    while let Some(read) = gets.next().await {
        read?;
        files += 1;
        if start.elapsed() > Duration::from_secs_f64(effort.seconds) {
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({ "files": files, "seconds": seconds, "rate": f64::from(files) / seconds }))
}

async fn list(store: &S3Store, prefix: &str) -> Outcome {
    let start = Instant::now();
    let mut pages = store.list(prefix, Depth::All);
    let mut entries = 0_usize;
    while let Some(page) = pages.next().await {
        entries += page?.objects.len();
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({ "entries": entries, "seconds": seconds, "rate": entries as f64 / seconds }))
}

/// The keys that the files below a directory have in the bucket, the directory's own name cut off.
fn keys(dir: &Path) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let mut keys = Vec::new();
    for entry in WalkDir::new(dir).sort_by_file_name() {
        let entry = entry?;
        if entry.file_type().is_file() {
            keys.push(entry.path().strip_prefix(dir)?.to_string_lossy().into_owned());
        }
    }
    Ok(keys)
}
