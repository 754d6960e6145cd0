//! Environment files as a whole: edited, imported, exported, deleted.

use std::fs;
use std::path::Path;
use std::process::Output;

use atelier::secret::EnvironmentFile;
use atelier::secret::identity::Identities;

use super::home::{Home, done, refused, stderr};

const CANARY: &str = "canary-2d7f0b9c4e1a6835";

fn edit(home: &Home, editor: &str, args: &[&str]) -> Output {
    let args = [&["secret", "edit"], args].concat();
    home.command("ada", &args).env("EDITOR", editor).output().unwrap()
}

/// An editor gets the plaintext in memory, and what it leaves is encrypted; the rest stays as it was.
#[tokio::test]
async fn an_environment_file_is_edited() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    done(&home.set("B", "project", b"two\nlines"));
    done(&home.set("C", "project", b"a\\nb"));
    let line = |body: Vec<u8>| {
        let text = String::from_utf8(body).unwrap();
        text.lines().find(|line| line.starts_with("C=")).unwrap().to_owned()
    };
    let before = line(home.body("project").await);
    let script = home.dir().join("editor");
    fs::write(
        &script,
        "case $1 in /dev/shm/*) ;; *) exit 9;; esac\n\
         [ $(stat -c %a \"$1\") = 600 ] || exit 8\n\
         [ $(stat -c %a \"${1%/*}\") = 700 ] || exit 7\n\
         [ -z \"$SOPS_AGE_KEY_FILE\" ] || exit 6\n\
         cp \"$1\" \"$1~\"\n\
         sed -i -e 's/A=1/A=one/' -e '/^B=/d' \"$1\"; echo '# why' >> \"$1\"; echo D=4 >> \"$1\"\n",
    )
    .unwrap();
    let editor = format!("sh {}", script.display());
    let edited = edit(&home, &editor, &[]);
    done(&edited);
    assert!(stderr(&edited).contains("set: A, D") && stderr(&edited).contains("deleted: B"));
    assert_eq!(line(home.body("project").await), before);
    for (key, value) in [("A", "one\n"), ("C", "a\\nb\n"), ("D", "4\n")] {
        assert_eq!(done(&home.run(&["run", "--", "printenv", key])), value);
    }
    let body = home.body("project").await;
    assert!(stderr(&edit(&home, "true", &[])).contains("unchanged"));
    refused(&edit(&home, "false", &[]), 1, "the editor failed");
    refused(&edit(&home, &format!("echo {CANARY} >"), &[]), 2, "line 1");
    assert_eq!(home.body("project").await, body);
    done(&edit(&home, "echo X=1 >", &["--env", "new"]));
    assert_eq!(done(&home.run(&["run", "--env", "new", "--", "printenv", "X"])), "1\n");
}

/// Who edits what somebody else changes meanwhile is told so, and nothing is lost.
#[tokio::test]
async fn an_edit_never_hides_the_change_of_another() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    let script = home.dir().join("editor");
    let set = home.command("ada", &["secret", "set", "B"]);
    let environment: String = set
        .get_envs()
        .filter_map(|(key, value)| Some(format!("{}='{}' ", key.display(), value?.display())))
        .collect();
    let program = env!("CARGO_BIN_EXE_atelier");
    let text = format!("echo A=2 > $1; printf other | env {environment} {program} secret set B\n");
    fs::write(&script, text).unwrap();
    let edited = edit(&home, &format!("sh {}", script.display()), &[]);
    refused(&edited, 1, "was changed meanwhile");
    assert_eq!(done(&home.run(&["run", "--", "printenv", "B"])), "other\n");
    assert_eq!(done(&home.run(&["run", "--", "printenv", "A"])), "1\n");
}

/// Whatever becomes of the editor, its plaintext is gone when it has ended.
#[tokio::test]
async fn an_edit_leaves_nothing_in_memory() {
    let home = Home::new().await;
    done(&home.set("A", "project", CANARY.as_bytes()));
    let script = home.dir().join("editor");
    let seen = home.dir().join("seen");
    fs::write(
        &script,
        format!("echo \"$1\" > {}; cp \"$1\" \"$1~\"; kill $PPID; sleep 1", seen.display()),
    )
    .unwrap();
    let edited = edit(&home, &format!("sh {}", script.display()), &[]);
    assert!(!stderr(&edited).contains(CANARY));
    let seen = fs::read_to_string(&seen).unwrap();
    let room = Path::new(seen.trim()).parent().unwrap();
    assert!(room.starts_with("/dev/shm") && !room.exists(), "{} was left", room.display());
}

/// Plain files are taken in by what they say, and told of by names only.
#[tokio::test]
async fn a_plain_file_is_imported() {
    let home = Home::new().await;
    done(&home.set("B", "project", b"two"));
    let file = home.dir().join("plain.env");
    let text = format!("# c\nexport A='{CANARY}'\nB=two\nEMPTY=\nM=\"x\\ny\"\n");
    fs::write(&file, text).unwrap();
    let imported = home.run(&["secret", "import", file.to_str().unwrap()]);
    done(&imported);
    let said = stderr(&imported);
    for expected in ["set: A, M", "unchanged: B", "empty: EMPTY", "still holds them"] {
        assert!(said.contains(expected), "{said}");
    }
    assert!(!said.contains(CANARY), "{said}");
    assert_eq!(done(&home.run(&["run", "--", "printenv", "A"])), format!("{CANARY}\n"));
    assert_eq!(done(&home.run(&["run", "--", "printenv", "M"])), "x\ny\n");
    fs::write(&file, format!("A=1\n{CANARY}\n")).unwrap();
    let wrong = home.run(&["secret", "import", file.to_str().unwrap()]);
    refused(&wrong, 2, "line 2");
    assert!(!stderr(&wrong).contains(CANARY));
}

/// What `env` prints is what `import` reads.
#[tokio::test]
async fn what_is_printed_is_imported_again() {
    let home = Home::new().await;
    let nasty = "it's \"$(id)`\\ é\n# =";
    done(&home.set("N", "project", nasty.as_bytes()));
    done(&home.set("S", "project", b" plain "));
    let file = home.dir().join("printed.env");
    fs::write(&file, done(&home.run(&["env", "--format", "shell"]))).unwrap();
    done(&home.run(&["secret", "import", "--env", "copy", file.to_str().unwrap()]));
    let [one, two] = ["project", "copy"]
        .map(|name| done(&home.run(&["env", "--env", name, "--format", "json"])));
    assert_eq!(one, two);
}

/// An export is the file itself, or one for somebody else, whom only that opens.
#[tokio::test]
async fn an_environment_file_is_exported_and_imported() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    let eve = Identities::load_or_create(&home.key_file("eve")).unwrap();
    let same = home.run(&["secret", "export"]);
    assert_eq!(done(&same).into_bytes(), home.body("project").await);

    let file = home.dir().join("for-eve.env");
    let shown = file.to_str().unwrap();
    done(&home.run(&["secret", "export", "--to", &eve.recipient(), "-o", shown]));
    let sealed = fs::read(&file).unwrap();
    let parsed = EnvironmentFile::parse("x", &sealed).unwrap();
    assert_eq!(parsed.recipients(), [eve.recipient()]);
    assert_eq!(parsed.open(&eve).unwrap().value("A").unwrap().expose(), b"1");
    refused(&home.run(&["secret", "export", "-o", shown]), 1, "for-eve.env");
    assert_eq!(fs::read(&file).unwrap(), sealed);
    refused(&home.run(&["secret", "import", shown]), 128, "isn't encrypted to you");

    let own = home.dir().join("own.env");
    let shown = own.to_str().unwrap();
    done(&home.run(&["secret", "export", "-o", shown]));
    let imported = home.run(&["secret", "import", "--env", "again", shown]);
    done(&imported);
    assert!(!stderr(&imported).contains("plaintext"), "{}", stderr(&imported));
    assert_eq!(done(&home.run(&["run", "--env", "again", "--", "printenv", "A"])), "1\n");
}

/// A whole environment file is deleted on request, one that is in use isn't.
#[tokio::test]
async fn a_whole_file_is_deleted() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    done(&home.run(&["publish", "secret/project", "--to", "pets"]));
    refused(&home.run(&["secret", "delete", "--all"]), 1, "in use");
    done(&home.run(&["unpublish", "secret/project"]));
    done(&home.run(&["secret", "delete", "--all"]));
    refused(&home.run(&["secret", "export"]), 1, "project");
    assert_eq!(home.run(&["secret", "delete"]).status.code(), Some(2));
}

/// Who has seen a version is shown no older one, however it was put back.
#[tokio::test]
async fn an_old_version_is_not_shown_again() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"old"));
    let old = home.body("project").await;
    // Times of files have seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    done(&home.set("A", "project", b"new"));
    done(&home.run(&["run", "--", "printenv", "A"]));
    home.replace_body("project", old).await;
    refused(&home.run(&["run", "--", "printenv", "A"]), 1, "an old one was put in its place");
    refused(&home.set("B", "project", b"1"), 1, "an old one was put in its place");
}
