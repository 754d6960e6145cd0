//! `atelier mount` and `atelier unmount`, as users and mount(8) call them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use atelier::fuse::mounts;
use rustix::process::{Pid, Signal};

use crate::support::place::{Place, until};

#[test]
fn a_project_is_mounted_when_the_command_returns() {
    let place = Place::new();
    let said = place.home.run(["mount", place.dir()]);
    assert_eq!((said.code, said.stdout.as_str()), (0, ""));
    assert!(said.stderr.starts_with("lab/cats/tabby is mounted on /"), "{}", said.stderr);
    fs::write(place.dir.join("files/note"), b"kept").unwrap();
    let mounted = mounts::at(&place.dir).unwrap().unwrap();
    assert_eq!((mounted.source.as_str(), mounted.is_ours()), ("lab/cats/tabby", true));
    let server = place.server();
    // The process is closed to other processes of its user; only root looks in.
    if rustix::process::geteuid().is_root() {
        assert_eq!(fs::read_link(process(server).join("cwd")).unwrap(), Path::new("/"));
        for descriptor in 0..2 {
            let open = fs::read_link(process(server).join(format!("fd/{descriptor}"))).unwrap();
            assert_eq!(open, Path::new("/dev/null"));
        }
    } else {
        assert!(fs::read_link(process(server).join("cwd")).is_err());
    }
    place.home.ok(["unmount", place.dir()]);
    assert!(!place.is_mounted());
    until("the process ends", || !process(server).exists());
    place.mount();
    assert_eq!(fs::read(place.dir.join("files/note")).unwrap(), b"kept");
}

#[test]
fn a_relative_directory_is_meant_from_here() {
    let place = Place::new();
    place.home.ok(["mount", "lab/cats/tabby", "my project/../my project/."]);
    assert!(place.dir.join("files").is_dir());
    place.home.ok(["unmount", "my project"]);
    assert!(!place.is_mounted());
}

#[test]
fn a_place_that_will_not_do_is_named_with_a_remedy() {
    let place = Place::new();
    let said = |dir: &str| place.home.fails(["mount", dir]);
    assert!(said("none").contains("hint: make it with `mkdir -p none`"));
    fs::write(place.home.path("file"), b"").unwrap();
    assert!(said("file").contains("isn't a directory"));
    assert!(said("my project/..").contains("isn't empty"));
    place.mount();
    let said = said(place.dir());
    assert!(said.contains("lab/cats/tabby is mounted on") && said.contains("already"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn what_is_wrong_is_known_before_the_command_returns() {
    let place = Place::new();
    let ended = place.home.run(["mount", "lab/cats/none", place.dir()]);
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.starts_with("error: "), "{}", ended.stderr);
    let ended = place.home.run(["mount", "-o", "ro,sped", place.dir()]);
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("mount option sped isn't known"), "{}", ended.stderr);
    assert!(!place.is_mounted());
}

#[test]
fn a_mount_whose_process_was_killed_is_taken_away_by_the_next() {
    let place = Place::new();
    place.mount();
    fs::write(place.dir.join("files/note"), b"kept").unwrap();
    let server = place.server();
    rustix::process::kill_process(server, Signal::KILL).unwrap();
    until("the mount is dead", || {
        fs::metadata(&place.dir).is_err_and(|error| error.raw_os_error() == Some(107))
    });
    let said = place.home.run(["mount", place.dir()]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stderr.contains("whose process had died"), "{}", said.stderr);
    assert_eq!(fs::read(place.dir.join("files/note")).unwrap(), b"kept");
    let here = |mounted: &mounts::Mounted| mounted.mount_point == place.dir;
    assert_eq!(mounts::all().unwrap().iter().filter(|mounted| here(mounted)).count(), 1);
}

/// Also when the kernel has forgotten what is inside it, and nobody can be asked.
#[test]
fn a_mount_whose_process_was_killed_is_unmounted_as_any_other() {
    let place = Place::new();
    place.mount();
    rustix::process::kill_process(place.server(), Signal::KILL).unwrap();
    until("what is inside is forgotten", || {
        let inside = fs::symlink_metadata(place.dir.join("s3"));
        inside.is_err_and(|error| error.raw_os_error() == Some(107))
    });
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(place.home.ok(["unmount", place.dir()]), "");
    let here = |mounted: &mounts::Mounted| mounted.mount_point.starts_with(&place.dir);
    assert!(!mounts::all().unwrap().iter().any(here));
}

#[test]
fn a_signal_unmounts() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let place = Place::new();
        let mut child = place.foreground();
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(ended(&mut child).code(), Some(0));
        assert!(!place.is_mounted());
    }
}

#[test]
fn a_signal_takes_a_mount_in_use_away_and_its_user_goes_on() {
    let place = Place::new();
    let mut child = place.foreground();
    fs::write(place.dir.join("files/note"), b"still readable").unwrap();
    let file = File::open(place.dir.join("files/note")).unwrap();
    rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    until("it is taken away", || !place.is_mounted());
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none());
    assert_eq!(std::io::read_to_string(&file).unwrap(), "still readable");
    drop(file);
    assert_eq!(ended(&mut child).code(), Some(0));
}

#[test]
fn a_mount_that_is_taken_away_by_umount_ends_its_process_well() {
    let place = Place::new();
    let mut child = place.foreground();
    // Recursively, since versions have mounts of their own inside.
    // What is inside may be mounted only now, which keeps the rest busy.
    until("it is taken away", || {
        Command::new("umount").arg("-R").arg(&place.dir).status().unwrap().success()
    });
    assert_eq!(ended(&mut child).code(), Some(0));
}

#[test]
fn unmount_names_who_uses_the_mount() {
    let place = Place::new();
    place.mount();
    let mut user = Command::new("sleep").arg("60").current_dir(place.dir.join("files")).spawn();
    let user = user.as_mut().unwrap();
    let said = place.home.fails(["unmount", place.dir()]);
    assert!(said.contains(&format!("is in use by sleep ({})", user.id())), "{said}");
    assert!(place.is_mounted());
    place.home.ok(["unmount", "--lazy", place.dir()]);
    assert!(!place.is_mounted());
    user.kill().unwrap();
    user.wait().unwrap();
    let said = place.home.fails(["unmount", place.dir()]);
    assert!(said.contains("no project is mounted on"), "{said}");
}

#[test]
fn mount_8_finds_its_helper() {
    let place = Place::new();
    let helper = place.home.path("mount.atelier");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_atelier"), &helper).unwrap();
    let options =
        format!("ro,nodev,x-systemd.automount,as=ada,home={}", place.home.atelier().display());
    let elsewhere = tempfile::tempdir().unwrap();
    let call = |more: &[&str]| {
        let mut arguments = vec!["lab/cats/tabby", place.dir(), "-o", &options];
        arguments.extend(more);
        // Another user's home and name: only the options tell.
        let mut command = place.home.program(&helper, arguments);
        let output =
            command.env("ATELIER_USER", "bob").env("HOME", elsewhere.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    call(&["-f"]);
    assert!(!place.is_mounted());
    call(&["-sn"]);
    let refused = fs::write(place.dir.join("files/note"), b"").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(30));
}

fn process(pid: Pid) -> PathBuf {
    Path::new("/proc").join(pid.as_raw_nonzero().to_string())
}

/// Waits for a process to end; one that doesn't is killed and fails the test.
fn ended(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the process didn't end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
