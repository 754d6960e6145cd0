//! `atelier status` and the metrics for Prometheus, of real mounts.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use atelier::fuse::{self, Unmount, mounts};
use rustix::process::Signal;

use crate::support::place::{Place, until};
use crate::support::program;

#[test]
fn a_mount_tells_what_it_is_and_what_it_counted() {
    let place = Place::new();
    assert_eq!(place.home.json(["status"]), serde_json::json!([]));
    place.home.ok(["mount", "--memory", "64MiB", "--deadline", "5s", place.dir()]);
    fs::write(place.dir.join("files/note"), b"kept").unwrap();
    let all = place.home.json(["status"]);
    let mounted = &all[0];
    assert_eq!(all.as_array().unwrap().len(), 1);
    assert_eq!(mounted["project"], "lab/cats/tabby");
    assert_eq!(mounted["mount_point"], place.dir());
    assert_eq!(mounted["state"], "serving");
    assert_eq!(mounted["pid"], place.server().as_raw_nonzero().get());
    let report = &mounted["report"];
    assert_eq!(report["options"]["memory"], 64 << 20);
    assert_eq!(report["options"]["deadline"], "PT5S");
    assert_eq!(report["home"], place.home.atelier().to_str().unwrap());
    assert!(report["metrics"]["fuse_answered_total"].as_u64().unwrap() > 0, "{report}");
    assert!(report["metrics"]["s3_first_byte_seconds"]["p99"].is_null(), "{report}");

    let table = place.home.ok(["status"]);
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.contains("lab/cats/tabby") && table.contains("serving"), "{table}");
    let details = place.home.ok(["status", "my project"]);
    assert!(details.starts_with("project: ") && details.contains(" lab/cats/tabby\n"), "{details}");
    assert!(details.contains(" of 64.0 MiB\n"), "{details}");
    assert_eq!(place.home.json(["status", "my project"])["pid"], mounted["pid"]);

    place.home.ok(["unmount", place.dir()]);
    until("its socket is gone", || sockets(&place).is_empty());
    assert_eq!(place.home.json(["status"]), serde_json::json!([]));
    let said = place.home.fails(["status", "my project"]);
    assert!(said.contains("no project is mounted on"), "{said}");
}

#[test]
fn a_socket_is_its_owners_only_and_lies_where_logins_keep_theirs() {
    let place = Place::new();
    let runtime = place.home.path("runtime");
    fs::create_dir(&runtime).unwrap();
    let run = |args: &[&str]| {
        let mut command = place.home.command(args);
        command.env("XDG_RUNTIME_DIR", &runtime).output().unwrap()
    };
    assert!(run(&["mount", place.dir()]).status.success());
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let dir = runtime.join("atelier");
    let socket = fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path();
    assert_eq!((mode(&dir), mode(&socket)), (0o700, 0o600));
    assert!(String::from_utf8_lossy(&run(&["status"]).stdout).contains("serving"));
    // A command that isn't run in a login knows nothing of it, and a login knows both places.
    assert_eq!(place.home.json(["status"]), serde_json::json!([]));
    assert!(place.home.fails(["status", place.dir()]).contains("nothing is known of"));
    place.home.ok(["unmount", place.dir()]);
    place.mount();
    assert!(String::from_utf8_lossy(&run(&["status"]).stdout).contains("serving"));
}

#[test]
fn a_frozen_mount_is_told_in_time() {
    let place = Place::new();
    place.mount();
    let server = place.server();
    rustix::process::kill_process(server, Signal::STOP).unwrap();
    // A hang would be for ever; this is long for a machine that is busy.
    let ask = |arguments: &[&str]| {
        let within = ["20", env!("CARGO_BIN_EXE_atelier"), "status"];
        let output =
            place.home.program("timeout", within.iter().chain(arguments)).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (one, all) = (ask(&[place.dir()]), ask(&[]));
    rustix::process::kill_process(server, Signal::CONT).unwrap();
    assert_eq!((one.0, all.0), (Some(1), Some(1)), "{one:?} {all:?}");
    assert!(one.1.contains("frozen, process"), "{one:?}");
    assert!(all.1.contains("lab/cats/tabby") && all.1.contains("frozen"), "{all:?}");
    assert!(place.home.ok(["status"]).contains("serving"));
}

#[test]
fn a_dead_mount_is_told_until_it_is_taken_away() {
    let place = Place::new();
    place.mount();
    let server = place.server();
    rustix::process::kill_process(server, Signal::KILL).unwrap();
    until("it is dead", || {
        let said = place.home.run(["status"]);
        said.code == 1 && said.stdout.contains("lab/cats/tabby") && said.stdout.contains("dead")
    });
    assert!(place.home.run(["status", place.dir()]).stdout.contains("dead, process"));
    assert_eq!(sockets(&place).len(), 1);
    let mounted = mounts::at(&place.dir).unwrap().unwrap();
    fuse::unmount(&mounted, Unmount::Lazily).unwrap();
    assert_eq!(place.home.json(["status"]), serde_json::json!([]));
    assert!(sockets(&place).is_empty(), "what is left of it is taken away");
}

#[test]
fn a_mount_that_is_still_used_is_leaving() {
    let place = Place::new();
    place.mount();
    fs::write(place.dir.join("files/note"), b"kept").unwrap();
    let file = fs::File::open(place.dir.join("files/note")).unwrap();
    place.home.ok(["unmount", "--lazy", place.dir()]);
    assert!(place.home.ok(["status"]).contains("leaving"));
    drop(file);
    until("it is gone", || sockets(&place).is_empty());
}

/// Each line is read by the parser that comes with Prometheus' own client.
#[test]
fn prometheus_understands_the_metrics() {
    let place = Place::new();
    let said = place.home.run(["mount", "-o", "metrics=127.0.0.1:0", place.dir()]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let address = said.stderr.split("http://").nth(1).unwrap().split('/').next().unwrap();
    let status = place.home.json(["status", place.dir()]);
    assert_eq!(status["report"]["options"]["metrics"], address);
    fs::write(place.dir.join("files/note"), b"kept").unwrap();

    // Some that are slow, some that talk nonsense, and some that hang up.
    let slow: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
    for garbage in
        [&b"\0\xff\r\n\r\n"[..], b"GET /metrics", &[b'a'; 10_000], b"POST / HTTP/1.1\r\n\r\n"]
    {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(garbage).unwrap();
        let _ = client.shutdown(std::net::Shutdown::Write);
    }
    let answer = ask(address, "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n");
    drop(slow);
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", text.len())), "{head}");
    assert!(ask(address, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(ask(address, "PUT /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(ask(address, "HEAD /metrics HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
    assert!(ask(address, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));

    let file = place.home.path("metrics");
    fs::write(&file, text).unwrap();
    let program = "import sys\n\
        from prometheus_client.parser import text_string_to_metric_families as parse\n\
        for family in parse(open(sys.argv[1]).read()):\n    \
            assert family.documentation and family.type in ('counter', 'gauge', 'histogram')\n    \
            for sample in family.samples:\n        \
                print(family.type, sample.name, sample.labels, sample.value)\n";
    let output = Command::new(program::find("python3"))
        .args(["-c", program, file.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = String::from_utf8(output.stdout).unwrap();
    assert!(read.contains("counter atelier_fuse_answered_total {} "), "{read}");
    assert!(read.contains("histogram atelier_s3_read_seconds_bucket {'le': '+Inf'} 0"), "{read}");
    let dir = place.dir();
    let labels = format!("{{'project': 'lab/cats/tabby', 'mount_point': '{dir}'}}");
    assert!(read.contains(&labels), "{read}");
}

#[test]
fn an_address_that_is_taken_is_known_before_mounting() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = place.home.fails(["mount", "--metrics", &address, place.dir()]);
    assert!(said.contains(&format!("metrics can't be served at {address}")), "{said}");
    assert!(!place.is_mounted());
    let said = place.home.run(["mount", "--metrics", "here", place.dir()]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stderr.contains("`here` isn't an address"), "{said:?}");
}

fn ask(address: &str, request: &str) -> String {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}

/// The names of the sockets in the home.
fn sockets(place: &Place) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(place.home.atelier().join("run")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}
