//! Content-addressed bytes: frames in packs, and pages of metadata.
//!
//! A **frame** is the bytes of one small file or of one chunk of a larger one, named by its
//! [`Id`]. Frames are stored together in **packs** ([`pack`] describes their format), objects
//! that are never rewritten. Two areas keep data and metadata apart, since metadata is read more
//! often and cut smaller.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::catalog::{Reader, StoredObject, Writer};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::object::buffers::Buffers;
use crate::object::local::read_file;
use crate::object::{Depth, ObjectStore, PutMode};

mod codec;
mod files;
mod flaw;
mod id;
pub mod index;
pub mod pack;
mod read;
pub mod recent;
mod scrub;
pub mod split;
pub mod write;

pub use codec::Codec;
pub use flaw::Flaw;
pub use id::Id;
pub use pack::{Footer, Frame, Place, Stored};

use files::Files;
use index::Index;
use recent::Recent;

/// How much memory is taken where nobody says how much there is, in bytes.
const MEMORY: u64 = 512 << 20;

/// The share of the memory for decompressed frames: a reader comes back for the rest of a frame.
const DECODED_SHARE: u64 = 16;

/// The share for footers: of half a gigabyte, those of about 400 packs of large files.
const FOOTERS_SHARE: u64 = 32;

/// The share for buffers that lie there to be used again.
const SPARE_SHARE: u64 = 64;

/// How many footers are read at the same time, for stores with latency.
const FOOTERS_AT_ONCE: usize = 16;

/// What the packs of an area hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// The bytes of files.
    Data,
    /// Pages and roots.
    Meta,
}

impl Area {
    /// What the keys of its objects begin with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Data => "packs/",
            Self::Meta => "meta/",
        }
    }

    /// The word for it in the catalogue.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Meta => "meta",
        }
    }

    /// The key of an object: two digits of its id keep directories short.
    pub fn key(self, id: &Id) -> String {
        let id = id.to_string();
        format!("{}{}/{id}", self.prefix(), &id[..2])
    }
}

/// Consecutive frames of a pack, which hold a piece of a large file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<P = Id> {
    /// The pack.
    pub pack: P,
    /// The first frame, counted from 0.
    pub first: u32,
    /// How many frames.
    pub count: u32,
    /// Their bytes when decoded.
    pub len: u64,
}

/// Reads frames out of the packs of a store. Clones share their caches.
#[derive(Clone)]
pub struct Packs(Arc<Shared>, Role);

struct Shared {
    store: Arc<dyn ObjectStore>,
    files: Files,
    buffers: Buffers,
    decoded: Recent<Id, Bytes>,
    footers: Recent<Id, Arc<Footer>>,
}

/// As what somebody works on a store.
#[derive(Clone)]
enum Role {
    /// As the only one: there is no catalogue that has to know.
    Owner,
    /// He looks at what a catalogue knows.
    Visitor,
    /// He reads versions, which stay while he does.
    Reader(Reader),
    /// He adds objects, which the catalogue is told of.
    Writer(Writer),
}

impl Packs {
    /// Works on the packs in `store`, with the memory that a command may take.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self::within(MEMORY, store)
    }

    /// Works on the packs in `store`, and keeps what a fair share of `memory` bytes has room for.
    pub fn within(memory: u64, store: Arc<dyn ObjectStore>) -> Self {
        let share = |share| usize::try_from(memory / share).unwrap_or(usize::MAX);
        let shared = Shared {
            store,
            files: Files::new(),
            buffers: Buffers::new(share(SPARE_SHARE)),
            decoded: Recent::new(share(DECODED_SHARE)),
            footers: Recent::new(share(FOOTERS_SHARE)),
        };
        Self(Arc::new(shared), Role::Owner)
    }

    /// The same packs, which belong to a catalogue: only a writer may add to them.
    #[must_use]
    pub fn of_catalogue(&self) -> Self {
        Self(self.0.clone(), Role::Visitor)
    }

    /// The same packs for who adds to them.
    #[must_use]
    pub fn for_writer(&self, writer: Writer) -> Self {
        Self(self.0.clone(), Role::Writer(writer))
    }

    /// The same packs for who reads versions that he holds.
    #[must_use]
    pub fn for_reader(&self, reader: Reader) -> Self {
        Self(self.0.clone(), Role::Reader(reader))
    }

    /// The store behind the packs.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.0.store
    }

    /// Writes an object under the hash of its bytes; it is durable when this returns `true`.
    /// `false` means that there was an object of this name which was collected: nothing may be
    /// stored under it any more.
    ///
    /// # Errors
    /// Those of the store and of the catalogue; `NotPermitted` for who isn't a writer.
    #[must_use = "the object may not be there"]
    pub async fn put(&self, area: Area, id: &Id, bytes: Bytes) -> Result<bool> {
        let key = area.key(id);
        let writer = match &self.1 {
            Role::Owner => None,
            Role::Writer(writer) => Some(writer),
            Role::Visitor | Role::Reader(_) => {
                let message = format!("{key} can't be stored by who only reads");
                return Err(Error::new(ErrorKind::NotPermitted, message));
            }
        };
        if let Some(writer) = writer {
            let (id, area) = (id.to_string(), area.name().to_owned());
            let object = StoredObject { id, area, bytes: bytes.len() as u64 };
            if !writer.announce(&object).await? {
                return Ok(false);
            }
        }
        self.0.store.put(&key, bytes, PutMode::Overwrite).await?;
        if let Some(writer) = writer {
            writer.arrived(&id.to_string());
        }
        Ok(true)
    }

    /// Writes a pack under the hash of its bytes, or with a frame more under another one if that
    /// name can't be used any more; returns the name. It is durable then.
    ///
    /// # Errors
    /// Those of [`put`](Self::put).
    pub async fn put_pack(&self, area: Area, id: Id, pack: Bytes) -> Result<Id> {
        if self.put(area, &id, pack.clone()).await? {
            return Ok(id);
        }
        let (id, pack) = pack::salted(&pack)?;
        if self.put(area, &id, pack).await? {
            return Ok(id);
        }
        Err(Error::new(ErrorKind::Io, format!("no name is left for pack {id}")))
    }

    /// Reads a whole object that isn't a pack and checks it against its id.
    ///
    /// # Errors
    /// `NotFound`; `Damaged` when the bytes aren't what they were.
    pub async fn object(&self, area: Area, id: &Id) -> Result<Bytes> {
        let key = area.key(id);
        let bytes = self.0.store.get(&key, 0..u64::MAX, None).await?;
        if Id::of(&bytes) == *id {
            Ok(bytes)
        } else {
            Err(damaged(&key, "its hash is another one"))
        }
    }

    /// The footer of a data pack.
    ///
    /// # Errors
    /// `Damaged` when the pack is missing or isn't one.
    pub async fn footer(&self, pack: &Id) -> Result<Arc<Footer>> {
        let load = async {
            let footer = self.load_footer(Area::Data, pack).await?;
            let weight = footer.weight();
            Ok((Arc::new(footer), weight))
        };
        self.0.footers.get_or_load(*pack, load).await
    }

    /// All data frames in the store that may be used, for finding out what needn't be stored
    /// again.
    ///
    /// A pack that can't be understood is left out: nothing may come to depend on it.
    pub async fn index(&self) -> Result<Index> {
        let footers = self.usable(Area::Data).await?.into_iter().map(|(id, size)| async move {
            (id, self.load_footer_of(Area::Data, &id, size).await)
        });
        let mut footers = stream::iter(footers).buffered(FOOTERS_AT_ONCE);
        let mut index = Index::default();
        while let Some((id, footer)) = footers.next().await {
            match footer {
                Ok(footer) => index.add_pack(id, &footer),
                Err(error)
                    if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Unsupported) =>
                {
                    tracing::warn!("{error:?}");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(index)
    }

    /// The objects of an area that what is written now may refer to, with their lengths in bytes:
    /// those that the catalogue says are live, or all that are there.
    pub async fn usable(&self, area: Area) -> Result<Vec<(Id, u64)>> {
        if let Role::Writer(writer) = &self.1 {
            let live = writer.live_objects().await?;
            let live = live.into_iter().filter(|object| object.area == area.name());
            return live.map(|object| Ok((object.id.parse()?, object.bytes))).collect();
        }
        self.stored(area).await
    }

    /// The objects of an area that are in the store, with their lengths in bytes.
    pub async fn stored(&self, area: Area) -> Result<Vec<(Id, u64)>> {
        let mut objects = Vec::new();
        let mut pages = self.0.store.list(area.prefix(), Depth::All);
        while let Some(page) = pages.try_next().await? {
            let ids = page.objects.iter().filter_map(|object| {
                let id: Id = object.key.rsplit('/').next()?.parse().ok()?;
                (area.key(&id) == object.key).then_some((id, object.size))
            });
            objects.extend(ids);
        }
        Ok(objects)
    }

    async fn load_footer(&self, area: Area, pack: &Id) -> Result<Footer> {
        match self.0.store.head(&area.key(pack)).await {
            Ok(meta) => self.load_footer_of(area, pack, meta.size).await,
            Err(error) => Err(self.missing(area, pack, error).await),
        }
    }

    async fn load_footer_of(&self, area: Area, pack: &Id, size: u64) -> Result<Footer> {
        let mut tail = self.get(area, pack, size.saturating_sub(Footer::PROBE_LEN)..size).await?;
        if let Ok(len) = Footer::len_in(&tail)
            && len > tail.len() as u64
        {
            tail = self.get(area, pack, size.saturating_sub(len)..size).await?;
        }
        match Footer::parse(&tail, size) {
            Ok(footer) => Ok(footer),
            // A damaged number says the same.
            Err(Flaw::Later(_)) => {
                let whole = Box::pin(self.whole(area, pack)).await;
                whole.map(|(footer, _)| footer)
            }
            Err(flaw) => {
                self.doubt(area, pack);
                Err(flaw.error(&area.key(pack)))
            }
        }
    }

    /// Reads a range of a pack; shorter only where the pack ends.
    async fn get(&self, area: Area, pack: &Id, range: Range<u64>) -> Result<Bytes> {
        let Shared { store, files, buffers, .. } = &*self.0;
        let file = match files.open(&**store, area, pack) {
            Ok(Some(file)) => file,
            Ok(None) => match store.get(&area.key(pack), range, None).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => return Err(self.missing(area, pack, error).await),
            },
            Err(error) => return Err(self.missing(area, pack, error).await),
        };
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let read = read_file(buffers, file, range.start, len).await;
        read.context(|| format!("{} can't be read", area.key(pack)))
    }

    /// Turns the stored bytes of a frame into plain ones and checks them.
    fn decode(
        &self,
        area: Area,
        pack: &Id,
        place: &Place,
        id: &Id,
        stored: Bytes,
    ) -> Result<Bytes> {
        let decoded = decode(&self.0.buffers, &area.key(pack), place, id, stored);
        decoded.inspect_err(|_| self.doubt(area, pack))
    }

    /// Looks at a pack anew whose bytes aren't right: it may be mended.
    fn doubt(&self, area: Area, pack: &Id) {
        self.0.files.close(area, pack);
        self.0.store.doubt(&area.key(pack));
    }

    /// What a version needs and the store doesn't have is damage, not a file that isn't there;
    /// unless it was collected since nobody knew any more that it was read.
    async fn missing(&self, area: Area, id: &Id, error: Error) -> Error {
        if error.kind() != ErrorKind::NotFound {
            return error;
        }
        let lost = match &self.1 {
            // In a box: it happens rarely, and whoever reads waits for what holds this.
            Role::Reader(reader) => Box::pin(reader.has_lost(&id.to_string())).await,
            _ => Ok(false),
        };
        match lost {
            Ok(false) => damaged(&area.key(id), "it isn't there"),
            Ok(true) => {
                let message = format!("{error}: the version was deleted and collected");
                Error::new(ErrorKind::StaleHandle, message).with_hint(
                    "this process wasn't heard of for longer than its lease: mount the project \
                     again",
                )
            }
            Err(unknown) => unknown,
        }
    }
}

fn damaged(key: &str, what: &'static str) -> Error {
    Flaw::Damage(what).error(key)
}

/// Turns the stored bytes of a frame into plain ones and checks them.
fn decode(buffers: &Buffers, key: &str, place: &Place, id: &Id, stored: Bytes) -> Result<Bytes> {
    let plain = place
        .codec
        .decode(buffers, stored, place.plain_len as usize)
        .map_err(|error| damaged(key, "a frame can't be decoded").with_source(error))?;
    if Id::of(&plain) == *id {
        return Ok(plain);
    }
    Err(damaged(key, "a frame has another hash"))
}

/// The bytes of `range`; `None` where they end before it does.
fn slice(bytes: &Bytes, range: &Range<u64>) -> Option<Bytes> {
    let start = usize::try_from(range.start).ok()?;
    let end = usize::try_from(range.end).ok()?;
    (start <= end && end <= bytes.len()).then(|| bytes.slice(start..end))
}

impl fmt::Debug for Packs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Packs").field(&self.0.store).finish()
    }
}
