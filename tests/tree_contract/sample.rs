//! The tree that the reading suite wants to see.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// What a kind of tree can hold beside files with plain names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holds {
    /// Symbolic links, and directories without entries.
    pub(crate) links_and_empty_dirs: bool,
    /// Names that aren't UTF-8, and names of 255 bytes at any depth.
    pub(crate) any_name: bool,
}

impl Holds {
    /// All that a local directory can hold.
    pub(crate) const EVERYTHING: Self = Self { links_and_empty_dirs: true, any_name: true };
    /// What a bucket can hold.
    pub(crate) const OBJECTS: Self = Self { links_and_empty_dirs: false, any_name: false };
}

/// What an entry of the sample is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Directory,
    File(Vec<u8>),
    Symlink(&'static str),
}

/// Fills an empty directory with the sample.
pub(crate) fn sample(dir: &Path, holds: Holds) {
    for (path, expected) in entries(holds) {
        let path = dir.join(OsStr::from_bytes(&path));
        match expected {
            Expected::Directory => fs::create_dir(path).unwrap(),
            Expected::File(bytes) => fs::write(path, bytes).unwrap(),
            Expected::Symlink(target) => std::os::unix::fs::symlink(target, path).unwrap(),
        }
    }
}

/// The sample's entries by path; a directory comes before what is in it.
pub(super) fn entries(holds: Holds) -> BTreeMap<Vec<u8>, Expected> {
    let mut entries = BTreeMap::new();
    let mut add = |path: &[u8], expected: Expected| {
        entries.insert(path.to_vec(), expected);
    };
    for dir in ["a", "a/b", "a/b/c", "many", "sizes"] {
        add(dir.as_bytes(), Expected::Directory);
    }
    add(b"a/b/c/deep.txt", Expected::File(b"at the bottom\n".to_vec()));
    add(b"a.txt", Expected::File(b"sorts between a and a/b\n".to_vec()));
    add("naïve ☃ name.txt".as_bytes(), Expected::File(b"UTF-8, with a space\n".to_vec()));
    add(b".hidden", Expected::File(b"dots are names too\n".to_vec()));
    add(b"copy.txt", Expected::File(b"at the bottom\n".to_vec()));
    // Around the sizes at which stores change how they keep a file.
    for size in [0, 1, 511, 512, 513, 4096, 65_537, 524_288, 524_289, 3_000_001] {
        add(format!("sizes/noise-{size}").as_bytes(), Expected::File(noise(size)));
    }
    add(b"sizes/text", Expected::File(b"one line of many\n".repeat(40_000)));
    for number in 0..300 {
        let path = format!("many/{number:03}.txt");
        add(path.as_bytes(), Expected::File(format!("number {number}\n").into_bytes()));
    }
    if holds.links_and_empty_dirs {
        add(b"empty", Expected::Directory);
        add(b"link", Expected::Symlink("a/b/c/deep.txt"));
        add(b"link-to-dir", Expected::Symlink("a"));
        add(b"dangling", Expected::Symlink("nothing/there"));
        add(b"outside", Expected::Symlink("/etc/passwd"));
    }
    if holds.any_name {
        add(b"a/\xff\xfe not UTF-8", Expected::File(b"bytes\n".to_vec()));
        add(&[b'n'; 255], Expected::File(b"the longest name\n".to_vec()));
        add(b"a/new\nline", Expected::File(b"two lines in ls\n".to_vec()));
    }
    entries
}

/// Bytes that don't compress and repeat nowhere (xorshift64).
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ len as u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(len)
    .collect()
}
