//! An environment file that is open to be written: kept back until it is whole, then published.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Attr, File, PageCache, SecretsTree, clip};
use crate::catalog::Environment;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::{Draft, EnvironmentFile, policy};
use crate::tree::SetAttr;

/// How many files may be open to be written at a time: each holds up to 1 MiB.
const MOST: usize = 16;

/// Bounds what drafts take of the memory.
pub(super) fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MOST))
}

/// The files that are being written.
#[derive(Debug, Default)]
pub(super) struct Writers(Mutex<Vec<Weak<Writing>>>);

impl Writers {
    /// The open files of this name that nobody has written to yet.
    pub(super) fn just_opened(&self, name: &str) -> Vec<Arc<Writing>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = all.iter().filter_map(Weak::upgrade);
        open.filter(|writing| writing.name == name && !writing.state().written).collect()
    }

    fn add(&self, writing: &Arc<Writing>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|open| open.strong_count() > 0);
        all.push(Arc::downgrade(writing));
    }
}

/// A file that is being written.
///
/// Nobody else sees what is written until the file is whole or closed, and then all of it or
/// nothing: it takes the place of the version that was opened, and of no other.
#[derive(Debug)]
pub(super) struct Writing {
    tree: SecretsTree,
    name: String,
    opened: SystemTime,
    append: bool,
    /// Guards what was written; never held while something is waited for.
    state: Mutex<State>,
    /// Lets one publish at a time; held around `state`.
    publishing: tokio::sync::Mutex<()>,
    _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct State {
    draft: Draft,
    /// The version that the draft takes the place of; `None` when there is none yet.
    generation: Option<i64>,
    /// Whether nothing was there when it was opened, or it was emptied then.
    from_start: bool,
    /// Whether it was emptied on purpose after it was opened.
    emptied: bool,
    /// Whether anything was written to it.
    written: bool,
    /// Counts changes, to tell whether there were any while it was published.
    changes: u64,
    /// Up to which of them everything is published.
    published: u64,
}

impl Writing {
    /// Begins to write over `present`, or a new file.
    pub(super) fn begin(
        tree: &SecretsTree,
        name: &str,
        present: Option<&Environment>,
        truncate: bool,
        append: bool,
    ) -> Result<Arc<Self>> {
        let room = tree.room.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{MOST} environment files are being written already");
            Error::new(ErrorKind::TooManyOpenFiles, message)
        })?;
        let kept = present.filter(|_| !truncate).map(|present| &present.body[..]);
        let state = State {
            draft: Draft::new(name, kept.unwrap_or_default()),
            generation: present.map(|present| present.generation),
            from_start: kept.is_none(),
            emptied: false,
            written: false,
            changes: u64::from(truncate),
            published: 0,
        };
        let writing = Arc::new(Self {
            tree: tree.clone(),
            name: name.to_owned(),
            opened: SystemTime::now(),
            append,
            state: Mutex::new(state),
            publishing: tokio::sync::Mutex::default(),
            _room: room,
        });
        tree.writers.add(&writing);
        Ok(writing)
    }

    /// Drops what was there when it was opened, unless somebody has written since: it is written
    /// from its start on.
    pub(super) fn empty(&self) -> Attr {
        let mut state = self.state();
        if !state.written {
            state.draft = Draft::new(&self.name, b"");
            state.from_start = true;
            state.changes += 1;
        }
        drop(state);
        self.attr()
    }

    /// The attributes of what was written so far.
    pub(super) fn attr(&self) -> Attr {
        let size = self.state().draft.bytes().len() as u64;
        Attr::file(size, self.opened, Duration::ZERO)
    }

    /// Checks whether a whole file, `body`, may take the place of the version that was opened.
    async fn check(
        &self,
        file: &EnvironmentFile,
        body: &[u8],
        generation: Option<i64>,
    ) -> Result<()> {
        let SecretsTree { catalog, project, .. } = &self.tree;
        let present = match catalog.environment(project, &self.name).await {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            other => Some(other?),
        };
        let outdated =
            present.as_ref().is_some_and(|present| self.tree.served.is_outdated(present, body));
        if outdated || present.as_ref().map(|present| present.generation) != generation {
            let message = format!("environment file {} was changed by somebody else", self.name);
            return Err(Error::new(ErrorKind::StaleHandle, message)
                .with_hint("make the change once more, on what is there now"));
        }
        let members = match &present {
            Some(present) => catalog.recipients_of(&present.resource).await?,
            None => catalog.recipients(project).await?,
        };
        let members: Vec<_> = members.into_iter().map(|known| known.recipient).collect();
        // One that is damaged gives no time to compare with, and can only get better.
        let present =
            present.and_then(|present| EnvironmentFile::parse(&self.name, &present.body).ok());
        policy::admit(file, present.as_ref(), &members, Timestamp::now())
    }

    async fn publish(&self) -> Result<()> {
        let _turn = self.publishing.lock().await;
        let (file, body, generation, changes) = {
            let state = self.state();
            // A shell closes copies of its descriptor before anything is written. Nobody means to
            // have an empty file, which isn't one.
            let untouched = state.draft.bytes().is_empty() && !state.emptied;
            if state.changes == state.published || untouched {
                return Ok(());
            }
            (state.draft.finish()?, state.draft.bytes().to_vec(), state.generation, state.changes)
        };
        self.check(&file, &body, generation).await?;
        let SecretsTree { catalog, project, .. } = &self.tree;
        let generation = catalog.put_environment(project, &self.name, generation, body).await?;
        let mut state = self.state();
        state.generation = Some(generation);
        state.published = changes;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl File for Writing {
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let state = self.state();
        Ok(Bytes::copy_from_slice(&state.draft.bytes()[clip(state.draft.bytes(), offset, len)]))
    }

    async fn stat(&self) -> Result<Attr> {
        Ok(self.attr())
    }

    /// Refuses what isn't ciphertext.
    ///
    /// A file that is written from its start on is published by the write that completes it: `sops`,
    /// like most programs, heeds what a write answers, and not what a close does.
    async fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let whole = {
            let mut state = self.state();
            let end = state.draft.bytes().len() as u64;
            state.written = true;
            state.draft.write(if self.append { end } else { offset }, bytes)?;
            state.changes += 1;
            // As `sops` writes it, the last line is whole.
            state.from_start
                && state.published == 0
                && state.draft.bytes().ends_with(b"\n")
                && state.draft.finish().is_ok()
        };
        if whole { self.publish().await } else { Ok(()) }
    }

    async fn set_attr(&self, changes: SetAttr) -> Result<Attr> {
        let SetAttr { size: Some(size), mode: None, uid: None, gid: None, .. } = changes else {
            return Err(super::refused(&self.name, "only be written"));
        };
        let mut state = self.state();
        state.draft.set_len(size)?;
        state.emptied = size == 0;
        state.changes += 1;
        drop(state);
        Ok(self.attr())
    }

    async fn flush(&self) -> Result<()> {
        self.publish().await
    }

    async fn sync(&self, _data_only: bool) -> Result<()> {
        self.publish().await
    }

    fn page_cache(&self) -> PageCache {
        PageCache::Never
    }
}
