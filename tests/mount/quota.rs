//! A limited tree, as programs meet it: `df` is right, and a full one takes again what was removed.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use rustix::io::Errno;

use super::{Mount, limited, python};
use crate::support::place::until;

const MIB: usize = 1 << 20;

/// How much there is and how much is free, in bytes, as `df` has it.
fn df(mount: &Mount) -> (u64, u64) {
    let space = rustix::fs::statvfs(mount.path("")).unwrap();
    (space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize)
}

fn is_full(error: &std::io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NOSPC)
}

#[test]
fn a_mount_holds_what_it_may_and_not_a_byte_more() {
    let mount = limited(8 << 20);
    assert_eq!(df(&mount), (8 << 20, 8 << 20));
    fs::write(mount.path("file"), vec![1; 8 * MIB]).unwrap();
    assert_eq!(df(&mount), (8 << 20, 0));
    let mut more = File::options().append(true).open(mount.path("file")).unwrap();
    assert!(is_full(&more.write_all(b"x").unwrap_err()));
    assert!(is_full(&fs::write(mount.path("other"), b"x").unwrap_err()));
    assert_eq!(fs::read(mount.path("file")).unwrap(), vec![1; 8 * MIB]);
    more.write_at(b"y", 0).unwrap_err();
    File::options().write(true).open(mount.path("file")).unwrap().write_at(b"y", 0).unwrap();
    assert_eq!(fs::read(mount.path("file")).unwrap()[..2], *b"y\x01");
}

#[test]
fn what_is_removed_makes_room_at_once() {
    let mount = limited(4 << 20);
    for round in 0..40_u8 {
        let (file, other) = (mount.path("file"), mount.path("other"));
        fs::write(&file, vec![round; 4 * MIB]).unwrap_or_else(|error| panic!("{round}: {error}"));
        match round % 3 {
            0 => fs::remove_file(&file).unwrap(),
            1 => {
                File::create(&other).unwrap();
                fs::rename(&other, &file).unwrap();
            }
            // Emptied when it is opened again.
            _ => {}
        }
    }
}

#[test]
fn an_open_file_without_a_name_keeps_its_room() {
    let mount = limited(4 << 20);
    let file = mount.path("file");
    fs::write(&file, vec![1; 4 * MIB]).unwrap();
    let open = File::open(&file).unwrap();
    fs::remove_file(&file).unwrap();
    assert!(is_full(&fs::write(mount.path("other"), b"x").unwrap_err()));
    let mut byte = [0];
    open.read_exact_at(&mut byte, 4 * MIB as u64 - 1).unwrap();
    assert_eq!((byte, df(&mount).1), ([1], 0));
    drop(open);
    fs::write(mount.path("other"), vec![2; 4 * MIB]).unwrap();
}

/// Four who write, cut, replace and remove the same few files, often without room for it.
#[test]
fn of_many_who_change_files_at_once_nothing_stays_counted() {
    const LIMIT: u64 = 256 << 10;
    let mount = limited(LIMIT);
    let name = |n: usize| mount.path(&format!("file-{}", n % 6));
    std::thread::scope(|scope| {
        for worker in 0..4_usize {
            let name = &name;
            scope.spawn(move || {
                for round in 0..80_usize {
                    let n = worker * 31 + round * 7;
                    // It may fail: there is no room, or another has taken the file away.
                    let _ = match round % 5 {
                        0 | 1 => fs::write(name(n), vec![1; (n * 4099) % (96 << 10)]),
                        2 => fs::rename(name(n), name(n + 1 + round % 4)),
                        3 => fs::remove_file(name(n)),
                        _ => File::options()
                            .write(true)
                            .open(name(n))
                            .and_then(|file| file.set_len(((n * 2053) % (64 << 10)) as u64)),
                    };
                }
            });
        }
    });
    let used = || {
        let sizes = fs::read_dir(mount.backing()).unwrap().map(|entry| entry.unwrap().metadata());
        sizes.map(|metadata| metadata.unwrap().len()).sum::<u64>()
    };
    assert!(used() <= LIMIT);
    until("what is closed is given back", || {
        // The room is told in blocks.
        let counted = LIMIT - df(&mount).1;
        counted >= used() && counted - used() < 8192
    });
    for n in 0..6 {
        let _ = fs::remove_file(name(n));
    }
    until("all is free again", || df(&mount).1 == LIMIT);
}

#[test]
fn a_map_of_a_file_never_runs_out_of_room() {
    let mount = limited(4 << 20);
    python(
        "import mmap, os, sys\n\
         f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n\
         os.ftruncate(f, 4 << 20)\n\
         try: os.ftruncate(f, (4 << 20) + 1)\n\
         except OSError as e: assert e.errno == 28, e\n\
         else: raise SystemExit('it grew')\n\
         m = mmap.mmap(f, 4 << 20)\n\
         m[:] = b'm' * (4 << 20)\n\
         m.flush()\n",
        &[&mount.path("mapped")],
    );
    assert_eq!(fs::read(mount.backing().join("mapped")).unwrap(), vec![b'm'; 4 * MIB]);
}
