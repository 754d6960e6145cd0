//! `atelier secret` and `atelier run`, in a home of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use atelier::catalog::{Role, Scope};
use atelier::secret::EnvironmentFile;
use atelier::secret::identity::Identities;

use super::home::{Home, done, refused, stderr, stdout};

const CANARY: &str = "canary-5f1d0c7be1a94d0e";

/// A secret that is set comes into the environment of the command that `run` starts.
#[tokio::test]
async fn a_secret_is_set_listed_used_and_deleted() {
    let home = Home::new().await;
    done(&home.set("API_KEY", "project", b"s3cret\n"));
    done(&home.set("OTHER", "staging", b"two"));
    assert_eq!(done(&home.run(&["run", "--", "printenv", "API_KEY"])), "s3cret\n");
    let both = ["run", "--env", "project", "--env", "staging", "--", "printenv", "OTHER"];
    assert_eq!(done(&home.run(&both)), "two\n");
    let listed = done(&home.run(&["secret", "list"]));
    assert!(listed.contains("API_KEY") && listed.contains("staging"), "{listed}");
    let json: serde_json::Value =
        serde_json::from_str(&done(&home.run(&["secret", "list", "--json"]))).unwrap();
    assert_eq!(json[0]["key"], "API_KEY");
    assert_eq!(json[0]["environment"], "project");

    done(&home.run(&["secret", "delete", "API_KEY"]));
    refused(&home.run(&["secret", "delete", "API_KEY"]), 1, "no secret API_KEY");
    assert_eq!(home.run(&["run", "--", "printenv", "API_KEY"]).status.code(), Some(1));
}

/// The command takes the program's place: its exit code, 127 where it isn't found, 126 where it
/// can't be executed; no shell reads its arguments, no key reaches it, its core limit is its own.
#[tokio::test]
async fn run_is_as_bare_as_the_command() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    assert_eq!(home.run(&["run", "--", "sh", "-c", "exit 42"]).status.code(), Some(42));
    refused(&home.run(&["run", "--", "no-such-command"]), 127, "no-such-command");
    refused(&home.run(&["run", "--", "/etc/passwd"]), 126, "/etc/passwd");
    let printed = done(&home.run(&["run", "--", "echo", "$A", "$(id)", "*"]));
    assert_eq!(printed, "$A $(id) *\n");
    let environment = done(&home.run(&["run", "--", "env"]));
    assert!(!environment.contains("SOPS_AGE_KEY"), "{environment}");
    assert!(environment.lines().any(|line| line == "A=1"));
    let bare = Command::new("sh").args(["-c", "ulimit -c"]).output().unwrap();
    assert_eq!(done(&home.run(&["run", "--", "sh", "-c", "ulimit -c"])), done(&bare));
}

/// Without an environment file, `run` runs the command as it is.
#[tokio::test]
async fn run_needs_no_environment_file() {
    let home = Home::new().await;
    assert_eq!(done(&home.run(&["run", "--", "echo", "x"])), "x\n");
    refused(&home.run(&["run", "--env", "absent", "--", "echo", "x"]), 1, "absent");
    refused(&home.run(&["run", "--only", "A", "--", "echo", "x"]), 1, "no secret A");
}

/// Values come through as they were set, whatever a shell would make of them.
#[tokio::test]
async fn values_arrive_byte_by_byte() {
    let home = Home::new().await;
    let long = "x".repeat(100 * 1024);
    for value in ["two\nlines", "\"'`$(id)`'\"", "é 日本語 🎨", "a\\nb", " =#% ", &long] {
        done(&home.set("V", "project", value.as_bytes()));
        assert_eq!(done(&home.run(&["run", "--", "printenv", "V"])), format!("{value}\n"));
    }
    done(&home.set("V", "project", b"\n\n"));
    assert_eq!(done(&home.run(&["run", "--", "printenv", "V"])), "\n\n");
}

/// A value is never an argument, and never in what the program says or keeps.
#[tokio::test]
async fn a_value_leaves_no_trace() {
    let home = Home::new().await;
    let mut said = vec![
        home.run(&["secret", "set", "KEY", CANARY]),
        home.run(&["secret", "set", "KEY", "--", CANARY]),
        home.run(&["secret", "set", &format!("KEY={CANARY}")]),
        home.set("9KEY", "project", CANARY.as_bytes()),
        home.set("KEY", "No Name", CANARY.as_bytes()),
        home.set("KEY", "project", format!("{CANARY}\0").as_bytes()),
        home.set("KEY", "project", b""),
    ];
    for output in &said {
        assert_eq!(output.status.code(), Some(2), "{}", stderr(output));
    }
    assert!(stderr(&said[0]).contains("can't be an argument"), "{}", stderr(&said[0]));
    let kept = home.set("KEY", "project", CANARY.as_bytes());
    done(&kept);
    said.extend([
        kept,
        home.set("PATH", "project", CANARY.as_bytes()),
        home.run(&["run", "--", "true"]),
        home.run(&["secret", "list"]),
        home.run(&["secret", "show", "KEY", "--reveal"]),
        home.run(&["secret", "rotate"]),
        home.run(&["run", "--allow-env", "PATH", "--", "no-such-command"]),
    ]);
    for output in &said {
        assert!(!format!("{}{}", stdout(output), stderr(output)).contains(CANARY));
    }
    assert_eq!(holds(home.dir(), CANARY.as_bytes()), Vec::<PathBuf>::new());
}

/// Names that change how programs run are refused unless they are allowed by name.
#[tokio::test]
async fn dangerous_names_are_set_on_request_only() {
    let home = Home::new().await;
    done(&home.set("LD_PRELOAD", "project", b"/nonexistent.so"));
    done(&home.set("FINE", "project", b"1"));
    refused(&home.run(&["run", "--", "echo", "x"]), 1, "LD_PRELOAD");
    assert_eq!(done(&home.run(&["run", "--only", "FINE", "--", "printenv", "FINE"])), "1\n");
    let allowed = ["run", "--allow-env", "LD_PRELOAD", "--", "printenv", "LD_PRELOAD"];
    assert_eq!(done(&home.run(&allowed)), "/nonexistent.so\n");
}

/// With the wrong key, none, or one flipped bit, the command never starts.
#[tokio::test]
async fn the_command_starts_only_if_all_is_well() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    let marker = home.dir().join("started");
    let start = ["run", "--", "touch", marker.to_str().unwrap()];
    home.member("bob").await;
    refused(&home.command("bob", &start).output().unwrap(), 128, "isn't encrypted to you");
    let nowhere = home.command("ada", &start).env("SOPS_AGE_KEY_FILE", "/proc/nowhere").output();
    refused(&nowhere.unwrap(), 128, "/proc/nowhere");

    let sealed = home.body("project").await;
    let text = String::from_utf8(sealed.clone()).unwrap();
    for (changed, code) in [
        (text.replacen("A=", "B=", 1), 25),
        (text.split_once('\n').unwrap().1.to_owned(), 51),
        (text.replacen("ENC[", "EMC[", 1), 1),
        (text.replacen("lastmodified=2", "lastmodified=3", 1), 51),
    ] {
        home.replace_body("project", changed.into_bytes()).await;
        refused(&home.run(&start), code, "environment file project");
    }
    for place in (0..text.find("sops_version").unwrap()).step_by(97) {
        let mut bytes = sealed.clone();
        bytes[place] ^= 1;
        home.replace_body("project", bytes).await;
        assert!(!home.run(&start).status.success());
    }
    assert!(!marker.exists());
    home.replace_body("project", sealed).await;
    done(&home.run(&start));
    assert!(marker.exists());
}

/// What stands in a file without encryption never comes into an environment.
#[tokio::test]
async fn what_nothing_vouches_for_is_not_set() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    let text = String::from_utf8(home.body("project").await).unwrap();
    home.replace_body("project", format!("LD_PRELOAD=\nEMPTY=\n{text}").into_bytes()).await;
    let environment = done(&home.run(&["run", "--", "env"]));
    assert!(environment.lines().any(|line| line == "A=1"));
    assert!(!environment.contains("LD_PRELOAD") && !environment.contains("EMPTY"));
}

/// Members share a file: who was let in reads it after the next change, who was put in by stealth
/// stops the next change and is shut out by a rotation.
#[tokio::test]
async fn recipients_come_from_the_catalogue() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    home.member("bob").await;
    done(&home.set("B", "project", b"2"));
    let printed = home.command("bob", &["run", "--", "printenv", "A"]).output().unwrap();
    assert_eq!(done(&printed), "1\n");
    done(&home.set_as("bob", "C", "project", b"3"));

    let eve = Identities::load_or_create(&home.key_file("eve")).unwrap();
    let ada = Identities::load(&home.key_file("ada")).unwrap();
    let opened = EnvironmentFile::parse("project", &home.body("project").await).unwrap();
    let mut recipients = opened.recipients();
    recipients.push(eve.recipient());
    let opened = opened.open(&ada).unwrap();
    home.replace_body("project", opened.seal(&recipients).unwrap()).await;
    refused(&home.set("D", "project", b"4"), 1, &eve.recipient());

    done(&home.run(&["secret", "rotate"]));
    done(&home.set("D", "project", b"4"));
    let file = EnvironmentFile::parse("project", &home.body("project").await).unwrap();
    assert_eq!(file.recipients().len(), 2);
    assert!(file.open(&eve).is_err());
}

/// A copy has the same secrets, and neither follows the other.
#[tokio::test]
async fn an_environment_file_is_copied() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    done(&home.run(&["secret", "copy", "project", "other"]));
    done(&home.set("A", "project", b"2"));
    assert_eq!(done(&home.run(&["run", "--env", "other", "--", "printenv", "A"])), "1\n");
    refused(&home.run(&["secret", "copy", "project", "other"]), 1, "is there already");
    refused(&home.run(&["secret", "copy", "absent", "third"]), 1, "absent");
}

/// `env` prints what a shell reads back as it was set.
#[tokio::test]
async fn a_shell_reads_the_environment() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"it's $(id)\n`id`"));
    let script = done(&home.run(&["env"])) + "printf %s \"$A\"";
    let shell = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(done(&shell), "it's $(id)\n`id`");
    let json: serde_json::Value =
        serde_json::from_str(&done(&home.run(&["env", "--format", "json"]))).unwrap();
    assert_eq!(json["A"], "it's $(id)\n`id`");
}

/// On a terminal `set` asks without showing what is typed, and `show --reveal` shows it.
#[tokio::test]
async fn a_value_is_typed_unseen_and_revealed_on_a_terminal() {
    let home = Home::new().await;
    let typed = home.on_terminal("secret set KEY", "value of KEY", &format!("{CANARY}\n"));
    assert!(!typed.contains(CANARY), "{typed}");
    assert_eq!(done(&home.run(&["run", "--", "printenv", "KEY"])), format!("{CANARY}\n"));
    assert!(home.on_terminal("secret show KEY --reveal", "", "").contains(CANARY));
    let shown = done(&home.run(&["secret", "show", "KEY"]));
    assert!(shown.contains("KEY") && !shown.contains(CANARY), "{shown}");
    refused(&home.run(&["secret", "show", "KEY", "--reveal"]), 1, "only shown on a terminal");
}

/// Of changes made at the same time none is lost.
#[tokio::test]
async fn two_that_set_at_once_both_succeed() {
    let home = Home::new().await;
    done(&home.set("FIRST", "project", b"0"));
    std::thread::scope(|scope| {
        for key in ["A", "B"] {
            let home = &home;
            scope.spawn(move || done(&home.set(key, "project", b"1")));
        }
    });
    let listed = done(&home.run(&["secret", "list"]));
    for key in ["FIRST", "A", "B"] {
        assert!(listed.contains(key), "{listed}");
    }
}

/// Who is no Developer can neither set nor use secrets.
#[tokio::test]
async fn a_viewer_gets_no_secret() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    home.member("bob").await;
    let on = Scope::Project(home.project.name.clone());
    home.catalog.set_role("bob", Role::Viewer, &on).await.unwrap();
    assert!(!home.set_as("bob", "A", "project", b"2").status.success());
    let output = home.command("bob", &["run", "--", "true"]).output().unwrap();
    assert!(!output.status.success());
}

/// Whether any file below a directory holds these bytes.
fn holds(dir: &Path, needle: &[u8]) -> Vec<PathBuf> {
    walkdir::WalkDir::new(dir)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .filter(|file| fs::read(file).unwrap().windows(needle.len()).any(|part| part == needle))
        .collect()
}
