//! Somebody wants his values, his key or his variables in another's environment.

use std::fs;

use atelier::secret::identity::Identities;
use atelier::secret::{EnvironmentFile, OpenEnvironment, Value};

use crate::secrets::home::{Home, done, refused, stderr, stdout};
use crate::secrets::writes::Secrets;

fn forged(to: &[String], key: &str) -> Vec<u8> {
    let mut forged = OpenEnvironment::create("project").unwrap();
    forged.set(key, Value::new(b"forged".to_vec())).unwrap();
    forged.seal(to).unwrap()
}

/// Public keys are public: who can write the catalogue can make a whole new file. He learns
/// nothing by it, and nothing that it names changes how a command runs.
#[tokio::test]
async fn to_run_code_by_a_file_forged_for_the_public_key() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"true value"));
    let ada = Identities::load(&home.key_file("ada")).unwrap().recipient();
    for name in ["LD_PRELOAD", "PATH", "BASH_ENV", "PYTHONSTARTUP", "HTTPS_PROXY", "SOPS_AGE_KEY"] {
        home.replace_body("project", forged(std::slice::from_ref(&ada), name)).await;
        let output = home.run(&["run", "--", "echo", "started"]);
        refused(&output, 1, name);
        assert!(!stderr(&output).contains("forged"));
    }
}

/// A key that is put among the recipients gets nothing by the next change, whoever makes it, and
/// whichever way: it is refused, and `rotate` shuts it out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_be_let_in_by_our_own_rotation() {
    let secrets = Secrets::mount().await;
    let home = &secrets.home;
    let eve = Identities::load_or_create(&home.key_file("eve")).unwrap();
    let ada = Identities::load(&home.key_file("ada")).unwrap();
    let injected = secrets.sealed("1", &[ada.recipient(), eve.recipient()]);

    // By the mount it doesn't come in at all.
    let refused_write = fs::write(secrets.file("project.env"), &injected).unwrap_err();
    assert_eq!(refused_write.raw_os_error(), Some(1));
    assert!(!secrets.file("project.env").exists());

    // By the catalogue it does, as far as to the next who looks.
    done(&home.set("A", "project", b"1"));
    let file = EnvironmentFile::parse("project", &home.body("project").await).unwrap();
    let opened = file.open(&ada).unwrap();
    let both = [ada.recipient(), eve.recipient()];
    home.replace_body("project", opened.seal(&both).unwrap()).await;
    for args in [&["run", "--", "true"][..], &["env"], &["secret", "edit"]] {
        refused(&home.run(args), 1, &eve.recipient());
    }
    refused(&home.set("B", "project", b"2"), 1, &eve.recipient());
    let add = ["member", "add", "bob", "--role", "developer", "--on", "pets/cats"];
    home.run(&add);
    done(&home.run(&["secret", "rotate"]));
    let file = EnvironmentFile::parse("project", &home.body("project").await).unwrap();
    assert!(!file.recipients().contains(&eve.recipient()));
    assert!(file.open(&eve).is_err());
}

/// A stanza under a member's name that is the attacker's own opens to nobody who trusts it.
#[tokio::test]
async fn to_pass_off_his_data_key_as_ours() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    let eve = Identities::load_or_create(&home.key_file("eve")).unwrap();
    let ada = Identities::load(&home.key_file("ada")).unwrap().recipient();
    let text = String::from_utf8(home.body("project").await).unwrap();
    let hers = String::from_utf8(forged(&[eve.recipient()], "A")).unwrap();
    // Her file, said to be encrypted to ada.
    let renamed = hers.replace(&eve.recipient(), &ada);
    home.replace_body("project", renamed.into_bytes()).await;
    refused(&home.run(&["run", "--", "true"]), 128, "the data key for");
    // Our file with her data key.
    let line =
        |text: &str| text.lines().find(|line| line.contains("__map_enc")).unwrap().to_owned();
    let mixed = text.replace(&line(&text), &line(&String::from_utf8(forged(&[ada], "A")).unwrap()));
    home.replace_body("project", mixed.into_bytes()).await;
    refused(&home.run(&["run", "--", "true"]), 25, "value of A");
}

/// Values can't be swapped, renamed, dropped or brought in from another file.
#[tokio::test]
async fn to_move_values_between_names() {
    let home = Home::new().await;
    done(&home.set("ADMIN_PASSWORD", "project", b"1"));
    done(&home.set("GUEST_PASSWORD", "project", b"2"));
    done(&home.set("ADMIN_PASSWORD", "other", b"3"));
    let text = String::from_utf8(home.body("project").await).unwrap();
    let other = String::from_utf8(home.body("other").await).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let swapped = text.replace("ADMIN_", "_").replace("GUEST_", "ADMIN_");
    let swapped = swapped.replacen("_PASSWORD", "GUEST_PASSWORD", 1);
    let foreign = text.replace(lines[0], other.lines().next().unwrap());
    let dropped = lines[1..].join("\n");
    let reordered = [&[lines[1], lines[0]], &lines[2..]].concat().join("\n");
    for (changed, code) in [(swapped, 25), (foreign, 25), (dropped, 51), (reordered, 51)] {
        home.replace_body("project", changed.into_bytes()).await;
        let output = home.run(&["run", "--", "echo", "started"]);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(code), ""));
    }
}
