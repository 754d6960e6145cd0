//! Somebody who wants to get at a mount through its control socket, or to stop it by that.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{PATH, STRANGER};
use crate::support::place::Place;
use crate::support::root;

/// The socket of the only mount of a home.
fn socket(place: &Place) -> PathBuf {
    let mut names = fs::read_dir(place.home.atelier().join("run")).unwrap();
    names.next().unwrap().unwrap().path()
}

/// A figure of the process that serves, in KiB.
fn kib(place: &Place, figure: &str) -> u64 {
    let process = place.server().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(figure)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

/// Says something and hears what comes back; being cut off is an answer, too.
fn say(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    String::from_utf8(heard).unwrap()
}

fn answers(place: &Place) -> bool {
    place.home.json(["status", place.dir()])["report"]["pid"].is_u64()
}

#[test]
fn who_wants_it_to_break_by_ten_thousand_malformed_requests_gets_refusals() {
    let place = Place::new();
    place.mount();
    let socket = socket(&place);
    assert!(answers(&place));
    let idle = kib(&place, "VmRSS:");
    let mut noise = vec![0; 4096];
    getrandom::fill(&mut noise).unwrap();
    let deep = b"[".repeat(4000);
    let said: [&[u8]; 8] = [
        b"",
        b"\n",
        b"{\"version\":1,\"requ",
        b"\xff\xff\xff\xff\xff\xff\xff\xff{\"version\":1,\"request\":\"status\"}",
        b"{\"version\":18446744073709551616,\"request\":\"status\"}\n",
        b"{\"version\":1,\"request\":{\"status\":\"status\"}}\n",
        &deep,
        &noise,
    ];
    for at in 0..10_000 {
        let heard = say(&socket, said[at % said.len()]);
        assert!(heard.is_empty() || heard.contains("\"error\""), "{heard}");
    }
    let most = kib(&place, "VmHWM:");
    assert!(most < idle + (64 << 10), "{most} KiB, and {idle} KiB before");
    assert!(answers(&place));
    let log = fs::read_to_string(place.home.atelier().join("log/mount.log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn who_wants_it_to_hold_a_line_of_a_gibibyte_is_cut_off_early() {
    let place = Place::new();
    place.mount();
    let socket = socket(&place);
    assert!(answers(&place));
    let idle = kib(&place, "VmRSS:");
    let mut stream = UnixStream::connect(&socket).unwrap();
    let piece = vec![b'a'; 1 << 20];
    let taken = (0..1024).take_while(|_| stream.write_all(&piece).is_ok()).count();
    assert!(taken < 16, "it took {taken} MiB");
    assert!(kib(&place, "VmHWM:") < idle + (64 << 10));
    assert!(answers(&place));
}

#[test]
fn who_wants_all_its_places_and_says_nothing_loses_them() {
    let place = Place::new();
    place.mount();
    let socket = socket(&place);
    let files = || {
        let process = place.server().as_raw_nonzero();
        fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
    };
    let before = files();
    let silent: Vec<_> = (0..1000).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    // Those that are heard last a few seconds; the others were cut off, so that files stay open.
    assert!(files() < before + 100);
    assert!(fs::read_dir(place.dir.join("files")).is_ok());
    drop(silent);
    crate::support::place::until("it answers again", || {
        place.home.json(["status", place.dir()])["report"].is_object()
    });
}

#[test]
fn another_user_who_wants_to_ask_is_not_heard_even_where_modes_let_him() {
    if !root::is_here() {
        return;
    }
    let place = Place::new();
    place.mount();
    let socket = socket(&place);
    let id = STRANGER.to_string();
    let ask = "import socket, sys\n\
               s = socket.socket(socket.AF_UNIX)\n\
               s.connect(sys.argv[1])\n\
               try:\n    s.sendall(b'{\"version\":1,\"request\":\"status\"}\\n')\n    \
               print(s.recv(9999))\nexcept OSError:\n    print(b'')\n";
    let asked = || {
        let words = ["--reuid", &id, "--regid", &id, "--clear-groups", "python3", "-c", ask];
        let mut program = place.home.program("setpriv", words);
        program.arg(&socket).current_dir("/").env("PATH", PATH).output().unwrap()
    };
    let refused = asked();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("PermissionError"), "{refused:?}");
    // However the way was opened.
    let mut dir = socket.as_path();
    fs::set_permissions(dir, Permissions::from_mode(0o777)).unwrap();
    while dir != place.home.path("") {
        dir = dir.parent().unwrap();
        fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    }
    let cut_off = asked();
    assert!(cut_off.status.success(), "{cut_off:?}");
    assert_eq!(String::from_utf8_lossy(&cut_off.stdout), "b''\n");
}
