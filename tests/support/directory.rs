//! Directories that are hard to keep, and what tells whether they were kept.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

/// Type and permission bits, mtime in seconds and nanoseconds, and content or target.
pub(crate) type Shape = BTreeMap<Vec<u8>, (u32, i64, i64, Vec<u8>)>;

/// What a directory holds, by path; the directory itself has the empty one.
pub(crate) fn shape(root: &Path) -> Shape {
    walkdir::WalkDir::new(root)
        .into_iter()
        .map(|entry| {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            let content = if metadata.is_file() {
                Sha256::digest(fs::read(entry.path()).unwrap()).to_vec()
            } else if metadata.is_symlink() {
                fs::read_link(entry.path()).unwrap().as_os_str().as_bytes().to_vec()
            } else {
                Vec::new()
            };
            let path = entry.path().strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            (path, (metadata.mode(), metadata.mtime(), metadata.mtime_nsec(), content))
        })
        .collect()
}

/// The same shape with whole seconds.
pub(crate) fn whole_seconds(mut shape: Shape) -> Shape {
    shape.values_mut().for_each(|(_, _, nanos, _)| *nanos = 0);
    shape
}

/// Fails where two directories differ, and says where.
pub(crate) fn assert_same_shape(found: &Shape, expected: &Shape) {
    for (path, entry) in expected {
        let name = String::from_utf8_lossy(path);
        assert_eq!(found.get(path), Some(entry), "{name:?}");
    }
    assert_eq!(found.len(), expected.len(), "there is more than there should be");
}

/// A directory with all that is hard to keep.
pub(crate) fn zoo(root: &Path) {
    let file = |name: &[u8], bytes: &[u8]| {
        let path = root.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    };
    for len in [0, 1, 511, 512, 513, 4096, 524_287, 524_288, 524_289, 5 << 20] {
        file(format!("sizes/{len}").as_bytes(), &noise(len, len as u64));
        file(format!("text/{len}").as_bytes(), &b"0123456789,abcdef\n".repeat(len / 18 + 1)[..len]);
    }
    file(b"odd/\xff\xfe", b"not UTF-8");
    file(b"odd/new\nline", b"two lines");
    file(&[b"odd/".as_slice(), &[b'n'; 255]].concat(), b"long");
    // `a-` sorts before what is below `a`, though its name sorts behind `a`.
    for name in ["order/a/x", "order/a-/x", "order/a0", "order/a!/x", "order/a/b/c/d/e/f/g/h"] {
        file(name.as_bytes(), name.as_bytes());
    }
    fs::create_dir_all(root.join("empty/er")).unwrap();
    symlink("../sizes/512", root.join("odd/link")).unwrap();
    symlink("/nowhere/at all", root.join("odd/dangling")).unwrap();
    symlink("..", root.join("odd/up")).unwrap();
    let script = file(b"run.sh", b"#!/bin/sh\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o4751)).unwrap();
    let old = fs::File::options().write(true).open(&script).unwrap();
    old.set_modified(SystemTime::UNIX_EPOCH - Duration::from_millis(86_400_500)).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(20 << 20).unwrap();
    fs::hard_link(root.join("sizes/4096"), root.join("hard-link")).unwrap();
}

/// Bytes that look random and are the same each time.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}
