//! The commands, run as users run them.

use std::os::unix::fs::PermissionsExt;

use crate::support::home::Home;

#[test]
fn without_a_home_every_command_says_to_make_one() {
    let home = Home::empty();
    for command in [&["org", "list"][..], &["whoami"], &["resources"], &["project", "show"]] {
        let said = home.fails(command);
        assert!(said.contains("hint: `atelier init`"), "{command:?}: {said}");
        assert_eq!(said.lines().count(), 2, "{said}");
    }
    assert!(!home.atelier().exists(), "asking makes no home");
}

#[test]
fn init_makes_a_private_home_and_keeps_what_is_there() {
    let home = Home::empty();
    let first = home.json(["init"]);
    let again = home.json(["init"]);
    assert_eq!(first, again);
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(home.atelier()), 0o700);
    assert_eq!(mode(home.atelier().join("store")), 0o700);
    assert_eq!(mode(home.atelier().join("catalog.db")), 0o600);
    let recipient = first["recipient"].as_str().unwrap();
    assert!(recipient.starts_with("age1"), "{recipient}");
    assert_eq!(home.json(["whoami"])["recipients"], serde_json::json!([recipient]));
}

#[test]
fn a_home_that_was_open_to_others_is_closed() {
    let home = Home::empty();
    std::fs::create_dir_all(home.atelier()).unwrap();
    std::fs::set_permissions(home.atelier(), std::fs::Permissions::from_mode(0o755)).unwrap();
    home.ok(["init"]);
    assert_eq!(home.atelier().metadata().unwrap().permissions().mode() & 0o7777, 0o700);
}

#[test]
fn names_with_blanks_work_everywhere() {
    let home = Home::new();
    home.ok(["org", "create", "Cat Lab"]);
    home.ok(["community", "create", "Cat Lab/Cats Team"]);
    home.ok(["project", "create", "Cat Lab/Cats Team/tabby", "--description", "stripes"]);
    home.ok(["use", "Cat Lab/Cats Team/tabby"]);
    let me = home.json(["whoami"]);
    assert_eq!(me["project"], "Cat Lab/Cats Team/tabby");
    assert_eq!(me["role"], "admin");
    assert_eq!(home.json(["project", "show"])["description"], "stripes");
    home.ok(["member", "add", "bob", "--role", "viewer", "--on", "Cats Team/tabby"]);
    let members = home.json(["member", "list"]);
    assert_eq!(members[1]["user"], "bob");
    assert_eq!(members[1]["role"], "viewer");
}

#[test]
fn an_organization_comes_with_its_team() {
    let home = Home::new();
    home.ok(["org", "create", "lab"]);
    let communities = home.json(["community", "list"]);
    assert_eq!(communities[0]["name"], "lab/lab Team");
    assert_eq!(communities[0]["role"], "admin");
    let said = home.fails(["community", "delete", "lab/lab Team"]);
    assert!(said.contains("stays"), "{said}");
    assert_eq!(home.run(["org", "delete", "lab"]).code, 2, "there is no such command");
}

#[test]
fn a_name_is_refused_with_the_rule() {
    let home = Home::with_project();
    let said = home.fails(["project", "create", "lab/cats/Tabby"]);
    assert!(said.contains("1 to 63 lower-case letters, digits and hyphens"), "{said}");
    assert_eq!(home.run(["project", "create", "lab/cats/Tabby"]).code, 2);
    let said = home.fails(["org", "create", "a/b"]);
    assert!(said.contains("1 to 58 characters, no /"), "{said}");
    let said = home.fails(["project", "create", "tabby"]);
    assert!(said.contains("hint: write it as ORGANIZATION/COMMUNITY/PROJECT"), "{said}");
}

#[test]
fn a_second_thing_of_a_name_is_refused() {
    let home = Home::with_project();
    for command in [
        &["org", "create", "lab"][..],
        &["community", "create", "lab/cats"],
        &["project", "create", "lab/cats/tabby"],
    ] {
        let said = home.fails(command);
        assert!(said.contains("is there already"), "{command:?}: {said}");
    }
}

#[test]
fn who_is_not_in_the_organization_finds_nothing() {
    let home = Home::with_project();
    let said = home.run_as("eve", ["project", "show", "lab/cats/tabby"]).expect_failure();
    assert!(said.contains("project lab/cats/tabby isn't there"), "{said}");
    let said = home.run_as("eve", ["org", "show", "lab"]).expect_failure();
    assert!(said.contains("organization lab isn't there"), "{said}");
    assert_eq!(home.run_as("eve", ["community", "list", "--json"]).expect_ok(), "[]\n");
    assert_eq!(home.run_as("eve", ["project", "list", "--json"]).expect_ok(), "[]\n");
}

#[test]
fn a_role_that_is_too_low_is_named_with_what_to_do() {
    let home = Home::with_project();
    home.ok(["member", "add", "bob", "--role", "developer", "--on", "cats"]);
    let said = home.run_as("bob", ["project", "delete", "lab/cats/tabby"]).expect_failure();
    assert_eq!(
        said,
        "error: bob has the role viewer on lab/cats/tabby, and this needs editor\n\
         hint: one of its admins can run `atelier member add bob --role editor --on \
         \"cats/tabby\"`\n"
    );
    home.run_as("bob", ["project", "create", "lab/cats/own"]).expect_ok();
}

#[test]
fn the_last_admin_stays() {
    let home = Home::with_project();
    let said = home.fails(["member", "remove", "ada", "--on", "cats"]);
    assert!(said.contains("ada is the last admin of cats"), "{said}");
    home.ok(["member", "add", "bob", "--role", "admin", "--on", "cats"]);
    home.ok(["member", "remove", "ada", "--on", "cats"]);
}

#[test]
fn a_project_with_files_is_deleted_only_with_them() {
    let home = Home::with_project();
    let id = home.json(["project", "show"])["id"].as_str().unwrap().to_owned();
    let files = home.atelier().join("projects").join(id).join("files");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("notes.txt"), "work").unwrap();
    let said = home.fails(["project", "delete", "lab/cats/tabby"]);
    assert!(said.contains("--with-files"), "{said}");
    assert!(files.join("notes.txt").exists());
    let said = home.fails(["community", "delete", "lab/cats"]);
    assert!(said.contains("isn't empty: project tabby"), "{said}");
    home.ok(["project", "delete", "lab/cats/tabby", "--with-files"]);
    assert!(!files.exists());
    home.ok(["community", "delete", "lab/cats"]);
    let said = home.fails(["project", "show"]);
    assert!(said.contains("no project is chosen") && said.contains("atelier use"), "{said}");
}

#[test]
fn sharing_names_what_is_missing() {
    let home = Home::with_project();
    let said = home.fails(["publish", "dataset/flowers", "--to", "cats"]);
    assert!(said.contains("dataset flowers of lab/cats/tabby isn't there"), "{said}");
    assert!(said.contains("hint: `atelier dataset list`"), "{said}");
    let said = home.fails(["publish", "flowers", "--to", "cats"]);
    assert!(said.contains("hint: write it as KIND/NAME"), "{said}");
    let said = home.fails(["publish", "flower/rose", "--to", "cats"]);
    assert!(said.contains("one of dataset, secret, s3"), "{said}");
    let said = home.fails(["add", "cats/tabby/dataset/flowers"]);
    assert!(said.contains("cats doesn't offer cats/tabby/dataset/flowers"), "{said}");
    assert_eq!(home.json(["resources"]), serde_json::json!([]));
}

#[test]
fn eight_processes_make_the_home_and_write_at_once() {
    let home = Home::empty();
    let at_once = |commands: Vec<Vec<String>>| {
        let children: Vec<_> = commands
            .into_iter()
            .map(|command| {
                home.command(command)
                    .stderr(std::process::Stdio::piped())
                    .stdout(std::process::Stdio::null())
                    .spawn()
                    .expect("the program starts")
            })
            .collect();
        for child in children {
            let output = child.wait_with_output().expect("the program ends");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
        }
    };
    let words = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    at_once((0..8).map(|_| words("init".to_owned())).collect());
    home.ok(["org", "create", "lab"]);
    at_once((0..8).map(|n| words(format!("community create lab/c{n}"))).collect());
    at_once((0..8).map(|n| words(format!("project create lab/c0/p{n}"))).collect());
    assert_eq!(home.json(["project", "list"]).as_array().unwrap().len(), 8);
}

#[test]
fn a_resource_is_published_added_removed_and_taken_back() {
    let home = Home::with_project();
    home.run_with(b"value", ["secret", "set", "TOKEN"]).expect_ok();
    home.ok(["publish", "secret/project", "--to", "cats"]);
    let said = home.fails(["publish", "secret/project", "--to", "cats"]);
    assert!(said.contains("is there already"), "{said}");
    let offered = home.json(["resources"]);
    assert_eq!(offered[0]["reference"], "cats/tabby/secret/project");
    assert_eq!(offered[0]["publisher"], "ada");

    home.ok(["project", "create", "lab/cats/manx"]);
    let manx = ["--project", "lab/cats/manx"];
    let in_manx = |args: &[&'static str]| home.run(manx.iter().copied().chain(args.to_vec()));
    in_manx(&["add", "cats/tabby/secret/project"]).expect_ok();
    let said = in_manx(&["publish", "secret/project", "--to", "cats"]).expect_failure();
    assert!(said.contains("secret/project belongs to lab/cats/tabby"), "{said}");
    in_manx(&["remove", "cats/tabby/secret/project"]).expect_ok();
    in_manx(&["add", "cats/tabby/secret/project"]).expect_ok();
    in_manx(&["remove", "secret/project"]).expect_ok();
    in_manx(&["add", "cats/tabby/secret/project"]).expect_ok();

    let said = home.fails(["remove", "secret/project"]);
    assert!(said.contains("it is its own"), "{said}");
    let taken_back = home.run(["unpublish", "secret/project"]);
    assert!(taken_back.stderr.contains("lab/cats/manx lost it"), "{taken_back:?}");
    let said = home.fails(["unpublish", "secret/project"]);
    assert!(said.contains("secret/project isn't published"), "{said}");
    let said = in_manx(&["remove", "secret/project"]).expect_failure();
    assert!(said.contains("secret project of lab/cats/manx isn't there"), "{said}");
}

#[test]
fn every_command_has_help_and_refuses_what_it_does_not_know() {
    let home = Home::empty();
    for noun in ["init", "org", "community", "project", "member", "use", "whoami", "publish"] {
        let help = home.ok([noun, "--help"]);
        assert!(help.contains("Usage: atelier"), "{help}");
        assert_eq!(home.run([noun, "--nonsense"]).code, 2);
    }
    assert!(!home.atelier().exists());
}
