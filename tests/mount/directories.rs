//! Listings of directories.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::{Mount, on_each_tree, python};

#[test]
fn a_large_directory_lists_each_name_once() {
    on_each_tree(|mount| {
        for n in 0..10_000 {
            fs::write(mount.path(&format!("file-{n:05}")), b"").unwrap();
        }
        let names: Vec<_> = names(mount);
        assert_eq!(names.len(), 10_000);
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 10_000);
    });
}

#[test]
fn a_directory_can_be_emptied_while_it_is_listed() {
    on_each_tree(|mount| {
        for n in 0..3_000 {
            fs::write(mount.path(&format!("{n}")), b"").unwrap();
        }
        for entry in fs::read_dir(mount.path("")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        assert_eq!(names(mount), Vec::<String>::new());
    });
}

#[test]
fn a_listing_gives_the_inodes_that_stat_gives() {
    on_each_tree(|mount| {
        fs::create_dir(mount.path("d")).unwrap();
        fs::write(mount.path("d/f"), b"").unwrap();
        let program = "
import os, sys
d = sys.argv[1]
listed = {e.name: e.inode() for e in os.scandir(d)}
assert listed == {'f': os.stat(d + '/f').st_ino}, listed
";
        python(program, &[&mount.path("d")]);
        assert_eq!(
            fs::metadata(mount.path("d/..")).unwrap().ino(),
            fs::metadata(mount.path("")).unwrap().ino()
        );
    });
}

#[test]
fn a_position_in_a_listing_stays_valid() {
    on_each_tree(|mount| {
        for n in 0..1_000 {
            fs::write(mount.path(&format!("{n}")), b"").unwrap();
        }
        let program = "
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.opendir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
class Dirent(ctypes.Structure):
    _fields_ = [('ino', ctypes.c_ulong), ('off', ctypes.c_long), ('len', ctypes.c_ushort),
                ('type', ctypes.c_ubyte), ('name', ctypes.c_char * 256)]
libc.readdir.restype = ctypes.POINTER(Dirent)
d = ctypes.c_void_p(libc.opendir(sys.argv[1].encode()))
places = []
while True:
    place = libc.telldir(d)
    entry = libc.readdir(d)
    if not entry: break
    places.append((place, entry.contents.name))
assert len(places) == 1002, len(places)
os.unlink(sys.argv[1] + '/7')
for place, name in places[::-37]:
    if name == b'7': continue
    libc.seekdir(d, ctypes.c_long(place))
    assert libc.readdir(d).contents.name == name
open(sys.argv[1] + '/new', 'w').close()
libc.rewinddir(d)
names = []
while True:
    entry = libc.readdir(d)
    if not entry: break
    names.append(entry.contents.name)
assert len(names) == len(set(names)) == 1002 and b'new' in names and b'7' not in names
";
        python(program, &[&mount.path("")]);
    });
}

#[test]
fn a_removed_directory_has_nothing_for_who_is_in_it() {
    on_each_tree(|mount| {
        fs::create_dir(mount.path("d")).unwrap();
        let program = "
import os, sys
os.chdir(sys.argv[1])
fd = os.open('.', os.O_RDONLY)
os.rmdir(sys.argv[1])
assert os.stat('.').st_nlink == 0
assert os.listdir(fd) == []
try:
    open('x', 'w')
    raise SystemExit('made in a directory that is gone')
except FileNotFoundError:
    pass
";
        python(program, &[&mount.path("d")]);
    });
}

#[test]
fn room_is_told() {
    on_each_tree(|mount| {
        let room = rustix::fs::statvfs(mount.path("")).unwrap();
        assert!(
            room.f_blocks > 0 && room.f_bavail <= room.f_bfree && room.f_bfree <= room.f_blocks
        );
    });
}

fn names(mount: &Mount) -> Vec<String> {
    fs::read_dir(mount.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}
