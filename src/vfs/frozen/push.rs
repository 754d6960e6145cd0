//! Bytes for the kernel's memory before it asks for them.
//!
//! A request of the kernel costs two switches between threads, which on a busy machine is far more
//! than its bytes do. So who reads many small files is given those that lie beside them, and who
//! reads here and there in a large one the rest of each chunk, which was read and checked anyway.
//! It is work for a thread of its own: it may have to wait for a request that is under way.
//! Nothing depends on it, and it ends where memory is short or the kernel asks nevertheless.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Frozen, Node, by_number};
use crate::error::Result;
use crate::metrics::Metrics;
use crate::snapshot::{Content, Version};

/// How many entries that follow each other are given together: the bits of a word.
const GROUP: u64 = 32;

/// For so much the disk reads ahead at most of what is given, in groups or chunks.
const MOST_WAITING: usize = 16;

/// After so many requests with less than [`PAUSE`] between them more are to be expected.
const MANY: u32 = 32;

/// How long who reads much may rest.
const PAUSE: Duration = Duration::from_secs(1);

/// Who reads as much of a large file at a time, in bytes, has little use for the rest of a chunk.
const LONG: u64 = 64 << 10;

/// So many requests for what was given mean that it isn't kept, or that nobody knew the files.
const IN_VAIN: u32 = 64;

/// A request that comes so long after is none that was under way.
const LATE: Duration = Duration::from_millis(100);

/// How long nothing is given then.
const REST: Duration = Duration::from_mins(1);

/// Of how many groups it is known what was read and given: those of two million entries.
const GROUPS: usize = 1 << 16;

/// The pages of the kernel's memory, in bytes: only whole ones can be given.
const PAGE: u64 = 4096;

/// A request to read that the kernel made.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// When it came.
    pub at: Instant,
    /// The inode number.
    pub ino: u64,
    /// Where it begins.
    pub offset: u64,
    /// How many bytes it wants.
    pub len: u64,
}

/// Decides what is given to the kernel.
pub struct Pushes {
    frozen: Arc<Frozen>,
    metrics: Arc<Metrics>,
    /// What is known of groups of small files.
    groups: HashMap<u64, Group>,
    /// What is to be given, the first to be expected first.
    waiting: VecDeque<Gift>,
    /// How many requests came, and when the last did.
    many: u32,
    last: Instant,
    in_vain: u32,
    rests_until: Option<Instant>,
    /// Whether there is memory for a version, by its slot, and since when that is known.
    fits: HashMap<u64, bool>,
    looked: Instant,
}

/// A group of small files.
#[derive(Default)]
struct Group {
    /// Which of them the kernel has asked for, as bits.
    asked: u32,
    /// Whether the others wait to be given, or were.
    chosen: bool,
    given: Option<Instant>,
}

/// What is to be given.
enum Gift {
    /// The small files of a group, whose version begins at a number.
    Group { group: u64, first: u64, version: Version, files: Vec<(u64, Content)> },
    /// The rest of the chunks in which a read begins and ends.
    Chunks { read: Read, number: u64, version: Version },
}

impl Pushes {
    /// Decides for those who read these versions.
    pub fn new(frozen: Arc<Frozen>, metrics: Arc<Metrics>) -> Self {
        let now = Instant::now();
        Self {
            frozen,
            metrics,
            groups: HashMap::new(),
            waiting: VecDeque::new(),
            many: 0,
            last: now,
            in_vain: 0,
            rests_until: None,
            fits: HashMap::new(),
            looked: now,
        }
    }

    /// Whether there is something to [`give`](Self::give).
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Notes a request, and has the disk read what is likely to be asked for next.
    ///
    /// # Errors
    /// Those of reading what there is; they concern nobody.
    pub async fn note(&mut self, read: Read) -> Result<()> {
        let now = read.at;
        self.many =
            if now.saturating_duration_since(self.last) < PAUSE { self.many + 1 } else { 0 };
        self.last = now;
        if self.many < MANY || self.rests_until.is_some_and(|until| now < until) {
            return Ok(());
        }
        self.rests_until = None;
        let Node::Entry(slot, number) = self.frozen.node(read.ino)? else { return Ok(()) };
        let tree = slot.tree().await?;
        let version = by_number(&tree)?.version();
        if !self.has_room(slot.first, version, now) {
            return Ok(());
        }
        match version.numbered(number).await?.entry.content {
            Content::Frame { .. } if read.offset == 0 => {
                self.choose_group(read, slot.first, version).await?;
            }
            Content::Runs { .. } if read.len < LONG && self.waiting.len() < MOST_WAITING => {
                let version = version.clone();
                self.waiting.push_back(Gift::Chunks { read, number, version });
            }
            _ => {}
        }
        Ok(())
    }

    /// Gives what has waited longest by `store`: an inode number, an offset and the bytes.
    ///
    /// # Errors
    /// Those of reading it; they concern nobody.
    pub async fn give(&mut self, store: &(dyn Fn(u64, u64, &[u8]) + Sync)) -> Result<()> {
        match self.waiting.pop_front() {
            Some(Gift::Group { group, first, version, files }) => {
                let asked = self.groups.get(&group).map_or(0, |group| group.asked);
                for (number, content) in files {
                    let ino = first | number;
                    if asked & bit(ino) == 0 {
                        let bytes = version.read_content(&content, 0..content.len()).await?;
                        self.metrics.bytes_pushed.add(bytes.len() as u64);
                        store(ino, 0, &bytes);
                    }
                }
                self.groups.entry(group).or_default().given = Some(Instant::now());
                Ok(())
            }
            Some(Gift::Chunks { read, number, version }) => {
                self.give_chunks(read, number, &version, store).await
            }
            None => Ok(()),
        }
    }

    /// Chooses the small files beside one.
    async fn choose_group(&mut self, read: Read, first: u64, version: &Version) -> Result<()> {
        if self.groups.len() >= GROUPS {
            self.groups.clear();
        }
        let number = read.ino / GROUP;
        let group = self.groups.entry(number).or_default();
        group.asked |= bit(read.ino);
        if let Some(given) = group.given {
            self.in_vain += u32::from(read.at > given + LATE);
            if self.in_vain >= IN_VAIN {
                self.rests_until = Some(read.at + REST);
                self.in_vain = 0;
                self.groups.clear();
            }
        } else if !group.chosen && self.waiting.len() < MOST_WAITING {
            group.chosen = true;
            let inos = number * GROUP..(number + 1) * GROUP;
            let numbers =
                inos.filter(|other| *other != read.ino && *other > first).map(|ino| ino ^ first);
            let files = version.expect_small_files(numbers).await?;
            let version = version.clone();
            self.waiting.push_back(Gift::Group { group: number, first, version, files });
        }
        Ok(())
    }

    /// Gives the rest of the chunks in which a read begins and ends.
    async fn give_chunks(
        &self,
        read: Read,
        number: u64,
        version: &Version,
        store: &(dyn Fn(u64, u64, &[u8]) + Sync),
    ) -> Result<()> {
        let mut given = 0;
        for at in [read.offset, (read.offset + read.len).saturating_sub(1)] {
            if at < given {
                continue;
            }
            let Some((start, bytes)) = version.chunk_at(number, at).await? else { break };
            let end = start + bytes.len() as u64;
            given = end;
            let (from, to) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
            let place = |at: u64| usize::try_from(at - start).unwrap_or(bytes.len());
            if from < to {
                self.metrics.bytes_pushed.add(to - from);
                store(read.ino, from, &bytes[place(from)..place(to)]);
            }
        }
        Ok(())
    }

    fn has_room(&mut self, slot: u64, version: &Version, now: Instant) -> bool {
        if now.saturating_duration_since(self.looked) >= PAUSE {
            self.fits.clear();
            self.looked = now;
        }
        *self.fits.entry(slot).or_insert_with(|| version.fits_in_memory())
    }
}

/// The bit of an inode number in its group.
fn bit(ino: u64) -> u32 {
    1 << (ino % GROUP)
}
