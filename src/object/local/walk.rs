//! Lists the files below a directory in the byte order of their keys, a page at a time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{UNFINISHED, absent, meta_of};
use crate::error::{Error, Result};
use crate::object::{Depth, ListPage};

/// Keys a page holds at most, as in S3.
const PAGE_LEN: usize = 1000;

/// The pages of one listing.
pub(super) struct Pages {
    root: PathBuf,
    prefix: String,
    depth: Depth,
    /// Keys to visit, the next one last; that of a directory ends in `/`.
    pending: Vec<String>,
    failed: bool,
}

impl Pages {
    pub(super) fn new(root: PathBuf, prefix: &str, depth: Depth) -> Self {
        // The directory part of the prefix; the rest of it filters that directory's names.
        let start = prefix.rfind('/').map_or(0, |slash| slash + 1);
        // A prefix that no key can have leads nowhere, least of all out of the root.
        let odd = prefix[..start].split_terminator('/').any(|name| matches!(name, "" | "." | ".."));
        let pending = if odd { Vec::new() } else { vec![prefix[..start].to_owned()] };
        Self { root, prefix: prefix.to_owned(), depth, pending, failed: false }
    }

    fn next_page(&mut self) -> io::Result<ListPage> {
        let mut page = ListPage::default();
        while page.objects.len() + page.prefixes.len() < PAGE_LEN {
            let Some(key) = self.pending.pop() else { break };
            if !key.is_empty() && !key.ends_with('/') {
                match fs::symlink_metadata(self.root.join(&key)) {
                    Ok(metadata) => page.objects.push(meta_of(key, &metadata)),
                    Err(error) if absent(&error) => {}
                    Err(error) => return Err(error),
                }
            } else if self.depth == Depth::All || key.len() <= self.prefix.len() {
                self.pending.extend(children(&self.root, &key, &self.prefix)?.into_iter().rev());
            } else if holds_a_file(&self.root.join(&key))? {
                page.prefixes.push(key);
            }
        }
        Ok(page)
    }
}

impl Iterator for Pages {
    type Item = Result<ListPage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match self.next_page() {
            Ok(page) if page.objects.is_empty() && page.prefixes.is_empty() => None,
            Ok(page) => Some(Ok(page)),
            Err(error) => {
                self.failed = true;
                let message = format!("the objects below {} can't be listed", self.prefix);
                Some(Err(Error::io(error, message)))
            }
        }
    }
}

/// The keys in the directory `dir` (empty or ending in `/`) that begin with `prefix` or lead to
/// such keys, in byte order, where `a-` comes before `a/` and that before `a0`.
fn children(root: &Path, dir: &str, prefix: &str) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(root.join(dir)) {
        Err(error) if absent(&error) => return Ok(Vec::new()),
        other => other?,
    };
    let mut keys = Vec::new();
    for entry in entries {
        let entry = entry?;
        // Keys are UTF-8, so another name isn't one of ours.
        let Ok(name) = entry.file_name().into_string() else { continue };
        let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
        let key = format!("{dir}{name}{slash}");
        if key.starts_with(prefix) && !(dir.is_empty() && name == UNFINISHED) {
            keys.push(key);
        }
    }
    keys.sort_unstable();
    Ok(keys)
}

/// Whether there is an object anywhere below `dir`: deleting one leaves its directories behind.
fn holds_a_file(dir: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(dir) {
        Err(error) if absent(&error) => return Ok(false),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() || holds_a_file(&entry.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}
