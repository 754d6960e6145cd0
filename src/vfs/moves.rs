//! Renames under way, so that nobody takes a path that is just moving for one that isn't there.

use std::sync::Mutex;

use tokio::sync::Notify;

use super::lock;
use crate::path::TreePath;

/// The renames that the tree was asked for and that the table of nodes doesn't show yet.
#[derive(Default)]
pub(super) struct Moves {
    /// Old and new path of each; held only to look.
    under_way: Mutex<Vec<(TreePath, TreePath)>>,
    ended: Notify,
}

impl Moves {
    /// Announces a rename; it is over when the guard is dropped.
    pub(super) fn begin(&self, from: &TreePath, to: &TreePath) -> Move<'_> {
        let paths = (from.clone(), to.clone());
        lock(&self.under_way).push(paths.clone());
        Move { moves: self, paths }
    }

    /// Waits for a rename of `path` or of a directory above it; tells whether there was one.
    pub(super) async fn settled(&self, path: &TreePath) -> bool {
        let mut waited = false;
        loop {
            let ended = self.ended.notified();
            let moving =
                |(from, to): &(TreePath, TreePath)| is_above(from, path) || is_above(to, path);
            if !lock(&self.under_way).iter().any(moving) {
                return waited;
            }
            ended.await;
            waited = true;
        }
    }
}

/// A rename under way.
pub(super) struct Move<'a> {
    moves: &'a Moves,
    paths: (TreePath, TreePath),
}

impl Drop for Move<'_> {
    fn drop(&mut self) {
        let mut under_way = lock(&self.moves.under_way);
        if let Some(position) = under_way.iter().position(|paths| *paths == self.paths) {
            under_way.swap_remove(position);
        }
        drop(under_way);
        self.moves.ended.notify_waiters();
    }
}

/// Whether `above` is `path` or a directory on the way to it.
fn is_above(above: &TreePath, path: &TreePath) -> bool {
    let rest = path.as_bytes().strip_prefix(above.as_bytes());
    rest.is_some_and(|rest| rest.is_empty() || above.is_root() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text).unwrap()
    }

    #[test]
    fn a_directory_is_above_what_lies_in_it() {
        assert!(is_above(&path("a"), &path("a")));
        assert!(is_above(&path("a"), &path("a/b")));
        assert!(is_above(&path(""), &path("a")));
        assert!(!is_above(&path("a"), &path("ab")));
        assert!(!is_above(&path("a/b"), &path("a")));
    }

    #[tokio::test]
    async fn who_asks_for_a_moving_path_waits_for_the_move() {
        let moves = Arc::new(Moves::default());
        assert!(!moves.settled(&path("a/x")).await);
        let under_way = moves.begin(&path("a"), &path("b"));
        assert!(!moves.settled(&path("c")).await);
        let waiting = tokio::spawn({
            let moves = Arc::clone(&moves);
            async move { moves.settled(&path("a/x")).await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        drop(under_way);
        assert!(waiting.await.unwrap());
    }
}
