//! How a mount reads: how much it may keep, where, and for how long it believes and waits.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::error::{Error, ErrorKind, Result};

/// What a mount may be told about reading from buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Reading from buckets")]
pub struct ServingArgs {
    /// Most memory for blocks that were read or are read ahead, such as 512MiB; less where the
    /// control group has less [default: 512MiB]
    #[arg(long, env = "ATELIER_MEMORY", value_name = "SIZE")]
    pub memory: Option<ByteCount>,

    /// Where blocks are kept from one mount to the next [default: `atelier/blocks` in the XDG
    /// cache directory]
    #[arg(long, env = "ATELIER_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    /// Most room for them, such as 20GiB or a share of what is free; 0 keeps none [default: 10%]
    #[arg(long, env = "ATELIER_CACHE_SIZE", value_name = "SIZE")]
    pub cache_size: Option<CacheSize>,

    /// How long listings and attributes are believed [default: 1s]
    #[arg(long, env = "ATELIER_METADATA_TTL", value_name = "TIME")]
    pub metadata_ttl: Option<Span>,

    /// How long a read may wait before it is an error; longer while bytes come [default: 60s]
    #[arg(long, env = "ATELIER_DEADLINE", value_name = "TIME")]
    pub deadline: Option<Span>,

    /// Serve metrics for Prometheus over HTTP at this address, such as 127.0.0.1:9123
    #[arg(
        long,
        env = "ATELIER_METRICS",
        value_name = "ADDRESS:PORT",
        value_parser = address,
        help_heading = "Observing"
    )]
    pub metrics: Option<SocketAddr>,
}

impl ServingArgs {
    /// Takes a word of `mount -o`, such as `memory=1GiB`; tells whether it is one of these.
    ///
    /// # Errors
    /// `InvalidInput` for a value that can't be meant.
    pub fn take(&mut self, name: &str, value: &str) -> Result<bool> {
        match name {
            "memory" => self.memory = Some(value.parse()?),
            "cache_dir" => self.cache_dir = Some(value.into()),
            "cache_size" => self.cache_size = Some(value.parse()?),
            "metadata_ttl" => self.metadata_ttl = Some(value.parse()?),
            "deadline" => self.deadline = Some(value.parse()?),
            "metrics" => self.metrics = Some(address(value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The options that say the same on a command line.
    pub fn words(&self) -> Vec<std::ffi::OsString> {
        let mut words = Vec::new();
        let mut add = |name: &str, value: Option<std::ffi::OsString>| {
            if let Some(value) = value {
                words.extend([name.into(), value]);
            }
        };
        add("--memory", self.memory.map(|value| value.to_string().into()));
        add("--cache-dir", self.cache_dir.clone().map(Into::into));
        add("--cache-size", self.cache_size.map(|value| value.to_string().into()));
        add("--metadata-ttl", self.metadata_ttl.map(|value| value.to_string().into()));
        add("--deadline", self.deadline.map(|value| value.to_string().into()));
        add("--metrics", self.metrics.map(|value| value.to_string().into()));
        words
    }
}

fn address(text: &str) -> Result<SocketAddr> {
    text.parse().map_err(|_| {
        Error::new(ErrorKind::InvalidInput, format!("`{text}` isn't an address"))
            .with_hint("an address is written like 127.0.0.1:9123 or [::1]:9123; port 0 is any")
    })
}

/// A number of bytes, as `512MiB`, `2G` or plain digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteCount(pub u64);

impl FromStr for ByteCount {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start().to_ascii_lowercase();
        let letter = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
        let shift = match letter {
            "" => Some(0),
            "k" => Some(10),
            "m" => Some(20),
            "g" => Some(30),
            "t" => Some(40),
            _ => None,
        };
        number
            .parse::<u64>()
            .ok()
            .zip(shift)
            .and_then(|(number, shift)| number.checked_mul(1 << shift))
            .map(Self)
            .ok_or_else(|| {
                Error::new(ErrorKind::InvalidInput, format!("`{text}` isn't a size"))
                    .with_hint("a size is written like 512MiB or 20GiB")
            })
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How much room the blocks on disk may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheSize {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of what is free, what is kept already counted as free.
    Percent(u8),
}

impl FromStr for CacheSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some(number) = text.strip_suffix('%') else {
            return text.parse().map(|ByteCount(bytes)| Self::Bytes(bytes));
        };
        match number.trim_end().parse() {
            Ok(percent @ 0..=100) => Ok(Self::Percent(percent)),
            _ => Err(Error::new(ErrorKind::InvalidInput, format!("`{text}` isn't a share"))
                .with_hint("a share is written like 10%")),
        }
    }
}

impl fmt::Display for CacheSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// A time that something lasts, as `60s`, `500ms`, `1m 30s` or `7d`; a plain number is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let days = text.strip_suffix('d').and_then(|days| days.trim_end().parse::<u32>().ok());
        let parsed = match (text.parse::<u32>(), days) {
            (Ok(seconds), _) => Some(Duration::from_secs(seconds.into())),
            (_, Some(days)) => Some(Duration::from_hours(24 * u64::from(days))),
            _ => text
                .parse::<jiff::SignedDuration>()
                .ok()
                .and_then(|signed| Duration::try_from(signed).ok()),
        };
        parsed.map(Self).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("`{text}` isn't a time"))
                .with_hint("a time is written like 500ms, 60s or 5m")
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0.as_micros())
    }
}

/// How a mount reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Most bytes of blocks in memory, those on their way included.
    pub memory: u64,
    /// Where blocks are kept on disk.
    pub cache_dir: PathBuf,
    /// Most room that they take there.
    pub cache_size: CacheSize,
    /// How long listings and attributes are believed.
    pub metadata_ttl: Duration,
    /// How long a read may take.
    pub deadline: Duration,
    /// Where metrics are served over HTTP.
    pub metrics: Option<SocketAddr>,
}

/// The default of `--memory`: what a laptop can spare.
const MEMORY: u64 = 512 << 20;

/// Less than this and reading ahead starves.
const LEAST_MEMORY: u64 = 16 << 20;

/// Shorter than this and an ordinary request may not end in time.
const SHORTEST_DEADLINE: Duration = Duration::from_secs(1);

impl Serving {
    /// Fills in what isn't said; `cache` is the directory for what can be rebuilt.
    ///
    /// # Errors
    /// `InvalidInput` for a value with which nothing could work.
    pub fn resolve(args: &ServingArgs, cache: &std::path::Path) -> Result<Self> {
        let serving = Self {
            memory: args.memory.map_or(MEMORY, |ByteCount(bytes)| bytes),
            cache_dir: args.cache_dir.clone().unwrap_or_else(|| cache.join("blocks")),
            cache_size: args.cache_size.unwrap_or(CacheSize::Percent(10)),
            metadata_ttl: args.metadata_ttl.map_or(Duration::from_secs(1), |Span(span)| span),
            deadline: args.deadline.map_or(Duration::from_mins(1), |Span(span)| span),
            metrics: args.metrics,
        };
        let refused = |message: &str| Err(Error::new(ErrorKind::InvalidInput, message));
        if serving.memory < LEAST_MEMORY {
            return refused("--memory is at least 16MiB");
        }
        if serving.deadline < SHORTEST_DEADLINE {
            return refused("--deadline is at least 1s");
        }
        Ok(Self { cache_dir: super::absolute(&serving.cache_dir)?, ..serving })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written_everywhere() {
        let sizes = [("0", 0), ("512MiB", 512 << 20), ("2G", 2 << 30), ("3 kb", 3 << 10)];
        for (text, bytes) in sizes {
            assert_eq!(text.parse::<ByteCount>().unwrap(), ByteCount(bytes), "{text}");
        }
        for text in ["", "-1", "1.5G", "2x", "MiB", "99999999999T"] {
            assert!(text.parse::<ByteCount>().is_err(), "{text}");
        }
        assert_eq!("10%".parse::<CacheSize>().unwrap(), CacheSize::Percent(10));
        assert!("101%".parse::<CacheSize>().is_err());
    }

    #[test]
    fn times_are_read_as_they_are_written_everywhere() {
        let times =
            [("60", 60_000), ("500ms", 500), ("1m 30s", 90_000), ("0", 0), ("2d", 172_800_000)];
        for (text, millis) in times {
            assert_eq!(
                text.parse::<Span>().unwrap(),
                Span(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in ["", "-1", "-5s", "soon"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn words_say_the_same_again() {
        let mut args = ServingArgs::default();
        let given = [
            ("memory", "1GiB"),
            ("cache_dir", "/c"),
            ("cache_size", "5%"),
            ("metadata_ttl", "1500ms"),
            ("deadline", "5s"),
            ("metrics", "127.0.0.1:9123"),
        ];
        for (name, value) in given {
            assert!(args.take(name, value).unwrap());
        }
        assert!(!args.take("colour", "red").unwrap());
        let mut again = ServingArgs::default();
        for pair in args.words().chunks(2) {
            let [name, value] = [0, 1].map(|at| pair[at].to_str().unwrap());
            assert!(again.take(&name[2..].replace('-', "_"), value).unwrap());
        }
        assert_eq!(again, args);
    }

    #[test]
    fn what_could_not_work_is_refused() {
        let dir = std::path::Path::new("/cache");
        let resolve = |name, value| {
            let mut args = ServingArgs::default();
            args.take(name, value).unwrap();
            Serving::resolve(&args, dir)
        };
        assert!(resolve("memory", "1MiB").is_err());
        assert!(resolve("deadline", "10ms").is_err());
        assert_eq!(resolve("memory", "64M").unwrap().memory, 64 << 20);
        assert_eq!(resolve("memory", "64M").unwrap().cache_dir, dir.join("blocks"));
    }
}
