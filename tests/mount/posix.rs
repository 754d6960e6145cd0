//! Project storage is a file system to people who know what one is.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use atelier::catalog::Role;
use atelier::error::{ErrorKind, Result};
use atelier::fuse::{Access, Accounts, MountOptions};
use atelier::path::TreePath;
use atelier::tree::local::LocalTree;
use atelier::tree::tracked::{Journal, Since, TrackedTree};
use atelier::tree::{self, Attr, Entry, OpenMode, Tree};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::{Mount, limited, on_each_tree, passthrough, python};
use crate::support::root;

/// Users that every Debian has, besides root: `daemon`, `bin` and `backup`.
const USERS: [u32; 4] = [0, 1, 2, 34];

/// A project's storage, mounted for these users where this one may.
fn storage() -> Mount {
    let members = || async { Ok(USERS.map(|uid| (uid, Role::Developer)).into()) }.boxed();
    let members = Access::Members(Accounts::new(Arc::new(members)));
    let access = if rustix::process::geteuid().is_root() { members } else { Access::Owner };
    let options = MountOptions { source: "o/c/p".into(), access, ..MountOptions::default() };
    let mount = Mount::with(|dir| Arc::new(LocalTree::open(dir).expect("a local tree")), &options);
    fs::set_permissions(mount.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    mount
}

/// pjdfstest acts as several users, which only root can.
#[test]
fn pjdfstest_passes_whole() {
    if !root::is_here() {
        return;
    }
    let mount = storage();
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/posix"))
        .args(["--only", "pjdfstest", "--in"])
        .arg(mount.path(""))
        .output()
        .expect("the script is there");
    let said = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{log}");
    // The C library knows no limit of links for what FUSE mounts, so one test asks for none.
    let expected = "pjdfstest: 397 run, 397 passed, 0 failed; 1 skipped\n  \
                    skipped link::link_count_max: ";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn what_the_kernel_wrote_by_itself_is_seen_at_once() {
    let mount = storage();
    let path = mount.path("f");
    let mut file = OpenOptions::new().append(true).create_new(true).open(&path).unwrap();
    let reader = File::open(&path).unwrap();
    for round in 1..=50_u64 {
        file.write_all(b"0123456789").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), round * 10);
        assert_eq!(reader.metadata().unwrap().len(), round * 10);
        let mut end = [0; 10];
        reader.read_exact_at(&mut end, (round - 1) * 10).unwrap();
        assert_eq!(end, *b"0123456789");
        assert_eq!(fs::read(&path).unwrap().len() as u64, round * 10);
    }
    file.set_len(15).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"012345678901234");
    file.write_all(b"!").unwrap();
    drop(OpenOptions::new().write(true).truncate(true).open(&path).unwrap());
    assert_eq!((fs::metadata(&path).unwrap().len(), fs::read(&path).unwrap().len()), (0, 0));
    file.write_all(b"end").unwrap();
    assert_eq!(fs::read(mount.backing().join("f")).unwrap(), b"end");
    let handed_over = mount.metrics.passthrough_opens.value();
    assert_eq!(handed_over > 0, passthrough::is_allowed(&mount.backing()), "{handed_over}");
}

#[test]
fn the_kernel_writes_nothing_by_itself_where_room_is_counted() {
    let mount = limited(1 << 20);
    fs::write(mount.path("f"), vec![7; 500_000]).unwrap();
    let file = OpenOptions::new().write(true).open(mount.path("f")).unwrap();
    let refused = file.write_all_at(&vec![7; 100_000], 1 << 20).unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::NOSPC));
    assert_eq!(mount.metrics.passthrough_opens.value(), 0);
}

/// Where the kernel doesn't write by itself, a map is written by requests; `close(2)` sends none.
#[test]
fn what_was_written_through_a_map_is_in_the_file_when_the_map_goes() {
    let mount = limited(1 << 20);
    fs::write(mount.path("f"), vec![b'.'; 10_000]).unwrap();
    let program = "
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(fd, 0)
os.close(fd)
m[5000:5005] = b'hello'
m.close()
";
    python(program, &[&mount.path("f")]);
    let bytes = fs::read(mount.backing().join("f")).unwrap();
    assert_eq!((&bytes[4999..5006], bytes.len()), (&b".hello."[..], 10_000));
}

/// Nobody is told when a map goes that outlived the file it was made of.
#[test]
fn a_file_that_may_be_mapped_still_is_looked_at_by_each_checkpoint() {
    let mount = Mount::new(|dir| {
        let local = Arc::new(LocalTree::open(dir).unwrap());
        let journal = Journal::begin(&dir.with_file_name("journals")).unwrap();
        Arc::new(TrackedTree::over(local, journal))
    });
    if !passthrough::is_allowed(&mount.backing()) {
        return root::skip(passthrough::TAKES);
    }
    let journals = mount.dir.path().join("journals");
    let mut known = None;
    let mut look = || {
        let since = Since::read(&journals, &mount.backing(), known.as_ref()).unwrap();
        known = since.known;
        let changes = since.changes.into_iter().flat_map(|changes| {
            changes.iter().map(|(path, _)| path.to_string()).collect::<Vec<_>>()
        });
        changes.collect::<Vec<_>>()
    };
    look();
    fs::write(mount.path("written"), "x").unwrap();
    fs::write(mount.path("mapped"), "x").unwrap();
    drop(OpenOptions::new().read(true).write(true).open(mount.path("mapped")).unwrap());
    // So many changes that the journal doesn't wait any longer to end what it can.
    for number in 0..200 {
        fs::create_dir(mount.path(&format!("directory-{number}"))).unwrap();
    }
    let first = look();
    assert!(["written", "mapped"].iter().all(|name| first.iter().any(|path| path == name)));
    let second = look();
    assert!(second.iter().any(|path| path == "mapped"), "{second:?}");
    assert!(second.iter().all(|path| path != "written"), "{second:?}");
}

/// The kernel asks for it after each write to a file that was opened so.
#[test]
fn a_write_that_has_to_be_durable_is_when_it_returns() {
    let file = Arc::new(Synced::default());
    let mount = Mount::new(|_| Arc::new(OneFile(file.clone())));
    let write = |flags| {
        let mut open = OpenOptions::new();
        let open = open.write(true).custom_flags(flags);
        open.open(mount.path("f")).unwrap().write_all_at(b"x", 0).unwrap();
        std::mem::take(&mut *file.0.lock().unwrap())
    };
    // As Linux has them on most processors; rustix has one value for both.
    let (data_only, all) = (0o10000, OFlags::SYNC.bits().cast_signed());
    assert!(write(0).is_empty());
    assert_eq!(write(data_only), [true]);
    assert_eq!(write(all), [false]);
}

/// A tree with one file, `f`.
struct OneFile(Arc<Synced>);

/// A file that notes each sync, and whether it was of the bytes only.
#[derive(Default)]
struct Synced(Mutex<Vec<bool>>);

#[async_trait]
impl Tree for OneFile {
    async fn stat(&self, path: &TreePath) -> Result<Attr> {
        match path.as_bytes() {
            b"" => Ok(Attr::dir(SystemTime::UNIX_EPOCH, Duration::ZERO)),
            b"f" => tree::File::stat(&*self.0).await,
            _ => Err(ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, _dir: &TreePath) -> BoxStream<'static, Result<Entry>> {
        stream::empty().boxed()
    }

    async fn open(&self, _path: &TreePath, _mode: OpenMode) -> Result<Arc<dyn tree::File>> {
        Ok(self.0.clone())
    }
}

#[async_trait]
impl tree::File for Synced {
    async fn read_at(&self, _offset: u64, _len: usize) -> Result<Bytes> {
        Ok(Bytes::new())
    }

    async fn stat(&self) -> Result<Attr> {
        Ok(Attr::file(1, SystemTime::UNIX_EPOCH, Duration::ZERO))
    }

    async fn write_at(&self, _offset: u64, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    async fn sync(&self, data_only: bool) -> Result<()> {
        self.0.lock().unwrap().push(data_only);
        Ok(())
    }
}

#[test]
fn a_write_by_another_user_takes_set_id_bits_off() {
    if !root::is_here() {
        return;
    }
    let mount = storage();
    for open_before in [false, true] {
        let path = mount.path(&format!("f{open_before}"));
        let file = File::create(&path).unwrap();
        let file = open_before.then_some(file);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
        let program = "
import os, sys
os.setgroups([])
os.setgid(12)
os.setuid(34)
with open(sys.argv[1], 'r+b') as f:
    f.write(b'x')
";
        python(program, &[&path]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777, "{open_before}");
        drop(file);
    }
}

#[test]
fn a_program_that_runs_keeps_its_bytes() {
    on_each_tree(|mount| {
        let program = "
import errno, os, shutil, subprocess, sys
shutil.copy(shutil.which('sleep'), sys.argv[1])
size = os.stat(sys.argv[1]).st_size
running = subprocess.Popen([sys.argv[1], '600'])
try:
    for flags in os.O_RDONLY | os.O_TRUNC, os.O_WRONLY, os.O_RDWR | os.O_TRUNC:
        try:
            os.open(sys.argv[1], flags)
            raise SystemExit('opened nevertheless')
        except OSError as e:
            assert e.errno == errno.ETXTBSY, e
    assert os.stat(sys.argv[1]).st_size == size > 0
    assert running.poll() is None
finally:
    running.kill()
    running.wait()
os.close(os.open(sys.argv[1], os.O_RDONLY | os.O_TRUNC))
assert os.stat(sys.argv[1]).st_size == 0
";
        python(program, &[&mount.path("program")]);
    });
}

#[test]
fn a_file_that_never_has_a_name_is_refused_as_unsupported() {
    on_each_tree(|mount| {
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        let refused = rustix::fs::openat(CWD, mount.path(""), flags, Mode::RWXU).unwrap_err();
        assert_eq!(refused, Errno::OPNOTSUPP);
        // What programs do then.
        let file = tempfile::tempfile_in(mount.path("")).unwrap();
        file.write_all_at(b"nameless", 0).unwrap();
        assert_eq!(fs::read_dir(mount.path("")).unwrap().count(), 0);
    });
}

#[test]
fn a_punched_hole_gives_room_back_and_reads_as_zeroes() {
    let mount = storage();
    let mut new = OpenOptions::new();
    let file = new.read(true).write(true).create_new(true).open(mount.path("f")).unwrap();
    file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let before = file.metadata().unwrap().blocks();
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 4096, 512 << 10).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), 1 << 20);
    assert!(metadata.blocks() < before, "{before} blocks, then {}", metadata.blocks());
    let bytes = fs::read(mount.path("f")).unwrap();
    let hole = 4096..4096 + (512 << 10);
    assert!(bytes[hole.clone()].iter().all(|byte| *byte == 0));
    assert!(bytes[..hole.start].iter().chain(&bytes[hole.end..]).all(|byte| *byte == 1));
}

#[test]
fn the_longest_names_and_the_deepest_trees_work() {
    on_each_tree(|mount| {
        fs::write(mount.path(&"n".repeat(255)), b"x").unwrap();
        let refused = fs::write(mount.path(&"n".repeat(256)), b"x").unwrap_err();
        assert_eq!(Errno::from_io_error(&refused), Some(Errno::NAMETOOLONG));
        let program = "
import os, sys
name = 'd' * 200
os.chdir(sys.argv[1])
for level in range(40):
    os.mkdir(name)
    os.chdir(name)
open('file', 'w').write('deep')
os.rename('file', 'renamed')
assert os.stat('renamed').st_size == 4 and os.listdir('.') == ['renamed']
os.remove('renamed')
for level in range(40):
    os.chdir('..')
    os.rmdir(name)
";
        python(program, &[Path::new(&mount.path(""))]);
    });
}
