//! Another process that wants what the one that serves a mount knows, or what it keeps.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use rustix::process::{Signal, kill_process};

use super::{DEVELOPER, NOBODY, PATH, succeeds};
use crate::support::home::Home;
use crate::support::place::Place;
use crate::support::root;

/// Tries all ways into a process, and prints those that were open.
const BREAK_IN: &str = r#"
import ctypes, os, sys
pid = int(sys.argv[1])
for name in ["mem", "environ", "maps", "auxv", "pagemap", "fd", "map_files"]:
    try:
        path = f"/proc/{pid}/{name}"
        if os.path.isdir(path): os.listdir(path)
        else: open(path, "rb").read(1) if name != "mem" else open(path, "rb+")
        print(name)
    except PermissionError: pass
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17
if libc.ptrace(PTRACE_SEIZE, pid, None, None) == 0:
    print("ptrace")
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]
mine, his = Part(ctypes.addressof(ctypes.create_string_buffer(8)), 8), Part(0x400000, 8)
if libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(his), 1, 0) >= 0 or ctypes.get_errno() == 14:
    print("process_vm_readv")
"#;

/// What an ordinary user does to his mount, and to another process, which is to be open.
const BY_ITS_USER: &str = r#"
    "$0" mount lab/cats/tabby "$1"
    trap '"$0" unmount "$1"' EXIT
    sleep 60 & other=$!
    served=$("$0" status "$1" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["report"]["pid"])')
    echo "open of another: $(python3 -c "$2" $other | tr '\n' ' ')"
    echo "open of the mount: $(python3 -c "$2" $served | tr '\n' ' ')"
    kill $other
"#;

#[test]
fn a_process_of_the_same_user_that_wants_its_memory_finds_every_way_closed() {
    if !root::is_here() {
        return;
    }
    let place = Place::new();
    let home = &place.home;
    let user = NOBODY.to_string();
    succeeds(home.program("chown", ["-R", &user, "."]).output().unwrap());
    let open = "mknod -m 666 fuse c 10 229 && mount --bind fuse /dev/fuse && exec \"$@\"";
    let words = ["--mount", "sh", "-c", open, "sh", "setpriv", "--reuid", &user, "--regid", &user];
    let words = words.into_iter().chain(["--clear-groups", "sh", "-ec", BY_ITS_USER]);
    let words = words.chain([env!("CARGO_BIN_EXE_atelier"), place.dir(), BREAK_IN]);
    let said = succeeds(home.program("unshare", words).env("PATH", PATH).output().unwrap());
    let open = |of: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(&format!("open of {of}: ")));
        line.unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    // Else nothing would be tried.
    assert!(open("another").contains(&"environ".to_owned()), "{said}");
    assert_eq!(open("the mount"), [""; 0], "{said}");
}

#[test]
fn who_wants_a_core_gets_none_however_it_ends() {
    let place = Place::new();
    let mut child = place.foreground();
    let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().next(), Some("0"), "{limits}");
    kill_process(rustix::process::Pid::from_child(&child), Signal::ABORT).unwrap();
    let ended = child.wait().unwrap();
    assert_eq!(ended.signal(), Some(6));
    assert!(!ended.core_dumped());
}

/// An editor that writes down how much memory the process that called it has locked.
const NOTES_LOCKED: &str = "#!/bin/sh\np=$PPID\n\
    while [ \"$(cat /proc/$p/comm)\" != atelier ]; do\n\
    \x20 p=$(sed -n 's/^PPid:[^0-9]*//p' /proc/$p/status)\ndone\n\
    sed -n 's/^VmLck:[^0-9]*//p' /proc/$p/status >> locked\n";

#[test]
fn who_wants_keys_out_of_the_swap_space_finds_their_memory_locked_as_far_as_may_be() {
    let home = Home::with_project();
    fs::write(home.path("editor"), NOTES_LOCKED).unwrap();
    fs::set_permissions(home.path("editor"), Permissions::from_mode(0o755)).unwrap();
    let script = "printf hunter2 | \"$0\" secret set TOKEN && VISUAL=./editor \"$0\" secret edit && \
                  \"$0\" run -- printenv TOKEN";
    let atelier = env!("CARGO_BIN_EXE_atelier");
    let said = succeeds(home.program("sh", ["-ec", script, atelier]).output().unwrap());
    assert_eq!(said, "hunter2\n");
    let locked = || fs::read_to_string(home.path("locked")).unwrap();
    let kib: u64 = locked().split(' ').next().unwrap().parse().unwrap();
    // A page for each of a few keys and values, that is; not all there is.
    assert!((4..=1024).contains(&kib), "{kib}");

    if !root::is_here() {
        return;
    }
    // Who may lock nothing is served all the same.
    let user = NOBODY.to_string();
    succeeds(home.program("chown", ["-R", &user, "."]).output().unwrap());
    let words = ["--reuid", &user, "--regid", &user, "--clear-groups", "sh", "-ec"];
    let script = format!("ulimit -l 0; {script}");
    let words = words.into_iter().chain([script.as_str(), atelier]);
    let said = succeeds(home.program("setpriv", words).env("PATH", PATH).output().unwrap());
    assert_eq!(said, "hunter2\n");
    assert!(locked().ends_with("\n0 kB\n"), "{}", locked());
}

#[test]
fn a_program_that_wants_what_it_has_open_inherits_nothing() {
    let place = Place::new();
    fs::create_dir(place.home.path("photos")).unwrap();
    fs::write(place.home.path("photos/cat.txt"), "a cat").unwrap();
    place.home.ok(["dataset", "create", "photos", "photos"]);
    place.mount();
    let _open = fs::File::open(place.dir.join("datasets/photos/cat.txt")).unwrap();
    let _made = fs::File::create(place.dir.join("files/new")).unwrap();
    let process = place.server().as_raw_nonzero();
    let mut checked = 0;
    for entry in fs::read_dir(format!("/proc/{process}/fdinfo")).unwrap() {
        let entry = entry.unwrap();
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        // One that was closed meanwhile; or that whoever runs the tests left open for all.
        let Ok(told) = fs::read_to_string(entry.path()) else { continue };
        let inherited = fs::read_link(format!("/proc/self/fd/{number}")).ok();
        if number <= 2 || inherited == fs::read_link(format!("/proc/{process}/fd/{number}")).ok() {
            continue;
        }
        let flags = told.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
        let file = fs::read_link(format!("/proc/{process}/fd/{number}"));
        assert!(flags & rustix::fs::OFlags::CLOEXEC.bits() != 0, "{number} is {file:?}");
        checked += 1;
    }
    assert!(checked >= 5, "{checked}");
}

#[test]
fn who_wants_to_read_the_home_finds_nothing_open_to_others_whatever_the_umask() {
    let place = Place::of(Home::empty());
    let home = &place.home;
    fs::create_dir(home.path("photos")).unwrap();
    fs::write(home.path("photos/cat.txt"), "a cat").unwrap();
    fs::write(
        home.path("note.ipynb"),
        r#"{"cells":[],"metadata":{},"nbformat":4,"nbformat_minor":5}"#,
    )
    .unwrap();
    let script = "umask 0; \"$0\" init && \"$0\" org create lab && \"$0\" community create lab/cats && \
                  \"$0\" project create lab/cats/tabby && \"$0\" dataset create photos photos && \
                  printf hunter2 | \"$0\" secret set TOKEN && \"$0\" mount lab/cats/tabby \"$1\" && \
                  cp note.ipynb \"$1/files/\" && cat \"$1/datasets/photos/cat.txt\" && \
                  \"$0\" checkpoint create --notebook files/note.ipynb && \
                  \"$0\" dataset export photos out && \"$0\" run -- touch by-command";
    let words = ["-ec", script, env!("CARGO_BIN_EXE_atelier"), place.dir()];
    succeeds(home.program("sh", words).output().unwrap());
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o777;
    let mut seen = 0;
    for entry in walkdir::WalkDir::new(home.atelier()) {
        let path = entry.unwrap().into_path();
        // What is in a project's storage has the modes that its users give it.
        if !path.components().any(|part| part.as_os_str() == "files") {
            assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
    // What is made outside of it is made as its user wants it.
    assert_eq!((mode(&home.path("by-command")), mode(&home.path("out"))), (0o666, 0o777));
}

#[test]
fn a_command_that_wants_its_user_s_limits_gets_them() {
    let home = Home::with_project();
    let script = "ulimit -c unlimited; umask 027; exec \"$0\" run -- sh -c 'ulimit -c; umask'";
    let words = ["-ec", script, env!("CARGO_BIN_EXE_atelier")];
    let said = succeeds(home.program("sh", words).output().unwrap());
    assert_eq!(said, "unlimited\n0027\n");
}

#[test]
fn who_wants_to_write_to_a_home_makes_it_unusable_not_unsafe() {
    let home = Home::with_project();
    fs::set_permissions(home.atelier(), Permissions::from_mode(0o777)).unwrap();
    let place = home.path("place");
    fs::create_dir(&place).unwrap();
    let mount = ["mount", place.to_str().unwrap()];
    for words in [&["project", "list"][..], &["dataset", "list"], &mount] {
        let error = home.fails(words);
        assert!(
            error.contains("can be written by others") && error.contains("chmod 700"),
            "{error}"
        );
    }
    fs::set_permissions(home.atelier(), Permissions::from_mode(0o700)).unwrap();
    home.ok(["project", "list"]);
    let above = home.atelier().parent().unwrap().to_owned();
    fs::set_permissions(above, Permissions::from_mode(0o777)).unwrap();
    let error = home.fails(["project", "list"]);
    assert!(error.contains("put another home in the place of"), "{error}");
}

#[test]
fn a_user_who_wants_root_to_use_his_home_is_refused() {
    if !root::is_here() {
        return;
    }
    let home = Home::with_project();
    let user = DEVELOPER.to_string();
    succeeds(home.program("chown", ["-R", &user, ".local"]).output().unwrap());
    let error = home.fails(["project", "list"]);
    assert!(error.contains(&format!("belongs to uid {user}, not to 0")), "{error}");
}
