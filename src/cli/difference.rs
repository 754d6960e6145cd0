//! What differs between two versions, in words.

use std::fmt::Write as _;

use indicatif::HumanBytes;

use crate::snapshot::diff::{Change, Difference};
use crate::snapshot::{Content, Entry};

/// A line for people: `+`, `-` or `~`, the path, and what there is to say of it.
pub(super) fn line(Difference { path, change }: &Difference) -> Option<String> {
    let only = |sign: char, entry: &Entry| match entry.content {
        Content::Directory => format!("{sign} {path}/\n"),
        _ => format!("{sign} {path}  {}\n", HumanBytes(len(entry))),
    };
    Some(match change {
        Change::Added(entry) => only('+', entry),
        Change::Removed(entry) => only('-', entry),
        Change::Changed { before, after } => {
            let mut line = format!("~ {path}");
            if kind(before) != kind(after) {
                let _ = write!(line, "  {} -> {}", kind(before), kind(after));
            }
            if !before.content.is_same(&after.content) {
                let (before, after) = (HumanBytes(len(before)), HumanBytes(len(after)));
                let _ = write!(line, "  {before} -> {after}");
            }
            if before.mode != after.mode {
                let _ = write!(line, "  mode {} -> {}", mode(before), mode(after));
            }
            line + "\n"
        }
        Change::Touched => return None,
    })
}

/// What an entry is.
pub(super) fn kind(entry: &Entry) -> &'static str {
    match entry.content {
        Content::Directory => "directory",
        Content::Symlink(_) => "symlink",
        Content::Inline(_) | Content::Frame { .. } | Content::Runs { .. } => "file",
    }
}

/// How many bytes an entry counts for: those of a file.
pub(super) fn len(entry: &Entry) -> u64 {
    match entry.content {
        Content::Directory | Content::Symlink(_) => 0,
        _ => entry.content.len(),
    }
}

/// The permission bits as `chmod` takes them.
pub(super) fn mode(entry: &Entry) -> String {
    format!("{:04o}", entry.mode)
}
