//! How much memory there is to take: what was allowed, less where the control group has less, and
//! all of it only once at a time.

use std::path::Path;

use tokio::sync::{Semaphore, SemaphorePermit};

/// What the daemon needs besides its blocks: connections, names, replies on their way.
const BESIDES: u64 = 128 << 20;

/// Less than this and reading ahead starves, whatever the control group says.
const LEAST: u64 = 16 << 20;

/// What is counted of what is on its way, in bytes.
const UNIT: u64 = 64 << 10;

/// Room for what is on its way from a store: who comes first goes first, and nobody without it.
pub(super) struct Room {
    units: Semaphore,
    all: u32,
}

impl Room {
    pub(super) fn new(bytes: u64) -> Self {
        let all = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(1);
        Self { units: Semaphore::new(usize::try_from(all).unwrap_or(1)), all }
    }

    /// Waits until there is room for `bytes`, or for all that there can be; it is free again when
    /// what this returns is dropped.
    pub(super) async fn take(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.all);
        // It is never closed, so that there is always some.
        self.units.acquire_many(units).await.ok()
    }
}

/// The bytes that blocks may take: `wanted`, or half of what the control group leaves, since the
/// programs that read are often in the same.
pub fn affordable(wanted: u64) -> u64 {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    within(wanted, limit(Path::new("/sys/fs/cgroup"), &groups))
}

fn within(wanted: u64, limit: Option<u64>) -> u64 {
    let left = limit.map_or(u64::MAX, |limit| limit.saturating_sub(BESIDES) / 2);
    wanted.min(left.max(LEAST))
}

/// The least limit of the groups in `/proc/self/cgroup` and of those that they are in, see
/// `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst` of the kernel.
fn limit(root: &Path, groups: &str) -> Option<u64> {
    let lines = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    let limits = lines.filter_map(|(controllers, group)| {
        let group = Path::new(group.trim_start_matches('/'));
        if controllers.is_empty() {
            least(root, group, &["memory.max", "memory.high"])
        } else if controllers.split(',').any(|controller| controller == "memory") {
            least(&root.join("memory"), group, &["memory.limit_in_bytes"])
        } else {
            None
        }
    });
    limits.min()
}

fn least(root: &Path, group: &Path, names: &[&str]) -> Option<u64> {
    let files = group
        .ancestors()
        .flat_map(|group| names.iter().map(move |name| root.join(group).join(name)));
    // `max` stands for none.
    files.filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        fs::write(root.path().join("a/b/memory.max"), "max\n").unwrap();
        fs::write(root.path().join("a/b/memory.high"), "3000\n").unwrap();
        fs::write(root.path().join("a/memory.max"), "2000\n").unwrap();
        assert_eq!(limit(root.path(), "0::/a/b\n"), Some(2000));
        assert_eq!(limit(root.path(), "0::/\n"), None);
    }

    #[test]
    fn the_first_version_of_control_groups_is_known() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("memory/a")).unwrap();
        fs::write(root.path().join("memory/a/memory.limit_in_bytes"), "4096\n").unwrap();
        assert_eq!(limit(root.path(), "4:cpu,cpuacct:/b\n3:memory:/a\n"), Some(4096));
    }

    #[tokio::test]
    async fn no_more_is_on_its_way_than_there_is_room() {
        let room = Room::new(4 * UNIT);
        let first = room.take(3 * UNIT).await;
        let mut second = std::pin::pin!(room.take(100 * UNIT));
        let soon = Duration::from_millis(5);
        assert!(timeout(soon, second.as_mut()).await.is_err());
        // Who came first goes first.
        assert!(timeout(soon, room.take(1)).await.is_err());
        drop(first);
        assert!(second.await.is_some());
    }

    #[test]
    fn half_of_what_is_left_may_be_taken() {
        const MIB: u64 = 1 << 20;
        assert_eq!(within(512 * MIB, None), 512 * MIB);
        assert_eq!(within(512 * MIB, Some(512 * MIB)), 192 * MIB);
        assert_eq!(within(100 * MIB, Some(512 * MIB)), 100 * MIB);
        assert_eq!(within(512 * MIB, Some(100 * MIB)), 16 * MIB);
    }
}
