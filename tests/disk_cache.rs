//! Blocks on disk: whatever happens to the files, what is read is right or isn't there.

use std::fs;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use atelier::cache::disk::{CacheDir, DiskCache, GRANULE};
use atelier::cache::{BlockCache, LONGEST_RUN, ObjectVersion, Source};
use atelier::config::CacheSize;
use atelier::error::ErrorKind;
use atelier::metrics::Metrics;
use atelier::object::memory::MemoryStore;
use atelier::object::{ETag, ObjectStore as _, PutMode};
use bytes::Bytes;
use proptest::prelude::*;

use crate::support::place::until;

mod mounted;

const MIB: u64 = 1 << 20;

fn cache(dir: &Path) -> DiskCache {
    cache_of(dir, 1 << 30)
}

fn cache_of(dir: &Path, size: u64) -> DiskCache {
    DiskCache::open(dir, CacheSize::Bytes(size), Arc::default()).unwrap()
}

fn counted(dir: &Path) -> (DiskCache, Arc<Metrics>) {
    let metrics = Arc::<Metrics>::default();
    (DiskCache::open(dir, CacheSize::Bytes(1 << 30), metrics.clone()).unwrap(), metrics)
}

fn version(name: &str, etag: u64, size: u64) -> Arc<ObjectVersion> {
    let etag = ETag(format!("\"{etag}\""));
    Arc::new(ObjectVersion { object: format!("http://host/bucket/{name}").into(), etag, size })
}

/// The bytes that a version has, which are no other's.
fn bytes(version: &ObjectVersion, range: Range<u64>) -> Bytes {
    let seed = version
        .object
        .bytes()
        .chain(version.etag.0.bytes())
        .fold(version.size, |all, byte| all.wrapping_mul(31).wrapping_add(u64::from(byte)) | 1);
    let word =
        |n: u64| (n + 1).wrapping_mul(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let words = range.start / 8..range.end.div_ceil(8);
    let skip = (range.start % 8) as usize;
    let all: Vec<u8> = words.flat_map(|n| word(n).to_le_bytes()).collect();
    Bytes::from(all).slice(skip..skip + (range.end - range.start) as usize)
}

fn offer(cache: &DiskCache, version: &Arc<ObjectVersion>, range: Range<u64>) {
    cache.offer(version, range.start, bytes(version, range));
}

/// Offers all of a version, as blocks of 128 KiB, and waits until it is written.
fn keep(cache: &DiskCache, version: &Arc<ObjectVersion>) {
    for start in (0..version.size).step_by(128 << 10) {
        offer(cache, version, start..(start + (128 << 10)).min(version.size));
        if start.is_multiple_of(16 * MIB) {
            cache.drain();
        }
    }
    cache.drain();
}

/// How many bytes of `range` are there; all of them are right.
fn found(cache: &DiskCache, version: &Arc<ObjectVersion>, range: Range<u64>) -> u64 {
    let mut next = range.start;
    let mut count = 0;
    for (offset, run) in cache.read(version, range.clone()) {
        assert!(offset >= next && offset + run.len() as u64 <= range.end, "{offset} in {range:?}");
        next = offset + run.len() as u64;
        count += run.len() as u64;
        assert!(run == bytes(version, offset..next), "wrong bytes at {offset}");
    }
    count
}

fn is_whole(cache: &DiskCache, version: &Arc<ObjectVersion>) -> bool {
    found(cache, version, 0..version.size) == version.size
}

/// The files of objects.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = walkdir::WalkDir::new(dir)
        .min_depth(3)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .collect();
    files.sort();
    files
}

fn room(dir: &Path) -> u64 {
    files(dir).iter().map(|file| fs::metadata(file).map_or(0, |data| data.blocks() * 512)).sum()
}

#[test]
fn what_was_kept_is_there_for_the_next_mount() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = [1, 7, GRANULE, GRANULE + 1, 40_000, 256 << 10, (256 << 10) + 1, 5 * MIB + 3];
    let versions: Vec<_> = sizes.iter().map(|size| version("object", 1, *size)).collect();
    let first = cache(dir.path());
    for version in &versions {
        assert!(!is_whole(&first, version));
        assert_eq!(first.missing(version, 0..u64::MAX), vec![0..version.size]);
        keep(&first, version);
        assert!(is_whole(&first, version));
    }
    drop(first);
    let second = cache(dir.path());
    for version in &versions {
        assert!(is_whole(&second, version), "{} bytes", version.size);
        assert_eq!(second.missing(version, 0..version.size), vec![]);
    }
    assert!(!is_whole(&second, &version("object", 2, 7)), "another version");
    assert!(!is_whole(&second, &version("other", 1, 7)), "another object");
}

#[test]
fn only_the_owner_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("made/by/us");
    let cache = cache(&place);
    keep(&cache, &version("object", 1, MIB));
    for entry in walkdir::WalkDir::new(place.join("v1")).into_iter().map(Result::unwrap) {
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", entry.path().display());
    }
    drop(cache);
    fs::set_permissions(place.join("v1"), fs::Permissions::from_mode(0o755)).unwrap();
    drop(self::cache(&place));
    assert_eq!(fs::metadata(place.join("v1")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn what_may_be_another_users_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let open = || DiskCache::open(dir.path(), CacheSize::Percent(10), Arc::default());
    std::os::unix::fs::symlink("/", dir.path().join("v1")).unwrap();
    assert_eq!(open().unwrap_err().kind(), ErrorKind::NotADirectory);
    fs::remove_file(dir.path().join("v1")).unwrap();
    fs::write(dir.path().join("v1"), "").unwrap();
    assert!(open().is_err());
    fs::remove_file(dir.path().join("v1")).unwrap();
    if rustix::process::geteuid().is_root() {
        fs::create_dir(dir.path().join("v1")).unwrap();
        std::os::unix::fs::chown(dir.path().join("v1"), Some(4321), None).unwrap();
        assert_eq!(open().unwrap_err().kind(), ErrorKind::PermissionDenied);
    } else {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o500)).unwrap();
        assert_eq!(open().unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
}

#[test]
fn what_others_hold_is_written_if_they_hold_it_still() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let large = version("large", 1, 3 * MIB);
    let held = bytes(&large, 0..MIB);
    cache.offer_later(&large, 0, move || Some(held));
    cache.offer_later(&large, MIB, || None);
    cache.drain();
    assert_eq!(found(&cache, &large, 0..large.size), MIB);
}

#[tokio::test]
async fn what_comes_faster_than_the_disk_writes_is_kept_as_far_as_it_is_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let large = version("large", 1, 192 * MIB);
    let store = Arc::new(MemoryStore::new());
    store.put("large", bytes(&large, 0..large.size), PutMode::Overwrite).await.unwrap();
    let version =
        ObjectVersion { etag: store.head("large").await.unwrap().etag, ..(*large).clone() };
    let version = Arc::new(version);
    let source = Source { store, key: "large".into(), version: version.clone() };
    let blocks = BlockCache::over(Some(cache(dir.path())), 512 * MIB, Arc::default());
    let all = blocks.request(&Arc::new(source), 0..large.size, &[], LONGEST_RUN);
    all.settled().await;
    blocks.settle();
    assert!(blocks.is_below(&version, 0..large.size));
}

#[test]
fn parts_are_found_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let large = version("large", 1, 10 * MIB + 5);
    offer(&cache, &large, 2 * MIB..3 * MIB);
    offer(&cache, &large, 10 * MIB..10 * MIB + 5);
    // A granule that isn't whole is left out.
    offer(&cache, &large, 5 * MIB..5 * MIB + GRANULE + 100);
    offer(&cache, &large, 7 * MIB + 1..8 * MIB);
    cache.drain();
    assert_eq!(found(&cache, &large, 0..large.size), MIB + GRANULE + 5);
    assert_eq!(found(&cache, &large, 3 * MIB - 10..4 * MIB), 10);
    assert_eq!(found(&cache, &large, 2 * MIB + 1..2 * MIB + 3), 2);
    let missing = cache.missing(&large, 0..4 * MIB);
    assert_eq!(missing, vec![0..2 * MIB, 3 * MIB..4 * MIB]);
    assert!(cache.complete(&large).is_none());
}

#[test]
fn a_whole_object_is_a_file_of_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let large = version("large", 1, 3 * MIB + 1);
    let first = cache(dir.path());
    keep(&first, &large);
    let file = first.complete(&large).unwrap();
    assert_eq!(file.metadata().unwrap().len(), large.size);
    let mut all = vec![0; large.size as usize];
    file.read_exact_at(&mut all, 0).unwrap();
    assert!(all == bytes(&large, 0..large.size));

    // Another process need not read it to know that it is right.
    drop(first);
    let second = cache(dir.path());
    assert!(second.complete(&large).is_some());
    assert!(second.complete(&version("large", 2, 3 * MIB + 1)).is_none());
}

fn data_file(dir: &Path, version: &ObjectVersion) -> PathBuf {
    let is_its = |file: &PathBuf| fs::metadata(file).unwrap().len() == version.size;
    files(dir).into_iter().find(is_its).unwrap()
}

#[test]
fn a_file_that_was_changed_is_whole_only_when_it_was_checked() {
    let dir = tempfile::tempdir().unwrap();
    let large = version("large", 1, 9 * MIB + 1);
    keep(&cache(dir.path()), &large);
    let file = data_file(dir.path(), &large);
    // Somebody touches it: it is as it was, which takes reading it.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let first = cache(dir.path());
    assert!(first.complete(&large).is_none());
    until("it was checked", || first.complete(&large).is_some());
    drop(first);
    assert!(cache(dir.path()).complete(&large).is_some());

    // Somebody changes it.
    flip(&file, 5 * MIB);
    let (second, metrics) = counted(dir.path());
    assert!(second.complete(&large).is_none());
    until("the damage is found", || metrics.damaged.value() == 1);
    let damaged = 5 * MIB..5 * MIB + GRANULE;
    assert_eq!(second.missing(&large, 0..large.size), vec![damaged.clone()]);
    assert!(second.complete(&large).is_none());
    // What is mended is whole again, also for the next.
    offer(&second, &large, damaged);
    second.drain();
    until("it is whole", || second.complete(&large).is_some());
    drop(second);
    assert!(cache(dir.path()).complete(&large).is_some());
}

/// Large parts at odd places in memory, and the last bytes, are kept like all others.
#[test]
fn large_parts_are_kept_wherever_they_lie() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let large = version("large", 1, 8 * MIB + 4097);
    for (start, end) in [(0, 4 * MIB), (4 * MIB, 6 * MIB), (6 * MIB, large.size)] {
        let mut buffer = bytes::BytesMut::zeroed(4096 + (end - start) as usize);
        let skip = buffer.as_ptr().align_offset(4096) + usize::from(start == 4 * MIB);
        let part = bytes(&large, start..end);
        buffer[skip..skip + part.len()].copy_from_slice(&part);
        cache.offer(&large, start, buffer.freeze().slice(skip..skip + part.len()));
        cache.drain();
    }
    assert!(is_whole(&cache, &large));
    assert_eq!(room(dir.path()) / MIB, 8);
}

/// Where nothing can be written, what is there is read, and nothing is touched.
#[test]
fn a_cache_that_can_only_be_read_is_read() {
    const NAME: &str = "disk_cache::a_cache_that_can_only_be_read_is_read";
    let objects = [version("small", 1, 40_000), version("large", 1, 3 * MIB)];
    let Some(dir) = std::env::var_os("ATELIER_TEST_READ_ONLY") else {
        let dir = tempfile::tempdir().unwrap();
        let first = cache(dir.path());
        objects.iter().for_each(|version| keep(&first, version));
        drop(first);
        let mount = "mount --bind \"$ATELIER_TEST_READ_ONLY\" \"$ATELIER_TEST_READ_ONLY\" \
            && mount -o remount,bind,ro \"$ATELIER_TEST_READ_ONLY\" && exec \"$@\"";
        let status = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env("ATELIER_TEST_READ_ONLY", dir.path())
            .status()
            .unwrap();
        assert!(status.success());
        return;
    };
    let dir = Path::new(&dir);
    assert!(fs::write(dir.join("new"), "").is_err());
    let cache = cache(dir);
    assert!(objects.iter().all(|version| is_whole(&cache, version)));
    assert!(cache.complete(&objects[1]).is_some());
    let new = version("new", 1, 2 * MIB);
    assert!(!cache.fits(new.size));
    keep(&cache, &new);
    assert_eq!(found(&cache, &new, 0..new.size), 0);
    assert!(objects.iter().all(|version| is_whole(&cache, version)));
}

#[test]
fn two_mounts_share_what_they_read() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (cache(dir.path()), cache(dir.path()));
    let large = version("large", 1, 4 * MIB);
    offer(&one, &large, 0..2 * MIB);
    one.drain();
    assert_eq!(found(&other, &large, 0..large.size), 2 * MIB);
    offer(&other, &large, 2 * MIB..4 * MIB);
    other.drain();
    assert!(is_whole(&one, &large) && is_whole(&other, &large));

    // What one removes, the other keeps anew.
    CacheDir::open(dir.path(), CacheSize::Percent(10)).unwrap().unwrap().clear(None).unwrap();
    assert_eq!(room(dir.path()), 0);
    keep(&one, &large);
    keep(&other, &large);
    assert!(is_whole(&cache(dir.path()), &large));
}

#[test]
fn a_cache_whose_directory_was_removed_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let objects = [version("small", 1, 1000), version("large", 1, MIB)];
    for _ in 0..2 {
        for version in &objects {
            keep(&cache, version);
            assert!(is_whole(&cache, version));
        }
        fs::remove_dir_all(dir.path()).unwrap();
    }
    keep(&cache, &objects[0]);
    keep(&cache, &objects[1]);
    assert!(files(dir.path()).len() == 3);
}

/// One flipped bit costs the 16 KiB that it is in, wherever it is.
#[test]
fn damage_is_found_counted_and_mended() {
    let dir = tempfile::tempdir().unwrap();
    let small = version("small", 1, 40_000);
    let large = version("large", 1, MIB);
    let first = cache(dir.path());
    keep(&first, &small);
    keep(&first, &large);
    drop(first);
    for file in files(dir.path()) {
        let len = fs::metadata(&file).unwrap().len();
        let is_bytes = len == MIB;
        // At the start, in the middle and in the last bytes: data, checksums, identity. A seal that
        // is damaged is none, and nobody needs it here.
        let is_seal = |at: &u64| file.extension().is_some() && *at == len - 60;
        for at in [0, len / 2, len - 100, len - 60, len - 1].into_iter().filter(|at| !is_seal(at)) {
            flip(&file, at);
            let (cache, metrics) = counted(dir.path());
            let there = found(&cache, &small, 0..small.size) + found(&cache, &large, 0..MIB);
            assert_eq!(metrics.damaged.value(), 1, "{at} of {len} in {}", file.display());
            if is_bytes {
                assert_eq!(there, small.size + MIB - GRANULE);
            }
            keep(&cache, &small);
            keep(&cache, &large);
            assert!(is_whole(&cache, &small) && is_whole(&cache, &large));
            assert_eq!(metrics.damaged.value(), 1, "mended");
        }
    }
}

#[test]
fn what_was_cut_off_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let small = version("small", 1, 200_000);
    let large = version("large", 1, MIB);
    let fill = || {
        let cache = cache(dir.path());
        keep(&cache, &small);
        keep(&cache, &large);
    };
    fill();
    for file in files(dir.path()) {
        let len = fs::metadata(&file).unwrap().len();
        for cut in [0, 1, 8, 100, len / 3, len - 9, len - 1] {
            fs::File::options().write(true).open(&file).unwrap().set_len(cut).unwrap();
            let cache = cache(dir.path());
            let there = found(&cache, &small, 0..small.size) + found(&cache, &large, 0..MIB);
            assert!(there < small.size + MIB);
            drop(cache);
            fill();
            let cache = self::cache(dir.path());
            assert!(is_whole(&cache, &small) && is_whole(&cache, &large), "{cut} of {len}");
        }
    }
}

#[test]
fn the_bound_holds_and_the_longest_unused_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 16 * MIB;
    let caches = [cache_of(dir.path(), limit), cache_of(dir.path(), limit)];
    let versions: Vec<_> = (0..60).map(|n| version(&format!("object {n}"), n, MIB)).collect();
    let old = SystemTime::now() - Duration::from_hours(10);
    for (n, version) in versions.iter().enumerate() {
        let cache = &caches[n % 2];
        keep(cache, version);
        // One is used again and again, with time in between; the others grow old.
        for (age, file) in (0..).zip(files(dir.path())) {
            let used = fs::metadata(&file).unwrap().modified().unwrap();
            if used > old + Duration::from_hours(1) {
                let file = fs::File::options().write(true).open(&file).unwrap();
                file.set_modified(old + Duration::from_millis(n as u64 * 1000 + age % 2)).unwrap();
            }
        }
        let fresh = cache_of(dir.path(), limit);
        assert!(is_whole(&fresh, &versions[0]), "in use at {n}");
        assert!(is_whole(&fresh, version), "new at {n}");
        // Each of the two may not have said yet what it added last.
        let unsaid = limit / 16 * 2;
        assert!(room(dir.path()) <= limit + unsaid, "{} at {n}", room(dir.path()));
    }
    let kept = versions.iter().filter(|version| is_whole(&caches[0], version)).count();
    assert!((9..=16).contains(&kept), "{kept} are kept");
    assert!(!is_whole(&cache_of(dir.path(), limit), &versions[1]), "unused for long");
}

#[test]
fn of_an_object_that_does_not_fit_the_same_part_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 16 * MIB;
    let huge = version("huge", 1, 64 * MIB);
    let mut kept = Vec::new();
    for _ in 0..2 {
        let cache = cache_of(dir.path(), limit);
        assert!(!cache.fits(huge.size) && cache.fits(limit / 4));
        keep(&cache, &huge);
        assert!(room(dir.path()) <= limit);
        kept.push(cache.missing(&huge, 0..huge.size));
        let there = found(&cache, &huge, 0..huge.size);
        assert!((2 * MIB..=12 * MIB).contains(&there), "{there} bytes");
    }
    assert_eq!(kept[0], kept[1]);
}

#[test]
fn everything_is_checked_and_what_is_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let open = || CacheDir::open(dir.path(), CacheSize::Bytes(MIB)).unwrap();
    assert!(open().is_none());
    let objects = [version("a", 1, 1000), version("b", 1, 3 * MIB), version("c", 1, 90_000)];
    let first = cache(dir.path());
    objects.iter().for_each(|version| keep(&first, version));
    drop(first);
    let kept = open().unwrap().kept().unwrap();
    assert_eq!((kept.objects, kept.used), (3, room(dir.path())));
    assert_eq!(kept.limit, MIB);
    assert!(kept.reserve > 0 && kept.oldest.is_some());
    let all = objects.iter().map(|version| version.size).sum::<u64>();
    let checked = open().unwrap().verify(|_, _| ()).unwrap();
    assert_eq!((checked.objects, checked.bytes, checked.damaged.len()), (3, all, 0));

    let old = SystemTime::now() - Duration::from_hours(3);
    for file in files(dir.path()) {
        if fs::metadata(&file).unwrap().len() == 3 * MIB {
            flip(&file, 100);
            flip(&file, MIB);
        } else if fs::metadata(&file).unwrap().len() > 90_000 {
            let len = fs::metadata(&file).unwrap().len();
            flip(&file, len - 20);
            fs::File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
        }
    }
    let mut seen = (0, 0);
    let checked = open().unwrap().verify(|done, total| seen = (done, total)).unwrap();
    assert!(seen.0 == seen.1 && seen.0 > 0);
    let damaged: Vec<_> = checked.damaged.iter().map(|damage| damage.blocks).collect();
    assert_eq!(damaged.iter().sum::<u64>(), 3, "{:?}", checked.damaged);
    assert!(checked.damaged.iter().any(|damage| &*damage.object == "http://host/bucket/b"));
    assert!(open().unwrap().verify(|_, _| ()).unwrap().damaged.is_empty());

    let removed = open().unwrap().clear(Some(Duration::from_hours(1))).unwrap();
    assert_eq!(removed.objects, 0);
    assert_eq!(open().unwrap().clear(None).unwrap().objects, 2);
    assert_eq!(room(dir.path()), 0);
}

/// `kill -9` of a process that writes, at any moment: what the next one finds is right.
#[test]
fn a_killed_writer_leaves_nothing_wrong() {
    const NAME: &str = "disk_cache::a_killed_writer_leaves_nothing_wrong";
    if let Some(dir) = std::env::var_os("ATELIER_TEST_WRITE_TO") {
        let cache = cache_of(Path::new(&dir), 24 * MIB);
        writeln!(std::io::stdout(), "ready").unwrap();
        for round in 0.. {
            let size = [40_000, 300_000, 100, 2 * MIB, 70_000][round % 5];
            keep(&cache, &version(&format!("{}", round % 40), 1, size));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    for round in 0..12 {
        let mut children = [0, 1].map(|_| spawn_self(NAME, "ATELIER_TEST_WRITE_TO", dir.path()));
        thread::sleep(Duration::from_millis(40 + 13 * round));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let cache = cache_of(dir.path(), 24 * MIB);
        for n in 0..40 {
            for size in [40_000, 300_000, 100, 2 * MIB, 70_000] {
                let version = version(&format!("{n}"), 1, size);
                found(&cache, &version, 0..size);
            }
        }
        assert!(room(dir.path()) <= 32 * MIB);
    }
    let cache = cache(dir.path());
    keep(&cache, &version("0", 1, 40_000));
    assert!(is_whole(&cache, &version("0", 1, 40_000)));
}

/// On a small file system of its own: the reserve holds, also when others fill the disk, and a
/// full one only means that nothing is kept.
#[test]
fn a_full_disk_is_left_alone() {
    const NAME: &str = "disk_cache::a_full_disk_is_left_alone";
    const SIZE: u64 = 64 * MIB;
    let Some(dir) = std::env::var_os("ATELIER_TEST_SMALL_DISK") else {
        let dir = tempfile::tempdir().unwrap();
        let mount = "mount -t tmpfs -o size=64m none \"$ATELIER_TEST_SMALL_DISK\" && exec \"$@\"";
        let status = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env("ATELIER_TEST_SMALL_DISK", dir.path())
            .status()
            .unwrap();
        assert!(status.success());
        return;
    };
    let dir = Path::new(&dir);
    let free = || {
        let space = rustix::fs::statvfs(dir).unwrap();
        space.f_bavail * space.f_frsize
    };
    let reserve = SIZE / 20;
    let cache = cache_of(&dir.join("cache"), 1 << 40);
    let objects: Vec<_> = (0..200).map(|n| version(&n.to_string(), 1, MIB)).collect();
    for version in &objects {
        keep(&cache, version);
        assert!(free() >= reserve, "{} is free", free());
    }
    assert!(room(dir) > SIZE / 2);

    // Another fills the disk, slowly enough that the cache gives way.
    let mut other = fs::File::create(dir.join("other")).unwrap();
    for n in 0..58_u64 {
        other.write_all(&vec![1; MIB as usize]).unwrap();
        keep(&cache, &version("new", n, 5 * MIB));
    }
    assert!(free() >= reserve, "{} is free", free());
    // To the last byte, which leaves the cache nothing.
    while other.write_all(&[1; 4096]).is_ok() {}
    assert_eq!(free(), 0);
    for version in &objects[..20] {
        keep(&cache, version);
        found(&cache, version, 0..MIB);
    }
    drop(other);
    fs::remove_file(dir.join("other")).unwrap();
    // It looks again now and then.
    let patience = Instant::now() + Duration::from_mins(1);
    while !is_whole(&cache, &objects[0]) {
        assert!(Instant::now() < patience, "it goes on once there is room");
        thread::sleep(Duration::from_millis(100));
        keep(&cache, &objects[0]);
    }
}

fn spawn_self(test: &str, variable: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(variable, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn flip(file: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Offer { object: u64, block: u64, count: u64 },
    Read { object: u64, start: u64, len: u64 },
    Flip { file: usize, at: u64 },
    Cut { file: usize, at: u64 },
    Remove { file: usize },
    Clear,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let step = prop_oneof![
        6 => (0..8_u64, 0..16_u64, 1..8_u64)
            .prop_map(|(object, block, count)| Step::Offer { object, block, count }),
        6 => (0..8_u64, 0..900_000_u64, 1..400_000_u64)
            .prop_map(|(object, start, len)| Step::Read { object, start, len }),
        2 => (0..100_usize, 0..2_000_000_u64).prop_map(|(file, at)| Step::Flip { file, at }),
        1 => (0..100_usize, 0..2_000_000_u64).prop_map(|(file, at)| Step::Cut { file, at }),
        1 => (0..100_usize).prop_map(|file| Step::Remove { file }),
        1 => Just(Step::Clear),
        2 => Just(Step::Reopen),
    ];
    proptest::collection::vec((0..2_usize, step), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    /// Two processes read and write while files are damaged, cut and removed: wrong bytes never.
    #[test]
    fn no_bytes_are_ever_wrong(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let open = || cache_of(dir.path(), 3 * MIB);
        let mut caches = [open(), open()];
        let objects: Vec<_> = [100, 60_000, 150_000, 262_144, 262_145, 900_000, 900_000, 900_000]
            .iter()
            .zip(0..)
            .map(|(size, n)| version("object", n, *size))
            .collect();
        for (who, step) in steps {
            let cache = &caches[who];
            let place = |at: usize| {
                let files = files(dir.path());
                (!files.is_empty()).then(|| files[at % files.len()].clone())
            };
            match step {
                Step::Offer { object, block, count } => {
                    let version = &objects[object as usize];
                    let start = (block * GRANULE).min(version.size / GRANULE * GRANULE);
                    offer(cache, version, start..(start + count * GRANULE).min(version.size));
                    if count % 2 == 0 {
                        cache.drain();
                    }
                }
                Step::Read { object, start, len } => {
                    let version = &objects[object as usize];
                    let start = start.min(version.size);
                    found(cache, version, start..(start + len).min(version.size));
                }
                Step::Flip { file, at } => if let Some(file) = place(file) {
                    let len = fs::metadata(&file).map_or(0, |data| data.len());
                    if len > 0 {
                        flip(&file, at % len);
                    }
                },
                Step::Cut { file, at } => if let Some(file) = place(file) {
                    let len = fs::metadata(&file).map_or(0, |data| data.len());
                    let file = fs::File::options().write(true).open(file).unwrap();
                    file.set_len(at % (len + 1)).unwrap();
                },
                Step::Remove { file } => if let Some(file) = place(file) {
                    let _ = fs::remove_file(file);
                },
                Step::Clear => {
                    let dir = CacheDir::open(dir.path(), CacheSize::Percent(10)).unwrap().unwrap();
                    dir.clear(None).unwrap();
                }
                Step::Reopen => caches[who] = open(),
            }
        }
        caches.iter().for_each(DiskCache::drain);
        prop_assert!(room(dir.path()) <= 4 * MIB);
        CacheDir::open(dir.path(), CacheSize::Percent(10)).unwrap().unwrap().verify(|_, _| ()).unwrap();
        for version in &objects {
            for cache in &caches {
                found(cache, version, 0..version.size);
            }
        }
    }
}
