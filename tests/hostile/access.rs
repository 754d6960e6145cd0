//! Users of the machine who want into a mount that others may enter.

use std::fs;
use std::path::Path;

use super::{
    DEVELOPER, NOBODY, PATH, STRANGER, VIEWER, is_denied, shared_mount, shared_place, shell_of,
    stderr, succeeds,
};
use crate::support::place::{Place, until};
use crate::support::root;

/// What reads each kind of content.
const CONTENT: &[&str] = &[
    "cat files/notes",
    "cat datasets/photos/cat.txt",
    "cat datasets/photos@1/cat.txt",
    "cat secrets/project.env",
];

/// What changes something, also of what is his by owner and mode.
const CHANGES: &[&str] = &[
    "touch files/ours/new",
    "mkdir files/ours/dir",
    "ln -s notes files/ours/link",
    "ln files/ours/his files/ours/second",
    "mkfifo files/ours/fifo",
    "mv files/ours/his files/ours/moved",
    "rm -f files/ours/his",
    "chmod 777 files/ours/his",
    "truncate -s 0 files/ours/his",
    "setfattr -n user.mine -v 1 files/ours/his",
];

fn warm(place: &Place) {
    let words = ["-c", "ls -lR . && cat files/notes datasets/photos/cat.txt && getfattr -d ."];
    let mut command = place.home.program("sh", words);
    succeeds(command.current_dir(&place.dir).output().unwrap());
}

#[test]
fn a_stranger_who_wants_names_gets_none_even_of_what_the_kernel_knows() {
    if !root::is_here() {
        return;
    }
    let place = shared_mount();
    warm(&place);
    let outside = place.home.path("");
    let looks = ["ls", "stat", "readlink -v", "getfattr -d", "cat", "test -e"];
    let names = ["files", "files/notes", "datasets/photos", "datasets/photos/cat.txt", "secrets"];
    for name in names {
        for look in looks {
            let script = format!("{look} 'my project/{name}'");
            let output = shell_of(&place.home, STRANGER, &outside, &script);
            assert!(!output.status.success(), "{script}: {output:?}");
            assert!(look == "test -e" || stderr(&output).contains("denied"), "{output:?}");
        }
    }
    is_denied(shell_of(&place.home, STRANGER, &outside, "ls 'my project'"));
    is_denied(shell_of(
        &place.home,
        STRANGER,
        &outside,
        "getfattr -n user.atelier.id 'my project'",
    ));
    let cd = shell_of(&place.home, STRANGER, &place.dir, "true");
    assert!(!cd.status.success(), "{cd:?}");
    // He did no harm: the mounts inside are there still, and who works there is where he was.
    warm(&place);
    assert!(atelier::fuse::mounts::inside(&place.dir).unwrap().len() == 2);
}

#[test]
fn a_viewer_who_wants_content_gets_names_and_attributes() {
    if !root::is_here() {
        return;
    }
    let place = shared_mount();
    warm(&place);
    let listed =
        succeeds(shell_of(&place.home, VIEWER, &place.dir, "ls -lR . && stat files/notes"));
    for name in ["notes", "photos", "cat.txt", "project.env"] {
        assert!(listed.contains(name), "{listed}");
    }
    succeeds(shell_of(&place.home, VIEWER, &place.dir, "getfattr -d datasets/photos"));
    for script in CONTENT.iter().chain(CHANGES) {
        is_denied(shell_of(&place.home, VIEWER, &place.dir, script));
    }
    assert_eq!(fs::read_to_string(place.dir.join("files/notes")).unwrap(), "what we know");
}

#[test]
fn a_developer_who_wants_to_work_reads_everything_and_writes_files() {
    if !root::is_here() {
        return;
    }
    let place = shared_mount();
    for script in CONTENT {
        succeeds(shell_of(&place.home, DEVELOPER, &place.dir, script));
    }
    let script = "cd files/ours && echo mine > new && mkdir dir && ln -s new link && \
                  mv new dir/moved && setfattr -n user.mine -v 1 dir/moved && cat dir/moved && \
                  stat -c %u:%g dir/moved";
    let said = succeeds(shell_of(&place.home, DEVELOPER, &place.dir, script));
    assert_eq!(said, format!("mine\n{DEVELOPER}:{DEVELOPER}\n"));
    // What isn't his stays so: modes and owners count as well.
    is_denied(shell_of(&place.home, DEVELOPER, &place.dir, "echo more >> files/notes"));
}

#[test]
fn a_member_who_lost_his_role_or_account_is_out_within_seconds() {
    if !root::is_here() {
        return;
    }
    let place = shared_mount();
    let enters = |uid| shell_of(&place.home, uid, &place.dir, "ls . files").status.success();
    assert!(enters(VIEWER) && enters(DEVELOPER) && !enters(STRANGER));
    place.home.ok(["member", "remove", "vera", "--on", "lab Team"]);
    place.home.ok(["member", "unmap", &DEVELOPER.to_string()]);
    until("both are out", || !enters(VIEWER) && !enters(DEVELOPER));
    place.home.ok(["member", "map", "dora", &STRANGER.to_string()]);
    until("a new account is in", || enters(STRANGER));
    // An account is forgotten with its member.
    assert!(!place.home.ok(["member", "accounts"]).contains("vera"));
}

#[test]
fn who_wants_everybody_in_has_to_say_who_that_is() {
    let place = Place::new();
    let error = place.home.fails(["mount", "-o", "allow_other", "lab/cats/tabby", place.dir()]);
    assert!(error.contains("allow_other would let nobody in"), "{error}");
    assert!(error.contains("`atelier member map USER UID`"), "{error}");
    assert!(!place.is_mounted());
}

#[test]
fn who_wants_to_be_another_member_cannot_take_his_account() {
    let place = shared_place();
    let home = &place.home;
    let taken = home.fails(["member", "map", "dora", &VIEWER.to_string()]);
    assert!(taken.contains("is vera"), "{taken}");
    let unknown = home.fails(["member", "map", "zoe", "64009"]);
    assert!(unknown.contains("isn't a member"), "{unknown}");
    assert!(home.fails(["member", "map", "dora", "4294967295"]).contains("no user has"));
    for words in [&["map", "dora", "64009"][..], &["unmap", "64001"]] {
        let words = ["member"].iter().chain(words);
        let refused = home.run_as("dora", words).expect_failure();
        assert!(refused.contains("needs admin"), "{refused}");
    }
    let accounts = home.json(["member", "accounts"]);
    let expected =
        serde_json::json!([{"uid": VIEWER, "user": "vera"}, {"uid": DEVELOPER, "user": "dora"}]);
    assert_eq!(accounts, expected);
}

/// What an ordinary user does who lets others in, with what is tried there in the end as root.
const AS_ORDINARY_USER: &str = r#"
    cd "$1"
    user() { setpriv --reuid "$2" --regid "$2" --clear-groups sh -ec "$1" "$0" "$3"; }
    user '"$0" mount -o allow_other lab/cats/tabby "$1"' "$2" "$3"
    trap 'umount --recursive --lazy "$3"' EXIT
    user 'ls -l "$1"/files >/dev/null && cat "$1"/secrets/project.env >/dev/null' "$2" "$3"
    for look in 'ls "$0"' 'ls "$0"/files' 'cat "$0"/secrets/project.env' 'stat "$0"/files/x' \
        'touch "$0"/files/x' 'getfattr -n user.atelier.id "$0"'; do
      if sh -c "$look" "$3" 2>said; then echo "root did: $look"; exit 1; fi
      grep -q 'Permission denied' said || { cat said; exit 1; }
    done
    "$0" --user ada member map dora 0
    sleep 1.5
    ls "$3"/files
    cat "$3"/secrets/project.env >/dev/null
    echo "and as a member it is in"
"#;

#[test]
fn root_of_the_machine_who_wants_in_is_a_stranger_unless_it_is_a_member() {
    if !root::is_here() {
        return;
    }
    let place = shared_place();
    let home = &place.home;
    let user = NOBODY.to_string();
    // He serves from a home of his own.
    succeeds(home.program("chown", ["-R", &user, "."]).output().unwrap());
    fs::write(home.path("fuse.conf"), "user_allow_other\n").unwrap();
    let open = "mknod -m 666 fuse c 10 229 && mount --bind fuse /dev/fuse && \
                touch /etc/fuse.conf && mount --bind fuse.conf /etc/fuse.conf && \
                chown root fuse.conf && exec \"$@\"";
    let script = AS_ORDINARY_USER.replace(
        "\"$0\" --user ada member map",
        "setpriv --reuid \"$2\" --regid \"$2\" --clear-groups \"$0\" member map",
    );
    let top = home.path("");
    let words = ["--mount", "sh", "-c", open, "sh", "sh", "-ec", &script];
    let words = words.into_iter().chain([env!("CARGO_BIN_EXE_atelier"), path(&top), &user]);
    let mut program = home.program("unshare", words.chain([place.dir()]));
    let output = program.env("PATH", PATH).output().unwrap();
    assert!(succeeds(output).contains("and as a member it is in"));
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_developer_who_wants_another_identity_or_a_device_gets_neither() {
    if !root::is_here() {
        return;
    }
    let place = shared_mount();
    let files = place.dir.join("files");
    let words = ["-ec", "cp /usr/bin/id id && chmod 6755 id && mknod -m 666 null c 1 3"];
    succeeds(place.home.program("sh", words).current_dir(&files).output().unwrap());
    let said = succeeds(shell_of(&place.home, DEVELOPER, &files, "./id -u"));
    assert_eq!(said.trim(), DEVELOPER.to_string());
    is_denied(shell_of(&place.home, DEVELOPER, &files, "cat null"));
    is_denied(place.home.program("cat", ["null"]).current_dir(&files).output().unwrap());
}

/// The functions of FUSE that go through a handle, and those that tell nothing of a project.
const UNASKED: &[&str] = &[
    "init",
    "forget",
    "getattr",
    "read",
    "write",
    "flush",
    "release",
    "fsync",
    "readdir",
    "readdirplus",
    "releasedir",
    "fsyncdir",
    "statfs",
    "fallocate",
    "lseek",
    "copy_file_range",
    "ioctl",
    "poll",
];

/// So that whoever adds a request has to say what it needs.
#[test]
fn no_request_that_names_a_file_passes_without_being_admitted() {
    for source in ["filesystem", "frozen"] {
        let file = format!("{}/src/fuse/{source}.rs", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(file).unwrap();
        let (_, requests) = text.split_once("Filesystem for Fuse").unwrap();
        let mut found = 0;
        for function in requests.split("\n    fn ").skip(1) {
            let name = function.split('(').next().unwrap();
            let body = function.split("\n    }\n").next().unwrap();
            let admits = body.contains("self.admit(request, Need::");
            assert_eq!(admits, !UNASKED.contains(&name), "{name} in fuse/{source}.rs");
            assert!(!admits || !body.contains("self.vfs"), "{name} goes past it");
            found += usize::from(admits);
        }
        assert!(found >= 5, "{source} was read");
    }
}
