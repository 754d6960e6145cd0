//! What was found, on its way to where it is stored.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;

use super::read::{Input, Job, Part};
use super::seen::Print;
use crate::error::Error;
use crate::snapshot::format::Entry;

/// Chunks of a large file that may wait to be stored.
const CHUNKS_AHEAD: usize = 16;

/// Where something is in the version; both are empty for its top.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) directory: Bytes,
    pub(super) name: Bytes,
}

impl At {
    /// The bytes of the path.
    pub(super) fn path(&self) -> Vec<u8> {
        match (&self.directory[..], &self.name[..]) {
            (directory, b"") => directory.to_vec(),
            (b"", name) => name.to_vec(),
            (directory, name) => [directory, b"/", name].concat(),
        }
    }
}

/// Something that was found.
pub(super) struct Ticket {
    pub(super) at: At,
    pub(super) coming: Coming,
}

/// What it is.
pub(super) enum Coming {
    /// All of it.
    Entry(Entry<u32>),
    /// A file that the previous version has.
    Unchanged(Entry<u32>, Print),
    /// The same as what was found there before.
    Link(At),
    /// A file that somebody reads.
    File(Receiver<Part>),
    /// What is left out, and why.
    Skipped(String),
}

/// Why a source ended early.
pub(super) enum Stopped {
    /// Nobody wants more of it.
    Unwanted,
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Takes in what a source has.
pub(super) struct Feed {
    jobs: SyncSender<Job>,
    tickets: SyncSender<Ticket>,
}

impl Feed {
    pub(super) fn new(jobs: SyncSender<Job>, tickets: SyncSender<Ticket>) -> Self {
        Self { jobs, tickets }
    }

    pub(super) fn send(&self, at: At, coming: Coming) -> Result<(), Stopped> {
        self.tickets.send(Ticket { at, coming }).map_err(|_| Stopped::Unwanted)
    }

    /// Has a file read by one of the threads that do.
    pub(super) fn file(&self, at: At, input: Input) -> Result<(), Stopped> {
        let job = Job { at: at.clone(), input, parts: self.begin(at)? };
        self.jobs.send(job).map_err(|_| Stopped::Unwanted)
    }

    /// Begins a file whose parts the caller sends.
    pub(super) fn begin(&self, at: At) -> Result<SyncSender<Part>, Stopped> {
        let (parts, coming) = sync_channel(CHUNKS_AHEAD);
        self.send(at, Coming::File(coming))?;
        Ok(parts)
    }

    pub(super) fn skip(&self, at: At, reason: impl Into<String>) -> Result<(), Stopped> {
        self.send(at, Coming::Skipped(reason.into()))
    }
}
