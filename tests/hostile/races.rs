//! Somebody wants an old version back, half a file, or another's change undone.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::secrets::home::done;
use crate::secrets::writes::{Secrets, close};

/// An old version of a file, whole and sealed as it was, isn't taken back by a mount.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_put_an_old_version_back() {
    let secrets = Secrets::mount().await;
    let file = secrets.file("project.env");
    done(&secrets.home.set("A", "project", b"old"));
    let old = fs::read(&file).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    done(&secrets.home.set("A", "project", b"new"));
    assert_eq!(fs::write(&file, &old).unwrap_err().raw_os_error(), Some(1));
    assert_eq!(secrets.value("project", "A").await, "new");
    // Nor one whose time was changed to tomorrow, which nobody could replace any more.
    let text = String::from_utf8(fs::read(&file).unwrap()).unwrap();
    let late = text.replace("sops_lastmodified=20", "sops_lastmodified=21");
    assert_eq!(fs::write(&file, late).unwrap_err().raw_os_error(), Some(1));
    assert_eq!(fs::read(&file).unwrap(), text.into_bytes());
}

/// Who is killed after he has emptied the file, or written half of it, leaves it as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_leave_half_a_file_by_kill_9() {
    let secrets = Secrets::mount().await;
    let file = secrets.file("project.env");
    done(&secrets.home.set("A", "project", b"kept"));
    let before = fs::read(&file).unwrap();
    let next = secrets.sealed("next", &[]);
    for part in [0, 10, next.len() / 2, next.len() - 8] {
        let script = "import os, signal, sys\n\
            f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_TRUNC)\n\
            part = sys.stdin.buffer.read()\n\
            part and os.write(f, part)\n\
            os.kill(os.getpid(), signal.SIGKILL)";
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(&file).stdin(Stdio::piped());
        let mut child = python.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&next[..part]).unwrap();
        assert!(!child.wait().unwrap().success());
        assert_eq!(fs::read(&file).unwrap(), before, "after {part} bytes");
    }
}

/// What was read before another's change and written after it undoes nothing: `sops` fails, also
/// when it opens the file to write only then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_undo_another_change_by_having_read_before() {
    let secrets = Secrets::mount().await;
    let home = &secrets.home;
    done(&home.set("A", "project", b"1"));
    done(&home.set("B", "project", b"1"));
    let set = |key: &str| {
        let mut sops = secrets.sops_command(&["set", "project.env", key, "\"sops\""]);
        sops.stderr(Stdio::null()).spawn().unwrap()
    };
    let keys: Vec<_> = (0..5).map(|index| format!("[\"K{index}\"]")).collect();
    let mut running: Vec<_> = keys.iter().map(|key| set(key)).collect();
    let succeeded: Vec<_> = running.iter_mut().map(|sops| sops.wait().unwrap().success()).collect();
    let listed = done(&home.run(&["secret", "list"]));
    for (index, succeeded) in succeeded.into_iter().enumerate() {
        let there = listed.contains(&format!("K{index} "));
        assert_eq!(there, succeeded, "K{index} in {listed}");
    }
    // An editor that was open meanwhile: it changes B, and A is another's.
    let script = home.dir().join("editor");
    let set = home.command("ada", &["secret", "set", "A"]);
    let environment: String = set
        .get_envs()
        .filter_map(|(key, value)| Some(format!("{}='{}' ", key.display(), value?.display())))
        .collect();
    let program = env!("CARGO_BIN_EXE_atelier");
    let text = format!(
        "printf another | env {environment} {program} secret set A\nsed -i s/B=1/B=2/ \"$1\"\n"
    );
    fs::write(&script, text).unwrap();
    let mut edit = secrets.sops_command(&["edit", "project.env"]);
    let edited = edit.env("EDITOR", format!("sh {}", script.display())).output().unwrap();
    assert!(!edited.status.success());
    assert_eq!(secrets.value("project", "A").await, "another");
    assert_eq!(secrets.value("project", "B").await, "1");
}

/// Of many who write at once exactly one wins each time, whole, and each of the others knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_undo_another_change_by_being_later() {
    let secrets = Secrets::mount().await;
    let file = secrets.file("project.env");
    done(&secrets.home.set("A", "project", b"0"));
    for round in 0..3 {
        let bodies: Vec<_> =
            (0..6).map(|writer| secrets.sealed(&format!("{round} {writer}"), &[])).collect();
        // All of them open the same version.
        let open = || OpenOptions::new().read(true).write(true).truncate(true).open(&file).unwrap();
        let opened: Vec<_> = bodies.iter().map(|_| open()).collect();
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let writers: Vec<_> = opened
                .into_iter()
                .zip(&bodies)
                .map(|(mut file, body)| {
                    scope.spawn(move || file.write_all(body).and_then(|()| close(file)))
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        let won: Vec<_> = (0..bodies.len()).filter(|writer| outcomes[*writer].is_ok()).collect();
        assert_eq!(won.len(), 1, "{outcomes:?}");
        for lost in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            assert_eq!(lost.raw_os_error(), Some(116), "{lost}");
        }
        assert_eq!(fs::read(&file).unwrap(), bodies[won[0]]);
    }
}
