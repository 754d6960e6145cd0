//! Fills packs and stores them in the background, while the next one fills.

use std::collections::VecDeque;

use bytes::BytesMut;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};

use super::pack::{Builder, MAX_FRAMES};
use super::{Area, Frame, Id, Packs, Stored};
use crate::error::{Error, ErrorKind, Result};

/// How many packs may be on their way to the store: with the one that fills, this bounds memory.
const UPLOADS: usize = 2;

/// The name of a pack that is stored, and its buffer if nobody else has it.
type Uploaded = (Id, Option<BytesMut>);

/// Writes frames into packs, from a thread that may block.
pub struct PackWriter {
    packs: Packs,
    area: Area,
    target_len: usize,
    runtime: Handle,
    open: Builder,
    uploads: VecDeque<JoinHandle<Result<Uploaded>>>,
    /// The buffer of a pack that is stored: the kernel takes its time to give memory to another.
    spare: Option<BytesMut>,
    durable: Vec<Id>,
    stored: u64,
}

impl PackWriter {
    /// Writes packs of about `target_len` bytes to `area`; uploads run on `runtime`.
    pub fn new(packs: Packs, area: Area, target_len: usize, runtime: Handle) -> Self {
        let (uploads, durable) = (VecDeque::new(), Vec::new());
        let open = Builder::default();
        Self { packs, area, target_len, runtime, open, uploads, spare: None, durable, stored: 0 }
    }

    /// Adds a frame; returns the number of its pack, counted from 0, and where it lies in it.
    ///
    /// # Errors
    /// Those of storing an earlier pack.
    pub fn add(&mut self, frame: &Frame) -> Result<(usize, Stored)> {
        let number = self.durable.len() + self.uploads.len();
        let stored = self.open.push(frame);
        self.stored += u64::from(stored.place.stored_len);
        if self.open.len() >= self.target_len || self.open.count() >= MAX_FRAMES {
            self.seal()?;
        }
        Ok((number, stored))
    }

    /// The packs that are durable, by number.
    pub fn durable(&self) -> &[Id] {
        &self.durable
    }

    /// The stored bytes of all frames so far.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Stores what is left, and waits until all is durable.
    ///
    /// # Errors
    /// Those of storing a pack.
    pub fn finish(&mut self) -> Result<&[Id]> {
        if !self.open.is_empty() {
            self.seal()?;
        }
        while !self.uploads.is_empty() {
            self.settle_one()?;
        }
        Ok(&self.durable)
    }

    fn seal(&mut self) -> Result<()> {
        if self.uploads.len() == UPLOADS {
            self.settle_one()?;
        }
        let next = self.spare.take().map(Builder::within).unwrap_or_default();
        let full = std::mem::replace(&mut self.open, next);
        let (packs, area) = (self.packs.clone(), self.area);
        self.uploads.push_back(self.runtime.spawn(async move {
            let (id, bytes) = spawn_blocking(move || full.finish()).await.map_err(stopped)?;
            let id = packs.put_pack(area, id, bytes.clone()).await?;
            Ok((id, bytes.try_into_mut().ok()))
        }));
        Ok(())
    }

    fn settle_one(&mut self) -> Result<()> {
        if let Some(upload) = self.uploads.pop_front() {
            let (id, buffer) = self.runtime.block_on(upload).map_err(stopped)??;
            self.durable.push(id);
            self.spare = buffer.or(self.spare.take());
        }
        Ok(())
    }
}

fn stopped(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Io, "storing a pack was stopped").with_source(error)
}
