//! Which mounts there are, and whether they serve.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::table::Row;
use super::shown;
use crate::control::{Answer, Report, Sockets};
use crate::fuse::mounts;

/// How a mount is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// It answers.
    Serving,
    /// It was taken away and answers those who still use it.
    Leaving,
    /// Its process is there and doesn't answer.
    Frozen,
    /// Its process is gone and whoever uses it gets errors.
    Dead,
}

impl State {
    /// Whether those who use the mount are served.
    pub(super) fn serves(self) -> bool {
        matches!(self, Self::Serving | Self::Leaving)
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Leaving => "leaving",
            Self::Frozen => "frozen",
            Self::Dead => "dead",
        }
    }
}

/// A mount, as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct Mounted {
    /// The project.
    pub(super) project: String,
    /// Where it is mounted.
    pub(super) mount_point: PathBuf,
    /// How it is.
    pub(super) state: State,
    /// The process that serves it, or did.
    pub(super) pid: u32,
    /// What it says of itself, if it answers.
    pub(super) report: Option<Report>,
    /// What share of the blocks that were asked for was in memory or on disk.
    pub(super) hit_rate: Option<f64>,
}

impl Mounted {
    fn new(answer: Answer, seen: Option<&mounts::Mounted>) -> Option<Self> {
        let (pid, report) = (answer.pid, answer.report);
        let state = match (&report, answer.is_alive, seen) {
            (Some(_), _, Some(_)) => State::Serving,
            (Some(_), _, None) => State::Leaving,
            (None, true, Some(_)) => State::Frozen,
            (None, false, Some(_)) => State::Dead,
            // Left over from a mount that is gone.
            (None, _, None) => return None,
        };
        let (project, mount_point) = match (seen, &report) {
            (Some(seen), _) => (seen.source.clone(), seen.mount_point.clone()),
            (None, Some(report)) => {
                (report.about.project.clone(), report.about.mount_point.clone().into())
            }
            (None, None) => return None,
        };
        let hit_rate = report.as_ref().and_then(shown::hit_rate);
        Some(Self { project, mount_point, state, pid, report, hit_rate })
    }

    /// Whether this is, or was, the mount at a directory.
    pub(super) fn is_at(&self, place: &Path) -> bool {
        self.mount_point == place
    }
}

impl Row for Mounted {
    const HEADER: &'static [&'static str] =
        &["PROJECT", "DIR", "STATE", "PID", "UP", "READ", "FETCHED", "HITS"];

    fn cells(&self) -> Vec<String> {
        let told = |tell: &dyn Fn(&Report) -> String| {
            self.report.as_ref().map_or_else(|| "-".to_owned(), tell)
        };
        vec![
            self.project.clone(),
            self.mount_point.display().to_string(),
            self.state.word().to_owned(),
            self.pid.to_string(),
            told(&|report| shown::span(report.uptime_seconds)),
            told(&|report| shown::bytes(report.count("s3_read_bytes_total"))),
            told(&|report| shown::bytes(report.count("s3_fetched_bytes_total"))),
            self.hit_rate.map_or_else(|| "-".to_owned(), shown::percent),
        ]
    }
}

/// Asks all mounts how they are, and takes away what is left of those that are gone.
pub(super) async fn all(sockets: &Sockets, table: &[mounts::Mounted]) -> Vec<Mounted> {
    let answers = sockets.ask().await;
    let served: Vec<_> = answers
        .iter()
        .filter(|answer| answer.is_alive)
        .map(|answer| answer.device.clone())
        .collect();
    let mut found = Vec::new();
    for answer in answers {
        // A device number is used again: a dead process' mount isn't the one that another serves.
        let again = !answer.is_alive && served.contains(&answer.device);
        let seen = table.iter().find(|one| one.is_ours() && one.device == answer.device && !again);
        if seen.is_none() && answer.report.is_none() && !answer.is_alive {
            sockets.remove(&answer);
        }
        found.extend(Mounted::new(answer, seen));
    }
    found.sort_by(|one, other| one.mount_point.cmp(&other.mount_point));
    found
}
