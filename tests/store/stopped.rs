//! Whoever stops at any moment, for good or for a while, leaves a whole store.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// `kill -9` at any moment of `create` and `gc`. `ATELIER_KILLS` says how often, 12 times unless it
/// does.
#[test]
fn whoever_is_killed_leaves_a_whole_store() {
    let rounds = std::env::var("ATELIER_KILLS").map_or(12, |rounds| rounds.parse().unwrap());
    let home = home();
    let duration = |args: &[&str]| {
        let start = Instant::now();
        home.ok(args);
        start.elapsed()
    };
    let create = ["dataset", "create", "flowers", "flowers"];
    let gc = ["gc", "--grace", "0s", "--compact-below", "90"];
    let (to_create, to_collect) = (duration(&create), duration(&gc));
    let mut newest = 1;
    for round in 1..=rounds {
        // Of every other version half is new, so that packs are written anew, too.
        if round % 2 == 0 {
            fs::write(home.path("flowers/large.bin"), noise(3 << 20)).unwrap();
        } else {
            fs::write(home.path("flowers/red/rose.bin"), noise(100_000)).unwrap();
        }
        kill_within(&home, &create, to_create);
        let versions = home.json(["dataset", "log", "flowers"]);
        let now = versions[0]["version"].as_u64().unwrap();
        assert!(now == newest || now == newest + 1, "{versions}");
        newest = now;
        if round % 3 == 0 {
            for old in versions.as_array().unwrap().iter().skip(1) {
                let old = format!("flowers@{}", old["version"]);
                home.ok(["dataset", "deactivate", &old]);
                home.ok(["dataset", "delete", &old]);
            }
        }
        kill_within(&home, &gc, to_collect);
        // This reads every version, and every byte of them.
        home.ok(["store", "verify"]);
    }
    home.ok(create);
    let shown = home.json(["dataset", "log", "flowers"]);
    for old in shown.as_array().unwrap().iter().skip(1) {
        let old = format!("flowers@{}", old["version"]);
        home.ok(["dataset", "deactivate", &old]);
        home.ok(["dataset", "delete", &old]);
    }
    home.ok(["gc", "--grace", "0s", "--compact-below", "0"]);
    home.ok(["gc", "--grace", "0s", "--compact-below", "0"]);
    home.ok(["store", "verify"]);
    let left = home.json(["store", "show"]);
    assert_eq!(left["unused_objects"], 0, "{left}");
    let stored = files(&home.atelier().join("store"));
    let objects = stored.iter().filter(|file| {
        let below = file.strip_prefix(home.atelier().join("store")).unwrap();
        below.starts_with("packs") || below.starts_with("meta")
    });
    assert_eq!(left["objects"], objects.count(), "nothing else lies about");
    let out = home.path("out");
    home.ok(["dataset", "export", "flowers", out.to_str().unwrap()]);
    for file in ["index.csv", "red/rose.bin", "large.bin"] {
        assert!(
            fs::read(out.join(file)).unwrap() == fs::read(home.path("flowers").join(file)).unwrap()
        );
    }
}

/// Starts a command and kills it at some moment of the time that it takes.
fn kill_within(home: &Home, args: &[&str], takes: Duration) {
    let mut child = quiet(home, args);
    thread::sleep(takes.mul_f64(f64::from(getrandom::u32().unwrap()) / f64::from(u32::MAX) * 1.1));
    child.kill().unwrap();
    child.wait().unwrap();
}

fn quiet(home: &Home, args: &[&str]) -> Child {
    let mut command = home.command(args);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A writer that is stopped for longer than its lease and its grace publishes what is right, or
/// says that it has to be done again.
#[test]
fn a_writer_that_slept_through_two_collections_is_right_or_does_it_again() {
    let home = home();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    for delay in [60, 120, 250] {
        fill(&home, 1);
        let child = quiet(&home, &["--lease", "1s", "dataset", "create", "slow", "flowers"]);
        thread::sleep(Duration::from_millis(delay));
        let process = Pid::from_child(&child);
        // Whoever is stopped in the middle of a change of the catalogue keeps all others waiting.
        for attempt in 1.. {
            kill_process(process, Signal::STOP).unwrap();
            thread::sleep(Duration::from_millis(2100));
            if collects_soon(&home) && collects_soon(&home) {
                break;
            }
            kill_process(process, Signal::CONT).unwrap();
            // Longer each time: a change may take as long as the disk takes to make it durable.
            thread::sleep(Duration::from_millis(5 * attempt));
        }
        kill_process(process, Signal::CONT).unwrap();
        let ended = child.wait_with_output().unwrap();
        if !ended.status.success() {
            let told = String::from_utf8(ended.stderr).unwrap();
            assert!(
                told.contains("hint: do it again: what is still stored is found again"),
                "{told}"
            );
            home.ok(["dataset", "create", "slow", "flowers"]);
        }
        home.ok(["store", "verify"]);
        let out = home.path(format!("out-{delay}"));
        home.ok(["dataset", "export", "slow", out.to_str().unwrap()]);
        for file in ["index.csv", "red/rose.bin", "large.bin"] {
            let made = fs::read(home.path("flowers").join(file)).unwrap();
            assert!(fs::read(out.join(file)).unwrap() == made, "{file}");
        }
        delete(&home, "slow");
    }
    // What came after it was collected goes, too.
    for _ in 0..2 {
        home.ok(["gc", "--grace", "0s"]);
    }
    let left = home.json(["store", "show"])["objects"].clone();
    assert_eq!(left, home.json(["store", "verify"])["objects"]);
}

fn collects_soon(home: &Home) -> bool {
    let mut child = quiet(home, &["gc", "--grace", "0s"]);
    for _ in 0..100 {
        if let Some(ended) = child.try_wait().unwrap() {
            return ended.success();
        }
        thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

/// Only on its own host a process that ended is known to have: what one of another host was making,
/// or had open, stays until its lease lapses.
#[test]
fn what_another_host_holds_stays_until_its_lease_lapses() {
    let place = Place::new();
    fill(&place.home, 0);
    place.home.ok(["dataset", "create", "open", "flowers"]);
    let server = place.foreground();
    let open = fs::File::open(place.dir.join("datasets/open/red/rose.bin")).unwrap();
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&open, &mut byte, 0).unwrap();
    delete(&place.home, "open");
    fill(&place.home, 1);
    let mut writer = quiet(&place.home, &["dataset", "create", "made", "flowers"]);
    until("an object is announced", || {
        sql(&place.home, "SELECT COUNT(*) FROM lease_object") > 0
            || writer.try_wait().unwrap().is_some()
    });
    let made = writer.try_wait().unwrap().is_some();
    writer.kill().unwrap();
    writer.wait().unwrap();
    let announced = sql(&place.home, "SELECT COUNT(*) FROM lease_object");
    assert!(made || announced > 0);
    // As another host would see it.
    sql(&place.home, "UPDATE lease SET host = 'another one' RETURNING 1");
    let mut server = server;
    server.kill().unwrap();
    server.wait().unwrap();
    let done = place.home.json(["gc", "--grace", "0s"]);
    assert_eq!(done["freed_objects"], 0, "{done}");
    assert_eq!(sql(&place.home, "SELECT COUNT(*) FROM lease_object"), announced);
    sql(&place.home, "UPDATE lease SET expires = 0 RETURNING 1");
    let done = place.home.json(["gc", "--grace", "0s"]);
    assert!(done["freed_objects"].as_u64() >= Some(3), "{done}");
    place.home.ok(["store", "verify"]);
}

/// The number that a statement gives.
fn sql(home: &Home, statement: &str) -> i64 {
    use sqlx::{Connection as _, Row as _};
    sqlx::any::install_default_drivers();
    let url = format!("sqlite://{}", home.atelier().join("catalog.db").display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut db = sqlx::AnyConnection::connect(&url).await.unwrap();
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        let rows = sqlx::query(statement).fetch_all(&mut db).await.unwrap();
        rows.first().map_or(0, |row| row.get(0))
    })
}

/// A mount whose versions are written anew and collected under it reads on.
#[test]
fn a_mount_reads_on_while_the_store_is_collected() {
    let place = Place::new();
    let home = &place.home;
    fill(home, 0);
    fs::write(home.path("flowers/red/tulip.bin"), noise(700_000)).unwrap();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    fs::remove_file(home.path("flowers/large.bin")).unwrap();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    let expected = fs::read(home.path("flowers/red/tulip.bin")).unwrap();
    place.mount();
    let read = || fs::read(place.dir.join("datasets/flowers/red/tulip.bin")).unwrap();
    assert!(read() == expected);
    home.ok(["dataset", "deactivate", "flowers@1"]);
    home.ok(["dataset", "delete", "flowers@1"]);
    thread::scope(|scope| {
        let collector = scope.spawn(|| {
            for round in 0..6 {
                let done = home.json(["gc", "--grace", "0s"]);
                assert_eq!(done["rewritten_packs"], u64::from(round == 0), "{done}");
            }
        });
        let writer = scope.spawn(|| {
            for round in 0..4 {
                fs::create_dir_all(home.path("new")).unwrap();
                fs::write(home.path("new/a.bin"), noise(50_000 + round)).unwrap();
                home.ok(["dataset", "create", "new", "new"]);
            }
        });
        while !collector.is_finished() || !writer.is_finished() {
            let drop_pages = "3";
            let _ = fs::write("/proc/sys/vm/drop_caches", drop_pages);
            assert!(read() == expected);
            thread::sleep(Duration::from_millis(50));
        }
    });
    home.ok(["store", "verify"]);
}
