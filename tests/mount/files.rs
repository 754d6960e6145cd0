//! Reading, writing and attributes of files.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use atelier::tree::local::LocalTree;

use super::{Mount, on_each_tree, python};

#[test]
fn what_is_written_is_read_back() {
    on_each_tree(|mount| {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        fs::write(mount.path("f"), &bytes).unwrap();
        assert_eq!(fs::read(mount.path("f")).unwrap(), bytes);
        assert_eq!(fs::metadata(mount.path("f")).unwrap().len(), 3_000_000);
        let file = File::open(mount.path("f")).unwrap();
        let mut piece = [0; 1000];
        file.read_exact_at(&mut piece, 1_234_567).unwrap();
        assert_eq!(piece[..], bytes[1_234_567..1_235_567]);
        assert_eq!(file.read_at(&mut piece, 3_000_000).unwrap(), 0);
        assert_eq!(file.read_at(&mut piece, 2_999_990).unwrap(), 10);
    });
}

#[test]
fn a_write_in_the_middle_changes_only_that() {
    on_each_tree(|mount| {
        fs::write(mount.path("f"), b"0123456789").unwrap();
        let mut file = OpenOptions::new().read(true).write(true).open(mount.path("f")).unwrap();
        file.write_all_at(b"xy", 4).unwrap();
        file.write_all_at(b"end", 12).unwrap();
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"0123xy6789\0\0end");
    });
}

#[test]
fn appended_bytes_go_to_the_end_from_every_descriptor() {
    on_each_tree(|mount| {
        let append = || OpenOptions::new().append(true).create(true).open(mount.path("f")).unwrap();
        let (mut one, mut two) = (append(), append());
        one.write_all(b"a").unwrap();
        two.write_all(b"b").unwrap();
        one.write_all(b"c").unwrap();
        assert_eq!(fs::read(mount.path("f")).unwrap(), b"abc");
    });
}

#[test]
fn a_file_is_cut_off_and_extended() {
    on_each_tree(|mount| {
        fs::write(mount.path("f"), b"0123456789").unwrap();
        let file = OpenOptions::new().write(true).open(mount.path("f")).unwrap();
        file.set_len(4).unwrap();
        assert_eq!(fs::read(mount.path("f")).unwrap(), b"0123");
        file.set_len(6).unwrap();
        assert_eq!(fs::read(mount.path("f")).unwrap(), b"0123\0\0");
        assert_eq!(file.metadata().unwrap().len(), 6);
        drop(File::create(mount.path("f")).unwrap());
        assert_eq!(fs::metadata(mount.path("f")).unwrap().len(), 0);
    });
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    on_each_tree(|mount| {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(mount.path("f"))
            .unwrap();
        file.write_all(b"still here").unwrap();
        fs::remove_file(mount.path("f")).unwrap();
        assert_eq!(fs::metadata(mount.path("f")).unwrap_err().raw_os_error(), Some(2));
        file.write_all(b"!").unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        file.set_len(5).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.nlink(), metadata.mode() & 0o777), (5, 0, 0o600));
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still");
        file.sync_all().unwrap();
        fs::write(mount.path("f"), b"another").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 5);
    });
}

#[test]
fn a_removed_file_that_nobody_uses_gives_its_room_back() {
    let mount = Mount::new(|dir| Arc::new(LocalTree::open(dir).unwrap()));
    let backing = mount.backing();
    fs::write(mount.path("f"), b"x").unwrap();
    fs::write(mount.path("g"), b"y").unwrap();
    fs::remove_file(mount.path("f")).unwrap();
    fs::write(mount.path("h"), b"z").unwrap();
    fs::rename(mount.path("h"), mount.path("g")).unwrap();
    let open = || {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        targets.filter(|target| target.starts_with(&backing) && *target != backing).count()
    };
    let start = Instant::now();
    while open() > 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "they stay open");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_replaced_file_lives_while_it_is_open() {
    on_each_tree(|mount| {
        fs::write(mount.path("old"), b"old").unwrap();
        fs::write(mount.path("new"), b"newer").unwrap();
        let mut old = File::open(mount.path("old")).unwrap();
        fs::rename(mount.path("new"), mount.path("old")).unwrap();
        assert_eq!(old.metadata().unwrap().len(), 3);
        let mut text = String::new();
        old.read_to_string(&mut text).unwrap();
        assert_eq!(text, "old");
        assert_eq!(fs::read(mount.path("old")).unwrap(), b"newer");
    });
}

#[test]
fn modes_and_times_are_kept() {
    on_each_tree(|mount| {
        let mut new = OpenOptions::new();
        let file = new.write(true).create_new(true).mode(0o666).open(mount.path("f")).unwrap();
        let umask = rustix::process::umask(rustix::fs::Mode::empty());
        rustix::process::umask(umask);
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o666 & !umask.bits());
        fs::set_permissions(mount.path("f"), fs::Permissions::from_mode(0o4711)).unwrap();
        assert_eq!(fs::metadata(mount.path("f")).unwrap().mode() & 0o7777, 0o4711);
        let then = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
        file.set_modified(then).unwrap();
        assert_eq!(fs::metadata(mount.path("f")).unwrap().modified().unwrap(), then);
        assert_eq!(fs::metadata(mount.path("f")).unwrap().mtime_nsec(), 123_456_789);
    });
}

#[test]
fn a_new_owner_takes_off_the_set_user_id_bit() {
    on_each_tree(|mount| {
        fs::write(mount.path("f"), b"").unwrap();
        fs::set_permissions(mount.path("f"), fs::Permissions::from_mode(0o4755)).unwrap();
        // Only root gives files away; an ordinary user may name himself again.
        let (uid, gid) = match rustix::process::geteuid() {
            root if root.is_root() => (12, 34),
            user => (user.as_raw(), rustix::process::getegid().as_raw()),
        };
        std::os::unix::fs::chown(mount.path("f"), Some(uid), Some(gid)).unwrap();
        let metadata = fs::metadata(mount.path("f")).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (uid, gid));
        assert_eq!(metadata.mode() & 0o7777, 0o755);
    });
}

#[test]
fn a_shared_mapping_reaches_the_file() {
    on_each_tree(|mount| {
        fs::write(mount.path("f"), vec![b'.'; 10_000]).unwrap();
        let program = "
import mmap, sys
with open(sys.argv[1], 'r+b') as f:
    m = mmap.mmap(f.fileno(), 0)
    m[5000:5005] = b'hello'
    assert m[9999:10000] == b'.'
    m.flush()
    m[0:2] = b'ab'
    m.close()
";
        python(program, &[&mount.path("f")]);
        let bytes = fs::read(mount.path("f")).unwrap();
        assert_eq!((&bytes[..3], &bytes[4999..5006]), (&b"ab."[..], &b".hello."[..]));
        assert_eq!(bytes.len(), 10_000);
    });
}

#[test]
fn holes_and_reserved_ranges_are_known() {
    on_each_tree(|mount| {
        let program = "
import errno, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.pwrite(fd, b'x' * 4096, 1 << 20)
size = (1 << 20) + 4096
assert os.lseek(fd, 1 << 20, os.SEEK_DATA) == 1 << 20
assert os.lseek(fd, 1 << 20, os.SEEK_HOLE) == size
try:
    os.lseek(fd, size, os.SEEK_DATA)
    raise SystemExit('there is data behind the end')
except OSError as e:
    assert e.errno == errno.ENXIO, e
os.posix_fallocate(fd, 0, 3 << 20)
assert os.fstat(fd).st_size == 3 << 20
assert not os.isatty(fd)
";
        python(program, &[&mount.path("f")]);
    });
}

#[test]
fn a_range_is_copied_between_files() {
    on_each_tree(|mount| {
        let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 253) as u8).collect();
        fs::write(mount.path("from"), &bytes).unwrap();
        let program = "
import os, sys
a = os.open(sys.argv[1], os.O_RDONLY)
b = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
done = 0
while n := os.copy_file_range(a, b, 1 << 30, 100 + done, done):
    done += n
print(done)
";
        let copied = python(program, &[&mount.path("from"), &mount.path("to")]);
        assert_eq!(copied.trim(), "4999900");
        assert!(fs::read(mount.path("to")).unwrap() == bytes[100..]);
    });
}

#[test]
fn unbuffered_reads_and_writes_work() {
    on_each_tree(|mount| {
        let program = "
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_DIRECT)
page = mmap.mmap(-1, 8192)
page[:] = b'q' * 8192
assert os.pwritev(fd, [page], 0) == 8192
page[:] = b'.' * 8192
assert os.preadv(fd, [page], 4096) == 4096
assert page[:4096] == b'q' * 4096
";
        python(program, &[&mount.path("f")]);
        assert_eq!(fs::read(mount.path("f")).unwrap(), vec![b'q'; 8192]);
    });
}

#[test]
fn extended_attributes_are_kept() {
    on_each_tree(|mount| {
        fs::write(mount.path("f"), b"").unwrap();
        let program = "
import errno, os, sys
f = sys.argv[1]
os.setxattr(f, 'user.one', b'1' * 300)
os.setxattr(f, 'user.two', b'')
assert sorted(os.listxattr(f)) == ['user.one', 'user.two'], os.listxattr(f)
assert os.getxattr(f, 'user.one') == b'1' * 300
assert os.getxattr(f, 'user.two') == b''
for flags, name, code in [(os.XATTR_CREATE, 'user.one', errno.EEXIST),
                          (os.XATTR_REPLACE, 'user.three', errno.ENODATA)]:
    try:
        os.setxattr(f, name, b'x', flags)
        raise SystemExit('set nevertheless')
    except OSError as e:
        assert e.errno == code, e
os.removexattr(f, 'user.two')
assert os.listxattr(f) == ['user.one']
try:
    os.getxattr(f, 'user.two')
    raise SystemExit('still there')
except OSError as e:
    assert e.errno == errno.ENODATA, e
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(10)
assert libc.getxattr(f.encode(), b'user.one', buffer, 10) == -1
assert ctypes.get_errno() == errno.ERANGE
assert libc.getxattr(f.encode(), b'user.one', None, 0) == 300
";
        python(program, &[&mount.path("f")]);
    });
}

#[test]
fn locks_work_within_the_mount() {
    on_each_tree(|mount| {
        let program = "
import fcntl, os, sys
f = open(sys.argv[1], 'w')
fcntl.flock(f, fcntl.LOCK_EX)
g = open(sys.argv[1], 'w')
try:
    fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB)
    raise SystemExit('locked twice')
except BlockingIOError:
    pass
fcntl.lockf(f, fcntl.LOCK_EX)
if os.fork() == 0:
    try:
        fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os._exit(1)
    except BlockingIOError:
        os._exit(0)
assert os.wait()[1] == 0
";
        python(program, &[&mount.path("f")]);
    });
}
