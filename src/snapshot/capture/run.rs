//! Runs a capture: what differs from the previous version if that is known, else everything.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::SystemTime;

use tokio::runtime::Handle;

use super::amend::{self, Amended, Amendment};
use super::assembly::{Assembly, Entries};
use super::feed::{Feed, Stopped};
use super::gone::Gone;
use super::seen::{Memory, Previous};
use super::store::{Frames, Pages};
use super::unordered::Unordered;
use super::walk::{Found, What};
use super::{Capture, Captured, Source, Total, UnorderedSource, objects, read, walk};
use crate::chunk::index::Index;
use crate::chunk::{Area, Packs};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::snapshot::format::{Content, INLINE, Mtime};
use crate::snapshot::read::Version;

/// Files that are read ahead of the one that is stored; each holds up to 512 KiB, or a few chunks.
const WINDOW: usize = 64;

/// Threads that read files.
const READERS: usize = 4;

/// Where what comes is found.
enum Input {
    /// Everything of these.
    Sources(Vec<(TreePath, Source)>),
    /// This, which is sorted.
    Found(Vec<Found>),
}

/// Makes the version, on a thread that may wait.
pub(super) fn run(mut capture: Capture, packs: &Packs) -> Result<Captured> {
    let runtime = Handle::current();
    match amended(&capture, packs, &runtime) {
        Ok(Some(captured)) => return Ok(captured),
        Ok(None) => {}
        Err(error) if error.kind() == ErrorKind::Damaged => {
            tracing::warn!("the previous version isn't built upon: {error:?}");
        }
        Err(error) => return Err(error),
    }
    let mut too_much = None;
    if let Some((at, describe)) = capture.described.take() {
        let count = |total: Total, (_, source): &(TreePath, Source)| match source {
            Source::Directory(from) => total.and(amend::count(from)),
            Source::Beside(_) | Source::Bytes(_) => total,
        };
        let total = capture.sources.iter().fold(Total::default(), count);
        capture.sources.push((at, Source::Bytes(describe(total)?)));
        if capture.at_most.is_some_and(|most| total.bytes > most) {
            too_much = Some(total);
            capture.sources.retain(|(_, source)| !matches!(source, Source::Directory(_)));
        }
    }
    let index = runtime.block_on(packs.index())?;
    let input = Input::Sources(std::mem::take(&mut capture.sources));
    let captured = assemble(capture, input, None, packs, index)?;
    Ok(Captured { too_much, ..captured })
}

/// Makes the version of the previous one, if what differs is known.
fn amended(capture: &Capture, packs: &Packs, runtime: &Handle) -> Result<Option<Captured>> {
    let (Some(previous), Some((at, changes)), None) =
        (&capture.previous, &capture.changes, &capture.unordered)
    else {
        return Ok(None);
    };
    let is_it = |(place, source): &&(TreePath, Source)| {
        place == at && matches!(source, Source::Directory(_))
    };
    let Some((_, Source::Directory(from))) = capture.sources.iter().find(is_it) else {
        return Ok(None);
    };
    match runtime.block_on(previous.entry(at)) {
        Ok(entry) if entry.content == Content::Directory => {}
        Err(error) if error.kind() == ErrorKind::Damaged => return Err(error),
        _ => return Ok(None),
    }
    let mut others = capture.sources.clone();
    others.retain(|source| !is_it(&source));
    let amended = Amended { previous, at, from, changes };
    let Amendment { mut found, gone, total } = amended.scan(others, runtime)?;
    if capture.at_most.is_some_and(|most| total.bytes > most) {
        return Ok(None);
    }
    if let Some((at, describe)) = &capture.described {
        let bytes = describe(total)?;
        let parent = at.parent().unwrap_or_default();
        let name = at.name().unwrap_or_default().to_vec().into();
        let described = Found::new(parent.as_bytes().to_vec().into(), name, What::Bytes(bytes));
        let place = found.partition_point(|found| found.at < described.at);
        found.insert(place, described);
    }
    // Frames are found in the index by their hashes; what is known already, or is kept in its
    // entry, needs none.
    let usable = runtime.block_on(packs.usable(Area::Data))?;
    let mut index = Index::default();
    usable.into_iter().for_each(|(pack, _)| index.add_unread(pack));
    let index = Arc::new(RwLock::new(index));
    let known =
        Previous::new(previous.clone(), capture.memory.clone(), index.clone(), runtime.clone());
    let needs_frames = found.iter().any(|Found { at, what }| match what {
        What::File(_, metadata) => metadata.len() > INLINE as u64 && !known.has(at, metadata),
        What::Bytes(bytes) => bytes.len() > INLINE && known.content_of(at, bytes).is_none(),
        _ => false,
    });
    let index = if needs_frames {
        runtime.block_on(packs.index())?
    } else {
        drop(known);
        let index = Arc::into_inner(index).and_then(|index| index.into_inner().ok());
        index.unwrap_or_default()
    };
    let capture = Capture {
        sources: Vec::new(),
        unordered: None,
        changes: None,
        described: None,
        at_most: None,
        previous: Some(previous.clone()),
        memory: capture.memory.clone(),
        recalls: capture.recalls,
        surveys: false,
        progress: capture.progress.clone(),
    };
    assemble(capture, Input::Found(found), Some(gone), packs, index).map(Some)
}

/// Makes a version of what comes, and with `gone` of all of the previous one that isn't gone.
fn assemble(
    capture: Capture,
    input: Input,
    gone: Option<Gone>,
    packs: &Packs,
    index: Index,
) -> Result<Captured> {
    let Capture { unordered, previous, memory, recalls, surveys, progress, .. } = capture;
    let top = top_of(&input);
    let runtime = Handle::current();
    let index = Arc::new(RwLock::new(index));
    let before = previous.as_ref().map(Version::id);
    let known = previous
        .clone()
        .map(|previous| Previous::new(previous, memory.clone(), index.clone(), runtime.clone()));
    let is_amended = gone.is_some();
    let memo = memory.as_ref().map(Memory::packs).unwrap_or_default();
    let mut assembly = Assembly {
        frames: Frames::new(packs, index.clone(), progress.clone()),
        pages: Pages::new(packs, previous.as_ref(), gone, memo)?,
        entries: match unordered {
            None => Entries::Sorted(VecDeque::new()),
            Some(UnorderedSource::Archive(_)) => Entries::Unordered(Unordered::new(false)),
            Some(UnorderedSource::Objects(_)) => Entries::Unordered(Unordered::new(true)),
        },
        skipped: Vec::new(),
        unsettled: Vec::new(),
        left_out: 0,
        prints: Vec::new(),
        previous,
        progress: &progress,
    };
    let surveyed = surveys.then(|| survey(&input, unordered.as_ref(), &runtime));
    let readers = match &unordered {
        Some(UnorderedSource::Objects(_)) => objects::READERS,
        _ => thread::available_parallelism().map_or(1, usize::from).min(READERS),
    };
    let ended = AtomicBool::new(false);
    let (index, progress, ended) = (&*index, &progress, &ended);
    let (known, runtime) = (known.as_ref(), &runtime);
    let taken = thread::scope(|scope| {
        let (jobs, queue) = sync_channel(WINDOW);
        let (tickets, coming) = sync_channel(WINDOW);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..readers {
            let queue = queue.clone();
            scope.spawn(move || read::work(&queue, index, progress));
        }
        drop(queue);
        if let Some(survey) = surveyed {
            scope.spawn(move || {
                let wanted = || !ended.load(Ordering::Relaxed) && !progress.is_cancelled();
                if let Some(total) = survey(&wanted) {
                    // Nobody else tells it.
                    let _ = progress.total.set(total);
                }
            });
        }
        let feeding = scope.spawn(move || {
            let feed = Feed::new(jobs, tickets);
            match input {
                Input::Sources(sources) => walk::take(sources, known, progress, &feed)?,
                Input::Found(found) => walk::take_found(found, known, progress, &feed)?,
            }
            match unordered {
                None => Ok(()),
                Some(UnorderedSource::Archive(archive)) => archive.take(&feed, index, progress),
                Some(UnorderedSource::Objects(store)) => {
                    objects::take(&store, known, progress, &feed, runtime)
                }
            }
        });
        let taken = assembly.take_all(&coming);
        // Whoever feeds still is told that nothing more is wanted.
        drop(coming);
        let fed = feeding.join();
        ended.store(true, Ordering::Relaxed);
        match fed {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(_) if progress.is_cancelled() => {
                Err(Error::new(ErrorKind::Interrupted, "taking in was interrupted"))
            }
            Ok(Err(Stopped::Failed(error))) => Err(error),
            Ok(_) => taken,
        }
    });
    if let Err(error) = taken {
        if error.kind() == ErrorKind::Interrupted {
            assembly.keep()?;
        }
        return Err(error);
    }
    let (captured, prints) = assembly.finish(top)?;
    match (memory.filter(|_| !recalls), before) {
        (Some(memory), Some(before)) if is_amended => memory.add(captured.root, before, &prints),
        (Some(memory), before) => memory.keep(captured.root, before, &prints),
        (None, _) => {}
    }
    Ok(captured)
}

/// Finds out how much there is to do; `None` when nobody wants to know any more.
type Survey = Box<dyn FnOnce(&dyn Fn() -> bool) -> Option<Total> + Send>;

fn survey(input: &Input, unordered: Option<&UnorderedSource>, runtime: &Handle) -> Survey {
    match unordered {
        Some(UnorderedSource::Archive(archive)) => {
            let bytes = archive.len();
            Box::new(move |_| bytes.map(|bytes| Total { entries: 0, bytes }))
        }
        Some(UnorderedSource::Objects(store)) => {
            let (store, runtime) = (store.clone(), runtime.clone());
            Box::new(move |wanted| objects::survey(&store, &runtime, wanted))
        }
        None => {
            let directories: Vec<_> = sources(input)
                .iter()
                .filter_map(|(_, source)| match source {
                    Source::Directory(directory) | Source::Beside(directory) => {
                        Some(directory.clone())
                    }
                    Source::Bytes(_) => None,
                })
                .collect();
            Box::new(move |wanted| {
                directories.iter().try_fold(Total::default(), |total, directory| {
                    Some(total.and(walk::survey(directory, wanted)?))
                })
            })
        }
    }
}

fn sources(input: &Input) -> &[(TreePath, Source)] {
    match input {
        Input::Sources(sources) => sources,
        Input::Found(_) => &[],
    }
}

/// Mode and mtime of the top of a version: those of the directory that was taken in there.
fn top_of(input: &Input) -> (u32, Mtime) {
    let local = sources(input).iter().find_map(|(at, source)| match source {
        Source::Directory(from) if at.is_root() => std::fs::metadata(from).ok(),
        _ => None,
    });
    local.map_or((0o755, SystemTime::now().into()), |metadata| {
        (metadata.mode() & 0o7777, walk::mtime_of(&metadata))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use futures_util::TryStreamExt as _;
    use proptest::prelude::*;

    use super::*;
    use crate::object::memory::MemoryStore;
    use crate::snapshot::capture::{Changes, Depth};
    use crate::snapshot::read::Named;

    /// A change of a directory, by the numbers of paths.
    #[derive(Clone, Debug)]
    enum Operation {
        Write(usize, u16),
        Remove(usize),
        MakeDirectory(usize),
        Rename(usize, usize),
        Link(usize),
    }

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        let path = 0..PATHS.len();
        let operation = prop_oneof![
            4 => (path.clone(), any::<u16>()).prop_map(|(path, seed)| Operation::Write(path, seed)),
            2 => path.clone().prop_map(Operation::Remove),
            2 => path.clone().prop_map(Operation::MakeDirectory),
            2 => (path.clone(), path.clone()).prop_map(|(from, to)| Operation::Rename(from, to)),
            1 => path.prop_map(Operation::Link),
        ];
        prop::collection::vec(operation, 1..12)
    }

    const PATHS: &[&str] = &[
        "a",
        "a/b",
        "a/b/c",
        "a/b/c/d",
        "a-b",
        "a-b/x",
        "a0",
        "a0/y",
        "b",
        "b/deep",
        "b/deep/z",
        "many",
        "many/0042",
        "many/0600",
        "many/new",
        "z",
    ];

    /// Does it if it can be done, and says what may have changed.
    fn apply(dir: &Path, operation: &Operation, changes: &mut Changes) {
        let at = |number: &usize| dir.join(PATHS[*number]);
        let mut mark = |number: &usize, depth| {
            changes.add(TreePath::parse(PATHS[*number]).unwrap(), depth);
        };
        // What can't be done is no change.
        let _ = match operation {
            Operation::Write(path, seed) => {
                mark(path, Depth::Entry);
                fs::write(at(path), vec![b'x'; usize::from(*seed) % 3000])
            }
            Operation::Remove(path) => {
                mark(path, Depth::Entry);
                match fs::symlink_metadata(at(path)) {
                    Ok(found) if found.is_dir() => {
                        // As a mount sees it: each name by itself.
                        for entry in walkdir::WalkDir::new(at(path)) {
                            let entry = entry.unwrap();
                            let below = entry.path().strip_prefix(dir).unwrap();
                            let below = below.as_os_str().as_encoded_bytes();
                            changes.add(TreePath::parse(below).unwrap(), Depth::Entry);
                        }
                        fs::remove_dir_all(at(path))
                    }
                    Ok(_) => fs::remove_file(at(path)),
                    Err(error) => Err(error),
                }
            }
            Operation::MakeDirectory(path) => {
                mark(path, Depth::Below);
                fs::create_dir(at(path))
            }
            Operation::Rename(from, to) => {
                mark(from, Depth::Below);
                mark(to, Depth::Below);
                fs::rename(at(from), at(to))
            }
            Operation::Link(path) => {
                mark(path, Depth::Entry);
                std::os::unix::fs::symlink("/etc", at(path))
            }
        };
    }

    async fn capture(
        packs: &Packs,
        dir: &Path,
        previous: Option<&Version>,
        changes: Option<Changes>,
    ) -> (Version, Captured) {
        let at = TreePath::parse("files").unwrap();
        let mut capture = Capture::new()
            .directory(at.clone(), dir)
            .bytes(TreePath::parse("notebook.ipynb").unwrap(), "{}".repeat(400))
            .described(TreePath::parse("checkpoint.json").unwrap(), |total| {
                Ok(format!("{} {}", total.entries, total.bytes).into())
            });
        if let Some(previous) = previous {
            capture = capture.since(previous.clone());
        }
        if let Some(changes) = changes {
            capture = capture.changed(at, changes);
        }
        let captured = capture.run(packs).await.unwrap();
        (Version::open(packs.clone(), captured.root).await.unwrap(), captured)
    }

    async fn entries(version: &Version) -> Vec<Named> {
        let mut entries: Vec<_> = version.entries().try_collect().await.unwrap();
        for named in &mut entries {
            if named.directory.is_empty() && named.name != b"files"[..] {
                // When it was made.
                named.entry.mtime = Mtime::default();
            }
        }
        entries
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

        #[test]
        fn what_is_made_of_changes_is_what_a_look_at_everything_makes(
            rounds in prop::collection::vec(operations(), 1..5),
        ) {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let dir = tempfile::tempdir().unwrap();
                fs::create_dir(dir.path().join("many")).unwrap();
                for number in 0..900 {
                    let content = format!("{number:0300}");
                    fs::write(dir.path().join(format!("many/{number:04}")), content).unwrap();
                }
                let packs = Packs::new(Arc::new(MemoryStore::new()));
                let (mut previous, _) = capture(&packs, dir.path(), None, None).await;
                for round in rounds {
                    let mut changes = Changes::default();
                    round.iter().for_each(|operation| apply(dir.path(), operation, &mut changes));
                    let (made, captured) =
                        capture(&packs, dir.path(), Some(&previous), Some(changes)).await;
                    let (expected, whole) =
                        capture(&packs, dir.path(), Some(&previous), None).await;
                    assert_eq!(entries(&made).await, entries(&expected).await);
                    assert_eq!(made.totals(), expected.totals());
                    assert!(made.verify().await.unwrap().is_whole());
                    // The same pages but for the first, which tells when it was made.
                    let pages = |version: &Version| -> Vec<_> {
                        version.pages().iter().skip(1).map(|page| page.id).collect()
                    };
                    assert_eq!(pages(&made), pages(&expected));
                    let data = |captured: &Captured, version: &Version| {
                        let mut needs = captured.needs.clone();
                        version.pages().iter().for_each(|page| { needs.remove(&page.pack); });
                        needs.remove(&captured.root);
                        needs
                    };
                    assert_eq!(data(&captured, &made), data(&whole, &expected));
                    previous = made;
                }
            });
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_changes_nothing_but_the_first_page_is_new() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..2000 {
            fs::write(dir.path().join(format!("{number:04}")), vec![b'x'; 600 + number]).unwrap();
        }
        let packs = Packs::new(Arc::new(MemoryStore::new()));
        let (first, _) = capture(&packs, dir.path(), None, None).await;
        // Whoever looked would see it.
        fs::remove_file(dir.path().join("1000")).unwrap();
        let none = Some(Changes::default());
        let (second, captured) = capture(&packs, dir.path(), Some(&first), none).await;
        assert_eq!(second.totals(), first.totals());
        assert!(second.pages()[1..] == first.pages()[1..] && first.pages().len() > 1);
        assert_eq!(captured.reused, 0, "no file was looked at");
    }
}
