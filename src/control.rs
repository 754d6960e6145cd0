//! What can be asked of a mount while it serves: by `atelier status` through its socket, by
//! Prometheus over HTTP.
//!
//! None of it goes through the mount itself, so it works also where that hangs.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use crate::config::Serving;
use crate::metrics::{Histogram, Metrics, Value};

pub use self::exporter::Exporter;
pub use self::socket::{Answer, Socket, Sockets, reply};

mod exporter;
mod socket;
mod text;

/// What a mount says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The project, `organization/community/project`.
    pub project: String,
    /// Where it is mounted.
    pub mount_point: String,
    /// The home it is mounted from.
    pub home: String,
    /// The number of the process that serves it.
    pub pid: u32,
    /// When it was mounted.
    pub since: jiff::Timestamp,
    /// How it reads.
    pub options: Options,
}

/// The options that matter, as they are in effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Most bytes of blocks in memory.
    pub memory: u64,
    /// Where blocks are kept on disk.
    pub cache_dir: String,
    /// Most room for them there, in bytes or in percent.
    pub cache_size: String,
    /// How long listings and attributes are believed.
    pub metadata_ttl: jiff::SignedDuration,
    /// How long a read may take.
    pub deadline: jiff::SignedDuration,
    /// Where metrics are served over HTTP.
    pub metrics: Option<std::net::SocketAddr>,
}

impl Options {
    /// The options that `serving` stands for; `metrics` is the address that was really taken.
    pub fn of(serving: &Serving, metrics: Option<std::net::SocketAddr>) -> Self {
        let signed = |span: Duration| jiff::SignedDuration::try_from(span).unwrap_or_default();
        Self {
            memory: serving.memory,
            cache_dir: serving.cache_dir.to_string_lossy().into_owned(),
            cache_size: serving.cache_size.to_string(),
            metadata_ttl: signed(serving.metadata_ttl),
            deadline: signed(serving.deadline),
            metrics,
        }
    }
}

/// A mount's answer to how it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Which mount it is.
    #[serde(flatten)]
    pub about: About,
    /// How long it has served.
    pub uptime_seconds: u64,
    /// What it counted, by the names of [`Metrics::samples`]; durations in seconds.
    pub metrics: Map<String, Json>,
}

impl Report {
    /// Reports on a mount that has served since `start`.
    pub fn new(about: &About, start: Instant, metrics: &Metrics) -> Self {
        let shown = |value| match value {
            Value::Total(number) | Value::Gauge(number) => number.into(),
            Value::Times(times) => quantiles(times),
        };
        let samples = metrics.samples().into_iter();
        Self {
            about: about.clone(),
            uptime_seconds: start.elapsed().as_secs(),
            metrics: samples.map(|sample| (sample.name.to_owned(), shown(sample.value))).collect(),
        }
    }

    /// The value of a counter; 0 for one that the mount doesn't know.
    pub fn count(&self, name: &str) -> u64 {
        self.metrics.get(name).and_then(Json::as_u64).unwrap_or_default()
    }

    /// A quantile of durations, such as `p99`; `None` when none was counted.
    pub fn quantile(&self, name: &str, quantile: &str) -> Option<Duration> {
        let seconds = self.metrics.get(name)?.get(quantile)?.as_f64()?;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

fn quantiles(times: &Histogram) -> Json {
    let at = |share| times.quantile(share).map(|duration| duration.as_secs_f64());
    json!({
        "count": times.count(),
        "sum": times.sum().as_secs_f64(),
        "p50": at(0.5),
        "p90": at(0.9),
        "p99": at(0.99),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a mount in a test says of itself.
    pub(crate) fn about() -> About {
        About {
            project: "o/c/p".into(),
            mount_point: "/mnt/my \"cats\"\\".into(),
            home: "/home".into(),
            pid: 7,
            since: jiff::Timestamp::UNIX_EPOCH,
            options: Options {
                memory: 1,
                cache_dir: "/cache".into(),
                cache_size: "10%".into(),
                metadata_ttl: jiff::SignedDuration::from_secs(1),
                deadline: jiff::SignedDuration::from_secs(60),
                metrics: None,
            },
        }
    }

    #[test]
    fn a_report_holds_every_metric() {
        let metrics = Metrics::default();
        metrics.reads.add(3);
        metrics.read_time.note(Duration::from_millis(10));
        let report = Report::new(&about(), Instant::now(), &metrics);
        let again: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(again, report);
        assert_eq!(again.metrics.len(), metrics.samples().len());
        assert_eq!(again.count("s3_reads_total"), 3);
        let median = again.quantile("s3_read_seconds", "p50").unwrap().as_millis();
        assert!((10..=12).contains(&median), "{median}");
        assert_eq!(again.quantile("s3_first_byte_seconds", "p50"), None);
    }
}
