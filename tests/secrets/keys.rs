//! Whose keys secrets are encrypted to: members, hosts, communities, and what changes of them do.

use std::fs;
use std::process::Output;

use atelier::catalog::{CommunityName, Role, Scope};
use atelier::secret::EnvironmentFile;
use atelier::secret::identity::Identities;

use super::home::{Home, done, refused, stderr, stdout};

async fn recipients(home: &Home, name: &str) -> Vec<String> {
    EnvironmentFile::parse(name, &home.body(name).await).unwrap().recipients()
}

fn as_user(home: &Home, user: &str, args: &[&str]) -> Output {
    home.command(user, args).output().unwrap()
}

/// A new member reads at once; one who is removed is shut out by a new key, file by file.
#[tokio::test]
async fn membership_decides_who_reads() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    done(&home.set("A", "staging", b"2"));
    let bob = Identities::load_or_create(&home.key_file("bob")).unwrap();
    home.catalog.as_user("bob").add_recipient("bob", &bob.recipient()).await.unwrap();
    let add = ["member", "add", "bob", "--role", "developer", "--on", "pets/cats"];
    let added = home.run(&add);
    done(&added);
    assert!(stderr(&added).contains("[2/2]"), "{}", stderr(&added));
    assert_eq!(done(&as_user(&home, "bob", &["run", "--", "printenv", "A"])), "1\n");

    let before = home.body("project").await;
    let removed = home.run(&["member", "remove", "bob", "--on", "pets/cats"]);
    done(&removed);
    let said = stderr(&removed);
    assert!(said.contains("[1/2]") && said.contains("with a new key"), "{said}");
    for name in ["project", "staging"] {
        assert!(!recipients(&home, name).await.contains(&bob.recipient()));
        let file = EnvironmentFile::parse(name, &home.body(name).await).unwrap();
        assert!(file.open(&bob).is_err());
    }
    // Each line was encrypted anew: with the old key nothing more can be read.
    let line = |body: &[u8]| String::from_utf8_lossy(body).lines().next().unwrap().to_owned();
    assert_ne!(line(&before), line(&home.body("project").await));
    assert!(!as_user(&home, "bob", &["run", "--", "printenv", "A"]).status.success());
}

/// Who makes somebody a member is told what is missing before he can read.
#[tokio::test]
async fn a_new_member_without_a_key_is_told_of_until_he_has_one() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    let add = |role: &'static str| ["member", "add", "bob", "--role", role, "--on", "pets/cats"];
    let said = |args: &[&str]| {
        let added = home.run(args);
        done(&added);
        stderr(&added)
    };
    // A viewer needs none.
    assert!(!said(&add("viewer")).contains("no key"));
    let without = said(&add("developer"));
    assert!(without.contains("bob has no key yet"), "{without}");
    assert!(without.contains("hint: he runs `atelier init`"), "{without}");

    let bob = Identities::load_or_create(&home.key_file("bob")).unwrap();
    let key = ["member", "key", "add", "bob", &bob.recipient(), "--on", "pets/cats"];
    done(&home.run(&key));
    assert!(!said(&add("editor")).contains("no key"));
    assert_eq!(done(&as_user(&home, "bob", &["run", "--", "printenv", "A"])), "1\n");
}

/// A member who lost his identity gets his secrets back by another one.
#[tokio::test]
async fn a_lost_identity_is_replaced() {
    let home = Home::new().await;
    home.member("bob").await;
    done(&home.set("A", "project", b"1"));
    let old = Identities::load(&home.key_file("bob")).unwrap().recipient();
    refused(&as_user(&home, "bob", &["identity", "new"]), 1, "already");
    fs::remove_file(home.key_file("bob")).unwrap();
    refused(&as_user(&home, "bob", &["run", "--", "true"]), 128, "no age identity");
    let recipient = done(&as_user(&home, "bob", &["identity", "new"]));
    refused(&as_user(&home, "bob", &["run", "--", "true"]), 128, "isn't encrypted to you");
    let shown = done(&as_user(&home, "bob", &["identity", "show", "--json"]));
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown[0]["recipient"], recipient.trim());
    assert_eq!((&shown[0]["present"], &shown[1]["present"]), (&true.into(), &false.into()));

    done(&home.run(&["secret", "rotate", "--all"]));
    assert_eq!(done(&as_user(&home, "bob", &["run", "--", "printenv", "A"])), "1\n");
    done(&as_user(&home, "bob", &["identity", "forget", &old]));
    let present = recipients(&home, "project").await;
    assert!(!present.contains(&old) && present.contains(&recipient.trim().to_owned()));
    let only = recipient.trim();
    refused(&as_user(&home, "bob", &["identity", "forget", only]), 1, "shut out");
}

/// A new identity takes the place of the old one everywhere, and the old key opens nothing more.
#[tokio::test]
async fn an_identity_is_rotated() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    let old = Identities::load(&home.key_file("ada")).unwrap();
    let new = done(&home.run(&["identity", "rotate"]));
    let after = Identities::load(&home.key_file("ada")).unwrap();
    assert_eq!(after.recipients(), [new.trim().to_owned(), old.recipient()]);
    assert_eq!(recipients(&home, "project").await, [new.trim()]);
    let file = EnvironmentFile::parse("project", &home.body("project").await).unwrap();
    assert!(file.open(&old).is_err());
    assert_eq!(done(&home.run(&["run", "--", "printenv", "A"])), "1\n");
    done(&home.set("B", "project", b"2"));
    assert_eq!(recipients(&home, "project").await, [new.trim()]);
}

/// An admin registers keys where he is admin, and they count there and nowhere else.
#[tokio::test]
async fn a_key_counts_where_an_admin_registered_it() {
    let home = Home::new().await;
    home.member("bob").await;
    done(&home.set("A", "project", b"1"));
    let at = CommunityName { organization: "acme".into(), community: "pets".into() };
    let dogs = home.catalog.create_project(&at, "dogs", "", None).await.unwrap();
    let on_dogs = Scope::Project(dogs.name.clone());
    home.catalog.set_role("bob", Role::Developer, &on_dogs).await.unwrap();
    let second = Identities::load_or_create(&home.dir().join("second")).unwrap().recipient();
    let add = ["member", "key", "add", "bob", &second, "--on", "pets/cats"];
    refused(&as_user(&home, "bob", &add), 1, "needs admin");
    done(&home.run(&add));
    assert!(recipients(&home, "project").await.contains(&second));
    let of_dogs = home.catalog.recipients(&dogs).await.unwrap();
    assert!(of_dogs.iter().all(|known| known.recipient != second));
    let listed = done(&home.run(&["member", "key", "list"]));
    assert!(listed.contains(&second), "{listed}");

    let remove = ["member", "key", "remove", "bob", &second, "--on", "pets/cats"];
    done(&home.run(&remove));
    assert!(!recipients(&home, "project").await.contains(&second));
    refused(&home.run(&remove), 1, "has no key");
    done(&home.run(&add));
    done(&home.run(&["member", "remove", "bob", "--on", "pets/cats"]));
    assert!(!recipients(&home, "project").await.contains(&second));
    // He comes back without what was registered for him.
    let back = ["member", "add", "bob", "--role", "developer", "--on", "pets/cats"];
    done(&home.run(&back));
    assert!(!recipients(&home, "project").await.contains(&second));
}

/// Publishing lets the members of the community in, and taking back shuts them out again.
#[tokio::test]
async fn a_published_secret_opens_to_the_community() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    home.catalog.create_community("acme", "fences", "").await.unwrap();
    let fences = CommunityName { organization: "acme".into(), community: "fences".into() };
    let on = Scope::Community(fences.clone());
    home.catalog.set_role("fay", Role::Developer, &on).await.unwrap();
    let fay = Identities::load_or_create(&home.key_file("fay")).unwrap();
    home.catalog.as_user("fay").add_recipient("fay", &fay.recipient()).await.unwrap();
    let yard = home.catalog.create_project(&fences, "yard", "", None).await.unwrap();
    let on_yard = Scope::Project(yard.name.clone());
    home.catalog.set_role("fay", Role::Developer, &on_yard).await.unwrap();

    done(&home.run(&["publish", "secret/project", "--to", "fences"]));
    assert!(recipients(&home, "project").await.contains(&fay.recipient()));
    let in_yard = |args: &[&str]| {
        home.command("fay", args).env("ATELIER_PROJECT", yard.name.to_string()).output().unwrap()
    };
    done(&in_yard(&["add", "pets/cats/secret/project"]));
    assert_eq!(done(&in_yard(&["run", "--", "printenv", "A"])), "1\n");
    refused(&in_yard(&["secret", "delete", "A"]), 1, "belongs to");
    done(&in_yard(&["secret", "copy", "project", "mine"]));
    done(&home.set("A", "project", b"2"));
    assert_eq!(done(&in_yard(&["run", "--env", "mine", "--", "printenv", "A"])), "1\n");

    done(&home.run(&["unpublish", "secret/project"]));
    assert!(!recipients(&home, "project").await.contains(&fay.recipient()));
    let file = EnvironmentFile::parse("project", &home.body("project").await).unwrap();
    assert!(file.open(&fay).is_err());
    assert_eq!(done(&in_yard(&["run", "--env", "mine", "--", "printenv", "A"])), "1\n");
}

/// Of a former member's key a reader is told, a key that nobody registered stops him.
#[tokio::test]
async fn strangers_are_named() {
    let home = Home::new().await;
    home.member("bob").await;
    done(&home.set("A", "project", b"1"));
    let on = Scope::Project(home.project.name.clone());
    home.catalog.remove_member("bob", &on).await.unwrap();
    let bob = Identities::load(&home.key_file("bob")).unwrap().recipient();
    let printed = home.run(&["run", "--", "printenv", "A"]);
    assert_eq!(stdout(&printed), "1\n");
    assert!(stderr(&printed).contains(&bob) && stderr(&printed).contains("key of bob"));

    let eve = Identities::load_or_create(&home.key_file("eve")).unwrap().recipient();
    let ada = Identities::load(&home.key_file("ada")).unwrap();
    let file = EnvironmentFile::parse("project", &home.body("project").await).unwrap();
    let both = [&file.recipients()[..], std::slice::from_ref(&eve)].concat();
    let opened = file.open(&ada).unwrap();
    home.replace_body("project", opened.seal(&both).unwrap()).await;
    refused(&home.run(&["run", "--", "printenv", "A"]), 1, &eve);
    done(&home.run(&["secret", "rotate"]));
    let printed = home.run(&["run", "--", "printenv", "A"]);
    assert_eq!((stdout(&printed).as_str(), stderr(&printed).as_str()), ("1\n", ""));
}
