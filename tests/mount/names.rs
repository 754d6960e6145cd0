//! Names: renames, links, symbolic links and other nodes.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::{on_each_tree, python};

#[test]
fn a_renamed_directory_carries_its_open_descendants() {
    on_each_tree(|mount| {
        fs::create_dir_all(mount.path("a/b/c")).unwrap();
        fs::write(mount.path("a/b/c/f"), b"one").unwrap();
        let mut open = OpenOptions::new().append(true).open(mount.path("a/b/c/f")).unwrap();
        let inode = fs::metadata(mount.path("a/b/c/f")).unwrap().ino();
        fs::rename(mount.path("a"), mount.path("z")).unwrap();
        open.write_all(b" two").unwrap();
        assert_eq!(fs::read(mount.path("z/b/c/f")).unwrap(), b"one two");
        assert_eq!(fs::metadata(mount.path("z/b/c/f")).unwrap().ino(), inode);
        assert_eq!(open.metadata().unwrap().ino(), inode);
        assert_eq!(fs::metadata(mount.path("a")).unwrap_err().kind(), ErrorKind::NotFound);
        fs::create_dir_all(mount.path("other")).unwrap();
        fs::rename(mount.path("z/b"), mount.path("other/y")).unwrap();
        assert_eq!(fs::read(mount.path("other/y/c/f")).unwrap(), b"one two");
    });
}

#[test]
fn a_rename_can_refuse_or_swap() {
    on_each_tree(|mount| {
        fs::write(mount.path("a"), b"A").unwrap();
        fs::create_dir(mount.path("d")).unwrap();
        fs::write(mount.path("d/b"), b"B").unwrap();
        let rename = |flags| {
            let here = rustix::fs::CWD;
            rustix::fs::renameat_with(here, mount.path("a"), here, mount.path("d/b"), flags)
        };
        assert_eq!(rename(rustix::fs::RenameFlags::NOREPLACE), Err(rustix::io::Errno::EXIST));
        rename(rustix::fs::RenameFlags::EXCHANGE).unwrap();
        assert_eq!(fs::read(mount.path("a")).unwrap(), b"B");
        assert_eq!(fs::read(mount.path("d/b")).unwrap(), b"A");
        rename(rustix::fs::RenameFlags::empty()).unwrap();
        assert_eq!(fs::read(mount.path("d/b")).unwrap(), b"B");
    });
}

#[test]
fn names_of_one_file_agree() {
    on_each_tree(|mount| {
        fs::write(mount.path("a"), b"x").unwrap();
        fs::hard_link(mount.path("a"), mount.path("b")).unwrap();
        let (a, b) = (|| fs::metadata(mount.path("a")), || fs::metadata(mount.path("b")));
        assert_eq!(a().unwrap().ino(), b().unwrap().ino());
        assert_eq!((a().unwrap().nlink(), b().unwrap().nlink()), (2, 2));
        fs::write(mount.path("b"), b"longer").unwrap();
        assert_eq!((a().unwrap().len(), b().unwrap().len()), (6, 6));
        assert_eq!(fs::read(mount.path("a")).unwrap(), b"longer");
        fs::remove_file(mount.path("a")).unwrap();
        assert_eq!(b().unwrap().nlink(), 1);
        fs::rename(mount.path("b"), mount.path("c")).unwrap();
        assert_eq!(fs::read(mount.path("c")).unwrap(), b"longer");
    });
}

#[test]
fn a_symbolic_link_leads_where_it_says() {
    on_each_tree(|mount| {
        fs::create_dir(mount.path("d")).unwrap();
        fs::write(mount.path("d/f"), b"x").unwrap();
        std::os::unix::fs::symlink("d/f", mount.path("l")).unwrap();
        assert_eq!(fs::read_link(mount.path("l")).unwrap().to_str(), Some("d/f"));
        assert_eq!(fs::read(mount.path("l")).unwrap(), b"x");
        assert!(fs::symlink_metadata(mount.path("l")).unwrap().is_symlink());
        fs::remove_file(mount.path("l")).unwrap();
        assert_eq!(fs::read(mount.path("d/f")).unwrap(), b"x");
    });
}

#[test]
fn other_nodes_can_be_made() {
    on_each_tree(|mount| {
        let program = "
import os, socket, sys
os.mkfifo(sys.argv[1] + '/fifo', 0o600)
s = socket.socket(socket.AF_UNIX)
os.chdir(sys.argv[1])
s.bind('socket')
";
        python(program, &[&mount.path("")]);
        assert!(fs::metadata(mount.path("fifo")).unwrap().file_type().is_fifo());
        assert!(fs::metadata(mount.path("socket")).unwrap().file_type().is_socket());
    });
}

#[test]
fn errors_are_the_right_ones() {
    on_each_tree(|mount| {
        fs::create_dir(mount.path("d")).unwrap();
        fs::write(mount.path("d/f"), b"x").unwrap();
        let code = |error: std::io::Error| error.raw_os_error().unwrap();
        assert_eq!(code(File::open(mount.path("none")).unwrap_err()), 2);
        assert_eq!(code(fs::create_dir(mount.path("d")).unwrap_err()), 17);
        assert_eq!(code(fs::remove_dir(mount.path("d")).unwrap_err()), 39);
        assert_eq!(code(fs::remove_file(mount.path("d")).unwrap_err()), 21);
        assert_eq!(code(fs::read_dir(mount.path("d/f")).unwrap_err()), 20);
        assert_eq!(code(File::create_new(mount.path("d/f")).unwrap_err()), 17);
        fs::create_dir(mount.path("e")).unwrap();
        assert_eq!(code(fs::rename(mount.path("d/f"), mount.path("e")).unwrap_err()), 21);
        assert_eq!(code(fs::rename(mount.path("e"), mount.path("d/f")).unwrap_err()), 20);
        assert_eq!(code(fs::rename(mount.path("e"), mount.path("d")).unwrap_err()), 39);
    });
}

#[test]
fn a_name_of_any_bytes_works() {
    on_each_tree(|mount| {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let name = mount.path("").join(OsStr::from_bytes(b"\xff \n\\\xc3\xa4"));
        fs::write(&name, b"x").unwrap();
        let mut text = String::new();
        File::open(&name).unwrap().read_to_string(&mut text).unwrap();
        let listed: Vec<_> =
            fs::read_dir(mount.path("")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!((text.as_str(), listed), ("x", vec![name]));
    });
}

#[test]
fn who_stands_in_a_directory_does_not_see_it_move() {
    use rustix::fs::{Mode, OFlags};
    on_each_tree(|mount| {
        fs::create_dir_all(mount.path("a/inner")).unwrap();
        fs::create_dir(mount.path("other")).unwrap();
        fs::write(mount.path("a/inner/f"), b"x").unwrap();
        let inner = File::open(mount.path("a/inner")).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mover = scope.spawn(|| {
                for _ in 0..300 {
                    fs::rename(mount.path("a"), mount.path("other/b")).unwrap();
                    fs::rename(mount.path("other/b"), mount.path("a")).unwrap();
                }
                done.store(true, std::sync::atomic::Ordering::Release);
            });
            while !done.load(std::sync::atomic::Ordering::Acquire) && !mover.is_finished() {
                rustix::fs::openat(&inner, "f", OFlags::RDONLY, Mode::empty()).unwrap();
                let new = rustix::fs::openat(
                    &inner,
                    "g",
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY,
                    Mode::RUSR,
                );
                drop(new.unwrap());
                rustix::fs::unlinkat(&inner, "g", rustix::fs::AtFlags::empty()).unwrap();
                let listed = rustix::fs::Dir::read_from(&inner).unwrap();
                assert_eq!(listed.map(Result::unwrap).count(), 3);
            }
        });
    });
}
