//! What the catalogue promises, whichever database is behind it.

use atelier::catalog::{
    Catalog, CommunityName, Kind, NewResource, NewVersion, Policy, Project, ProjectName, Resource,
    ResourceChange, Role, Scope, VersionChange, checkpoint_name,
};
use atelier::error::{ErrorKind, Result};
use serde_json::json;

/// A catalogue in a folder that is gone when this is dropped, as ada sees it.
struct Fresh {
    catalog: Catalog,
    dir: tempfile::TempDir,
}

impl Fresh {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("catalog.db"), "ada").await.unwrap();
        Self { catalog, dir }
    }

    /// With the organization `lab`, its communities `cats` and `dogs`, and a project in each.
    async fn with_lab() -> (Self, Project, Project) {
        let fresh = Self::new().await;
        fresh.catalog.create_organization("lab").await.unwrap();
        let tabby = fresh.project("lab/cats/tabby").await;
        let pug = fresh.project("lab/dogs/pug").await;
        (fresh, tabby, pug)
    }

    async fn project(&self, name: &str) -> Project {
        make_project(&self.catalog, name).await
    }
}

async fn make_project(catalog: &Catalog, name: &str) -> Project {
    let name: ProjectName = name.parse().unwrap();
    if catalog.community(&name.at()).await.is_err() {
        catalog.create_community(&name.organization, &name.community, "").await.unwrap();
    }
    catalog.create_project(&name.at(), &name.project, "", None).await.unwrap()
}

fn community(name: &str) -> Scope {
    Scope::Community(name.parse().unwrap())
}

fn project(name: &str) -> Scope {
    Scope::Project(name.parse().unwrap())
}

fn new(kind: Kind, name: &str) -> NewResource {
    NewResource { kind, name: name.to_owned(), description: String::new(), spec: json!({}) }
}

fn root(text: &str) -> NewVersion {
    NewVersion { root: text.to_owned(), files: 3, bytes: 300, spec: json!({}), needs: vec![] }
}

async fn dataset(catalog: &Catalog, project: &Project, name: &str) -> Resource {
    catalog.publish_version(project, new(Kind::Dataset, name), root(name)).await.unwrap().0
}

async fn checkpoint(catalog: &Catalog, project: &Project) -> Resource {
    let number = catalog.next_checkpoint_number(project).await.unwrap();
    let new = new(Kind::Checkpoint, &checkpoint_name(number));
    catalog.publish_version(project, new, root("state")).await.unwrap().0
}

async fn shown_names(catalog: &Catalog, project: &Project, kind: Kind) -> Vec<String> {
    let all = catalog.resources(project, kind).await.unwrap();
    all.into_iter().map(|shown| shown.name).collect()
}

#[track_caller]
fn kind<T>(result: Result<T>) -> ErrorKind {
    result.err().expect("it is refused").kind()
}

#[track_caller]
fn message<T>(result: Result<T>) -> String {
    result.err().expect("it is refused").to_string()
}

#[tokio::test]
async fn what_is_written_is_there_when_it_is_opened_again() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    let flowers = dataset(&fresh.catalog, &tabby, "flowers").await;
    fresh.catalog.close().await;
    let again = Catalog::open(&fresh.dir.path().join("catalog.db"), "ada").await.unwrap();
    assert_eq!(again.project(&tabby.name).await.unwrap(), tabby);
    assert_eq!(again.project_by_id(&tabby.id).await.unwrap(), tabby);
    assert_eq!(again.resource(&tabby, Kind::Dataset, "flowers").await.unwrap(), flowers);
    assert_eq!(again.versions(&flowers.id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_path_may_hold_what_means_something_in_a_url() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a ?b=c#d%20é/catalog.db");
    let catalog = Catalog::open(&file, "ada").await.unwrap();
    catalog.create_organization("lab").await.unwrap();
    assert!(file.exists());
}

#[tokio::test]
async fn a_catalogue_of_a_newer_program_is_refused() {
    let fresh = Fresh::new().await;
    fresh.catalog.close().await;
    let file = fresh.dir.path().join("catalog.db");
    let database = written_by_python(&file, "INSERT INTO format (version) VALUES (99)");
    assert!(database, "sqlite3 writes the file");
    let error = Catalog::open(&file, "ada").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("has format 99, this program knows formats up to"));
    assert!(error.hint().unwrap().contains("newer"));
}

/// What a program wrote that knew no tags and no accounts is read by one that does.
#[tokio::test]
async fn a_catalogue_of_the_second_format_gets_what_later_ones_add() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    let flowers = dataset(&fresh.catalog, &tabby, "flowers").await;
    fresh.catalog.close().await;
    let file = fresh.dir.path().join("catalog.db");
    for statement in [
        "DROP TABLE storage",
        "ALTER TABLE project DROP COLUMN checkpoint_gib",
        "DROP TABLE tag",
        "ALTER TABLE project DROP COLUMN active_datasets",
        "DROP TABLE account",
        "DROP TABLE placed_recipient",
        "ALTER TABLE recipient DROP COLUMN retired",
        "DELETE FROM format WHERE version >= 3",
    ] {
        assert!(written_by_python(&file, statement), "{statement}");
    }
    let catalog = Catalog::open(&file, "ada").await.unwrap();
    assert_eq!(catalog.project(&tabby.name).await.unwrap(), tabby);
    assert_eq!(catalog.tag(&flowers.id, 1, "first", false).await.unwrap(), None);
    assert_eq!(catalog.tagged(&flowers.id, "first").await.unwrap(), Some(1));
    catalog.map_account("lab", "ada", 1001).await.unwrap();
    let roles = catalog.roles_of_accounts(&tabby).await.unwrap();
    assert_eq!(roles.into_iter().collect::<Vec<_>>(), [(1001, Role::Admin)]);
}

#[tokio::test]
async fn a_tag_belongs_to_one_version_and_goes_with_it() {
    let (fresh, tabby, pug) = Fresh::with_lab().await;
    let catalog = &fresh.catalog;
    let flowers = dataset(catalog, &tabby, "flowers").await;
    catalog.publish_version(&tabby, new(Kind::Dataset, "flowers"), root("b")).await.unwrap();
    catalog.tag(&flowers.id, 1, "best", false).await.unwrap();
    catalog.tag(&flowers.id, 1, "best", false).await.unwrap();
    assert_eq!(kind(catalog.tag(&flowers.id, 2, "best", false).await), ErrorKind::AlreadyExists);
    assert_eq!(kind(catalog.tag(&flowers.id, 9, "best", true).await), ErrorKind::NotFound);
    assert_eq!(catalog.tag(&flowers.id, 2, "best", true).await.unwrap(), Some(1));
    catalog.tag(&flowers.id, 1, "first", false).await.unwrap();
    let tags = catalog.tags(&flowers.id).await.unwrap();
    let tags: Vec<_> = tags.iter().map(|tag| (tag.name.as_str(), tag.version)).collect();
    assert_eq!(tags, [("best", 2), ("first", 1)]);
    let saved = checkpoint(catalog, &tabby).await;
    assert_eq!(kind(catalog.tag(&saved.id, 1, "best", false).await), ErrorKind::InvalidInput);

    // A consumer finds versions by the owner's tags, and changes none.
    catalog.set_role("bob", Role::Developer, &project("lab/dogs/pug")).await.unwrap();
    catalog.publish(&flowers, "dogs").await.unwrap();
    let bob = catalog.as_user("bob");
    bob.add(&pug, &flowers.reference()).await.unwrap();
    assert_eq!(bob.tagged(&flowers.id, "best").await.unwrap(), Some(2));
    assert_eq!(kind(bob.untag(&flowers.id, "best").await), ErrorKind::PermissionDenied);
    catalog.unpublish(&flowers, "dogs").await.unwrap();

    catalog.delete_version(&flowers.id, 1).await.unwrap();
    assert_eq!(catalog.tagged(&flowers.id, "first").await.unwrap(), None);
    assert_eq!(catalog.untag(&flowers.id, "best").await.unwrap(), 2);
    assert_eq!(kind(catalog.untag(&flowers.id, "best").await), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_added_dataset_counts_among_the_active_ones() {
    let (fresh, tabby, pug) = Fresh::with_lab().await;
    let catalog = &fresh.catalog;
    let flowers = dataset(catalog, &tabby, "flowers").await;
    dataset(catalog, &pug, "bones").await;
    catalog.publish(&flowers, "dogs").await.unwrap();
    let limited = catalog.limit_active_datasets(&pug.name, Some(1)).await.unwrap();
    assert_eq!(limited.active_datasets, Some(1));
    let refused = catalog.add(&pug, &flowers.reference()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::StorageFull);
    assert_eq!(refused.to_string(), "project pug may have 1 active dataset, and has bones");
    catalog.activate(&pug, Kind::Dataset, "bones", false).await.unwrap();
    catalog.add(&pug, &flowers.reference()).await.unwrap();
    let again = catalog.activate(&pug, Kind::Dataset, "bones", true).await;
    assert_eq!(kind(again), ErrorKind::StorageFull);
    let new = catalog.publish_version(&pug, new(Kind::Dataset, "toys"), root("toys")).await;
    assert_eq!(kind(new), ErrorKind::StorageFull);
    // Other kinds have no limit, and the limit is for editors to set.
    checkpoint(catalog, &pug).await;
    catalog.set_role("bob", Role::Developer, &project("lab/dogs/pug")).await.unwrap();
    let as_bob = catalog.as_user("bob").limit_active_datasets(&pug.name, None).await;
    assert_eq!(kind(as_bob), ErrorKind::PermissionDenied);
    let none = catalog.limit_active_datasets(&pug.name, None).await.unwrap();
    assert_eq!(none.active_datasets, None);
}

/// Runs a statement with Python's sqlite3, so that it doesn't go through our own code.
fn written_by_python(file: &std::path::Path, statement: &str) -> bool {
    let script =
        "import sqlite3, sys\nd = sqlite3.connect(sys.argv[1])\nd.execute(sys.argv[2])\nd.commit()";
    std::process::Command::new("python3")
        .args(["-c", script])
        .arg(file)
        .arg(statement)
        .status()
        .is_ok_and(|status| status.success())
}

#[tokio::test]
async fn a_file_that_is_no_catalogue_is_refused_as_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("catalog.db");
    std::fs::write(&file, "this is no database ".repeat(100)).unwrap();
    assert_eq!(kind(Catalog::open(&file, "ada").await), ErrorKind::Damaged);
}

#[tokio::test]
async fn no_catalogue_is_opened_where_none_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("home/catalog.db");
    let error = Catalog::open_existing(&file, "ada").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!dir.path().join("home").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_open_and_write_at_once_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("catalog.db");
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let file = file.clone();
            tokio::spawn(async move {
                let catalog = Catalog::open(&file, "ada").await.unwrap();
                let _ = catalog.create_organization("lab").await;
                for m in 0..10 {
                    catalog.create_community("lab", &format!("c{n}-{m}"), "").await.unwrap();
                    catalog.organizations().await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let catalog = Catalog::open(&file, "ada").await.unwrap();
    assert_eq!(catalog.communities("lab").await.unwrap().len(), 81);
}

#[tokio::test]
async fn the_revision_grows_with_every_change_and_with_nothing_else() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    let catalog = &fresh.catalog;
    let before = catalog.revision().await.unwrap();
    catalog.resources(&tabby, Kind::Dataset).await.unwrap();
    catalog.select_project(&tabby.name).await.unwrap();
    assert_eq!(kind(catalog.create_organization("lab").await), ErrorKind::AlreadyExists);
    assert_eq!(catalog.revision().await.unwrap(), before, "nothing changed");
    dataset(catalog, &tabby, "flowers").await;
    let after = catalog.revision().await.unwrap();
    assert!(after > before);
    catalog.activate(&tabby, Kind::Dataset, "flowers", false).await.unwrap();
    assert!(catalog.revision().await.unwrap() > after);
}

#[tokio::test]
async fn names_are_checked_and_the_rule_is_in_the_message() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    let catalog = &fresh.catalog;
    let at = tabby.name.at();
    let long = |n: usize| "a".repeat(n);
    for name in ["a", "a1", "a-b", &long(63)] {
        catalog.create_project(&at, name, "", None).await.unwrap();
    }
    for name in ["", "1a", "-a", "a-", "A", "ä", "a_b", "a/b", "a b", "..", &long(64)] {
        let refused = catalog.create_project(&at, name, "", None).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{name:?}");
        assert!(refused.to_string().contains("1 to 63 lower-case letters"), "{refused}");
    }
    for name in ["abc", &long(63)] {
        catalog.create_resource(&tabby, new(Kind::Dataset, name)).await.unwrap();
    }
    for name in ["ab", "ab-", "Abc", &long(64)] {
        let refused = catalog.create_resource(&tabby, new(Kind::Dataset, name)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{name:?}");
        assert!(refused.to_string().contains("3 to 63 lower-case letters"), "{refused}");
    }
    for name in ["", " a", "a ", "a/b", "a\n", &"ü".repeat(64)] {
        let refused = catalog.create_community("lab", name, "").await.unwrap_err();
        assert!(refused.to_string().contains("1 to 63 characters, no /"), "{refused}");
    }
    catalog.create_community("lab", &"ü".repeat(63), "").await.unwrap();
    let text = "x".repeat(257);
    let refused = catalog.create_project(&at, "described", &text, None).await.unwrap_err();
    assert!(refused.to_string().contains("at most 256"), "{refused}");
    catalog.create_project(&at, "described", &text[1..], None).await.unwrap();
    for quota in [0, 4097] {
        let refused = catalog.create_project(&at, "limited", "", Some(quota)).await;
        assert_eq!(message(refused), "a quota is 1 to 4096 GiB");
    }
    let limited = catalog.create_project(&at, "limited", "", Some(4096)).await.unwrap();
    assert_eq!(limited.quota_gib, Some(4096));
}

#[tokio::test]
async fn the_longest_organization_still_has_its_team() {
    let fresh = Fresh::new().await;
    let name = "x".repeat(58);
    fresh.catalog.create_organization(&name).await.unwrap();
    let team = &fresh.catalog.communities(&name).await.unwrap()[0];
    assert_eq!(team.name.community, format!("{name} Team"));
    assert!(team.is_default);
    assert_eq!(
        kind(fresh.catalog.create_organization(&"x".repeat(59)).await),
        ErrorKind::InvalidInput
    );
}

#[tokio::test]
async fn every_member_of_the_organization_is_developer_in_its_team() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    let bob = fresh.catalog.as_user("bob");
    assert_eq!(kind(bob.organization("lab").await), ErrorKind::NotFound);
    fresh.catalog.set_role("bob", Role::Viewer, &project("lab/cats/tabby")).await.unwrap();
    let team: CommunityName = "lab/lab Team".parse().unwrap();
    let team = bob.community(&team).await.unwrap();
    assert_eq!(bob.role_in(&team).await.unwrap(), Some(Role::Developer));
    assert_eq!(bob.role_on(&tabby).await.unwrap(), Some(Role::Viewer));
    make_project(&bob, "lab/lab Team/own").await;
    let lower = fresh.catalog.set_role("bob", Role::Viewer, &community("lab/lab Team")).await;
    assert_eq!(kind(lower), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn who_leaves_the_team_leaves_the_organization() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    let (ada, bob) = (&fresh.catalog, fresh.catalog.as_user("bob"));
    ada.set_role("bob", Role::Admin, &community("lab/cats")).await.unwrap();
    ada.set_role("bob", Role::Editor, &project("lab/dogs/pug")).await.unwrap();
    ada.remove_member("bob", &community("lab/lab Team")).await.unwrap();
    assert!(bob.organizations().await.unwrap().is_empty());
    assert_eq!(bob.role_on(&tabby).await.unwrap(), None);
    assert_eq!(kind(bob.project(&tabby.name).await), ErrorKind::NotFound);
    assert!(bob.projects(None).await.unwrap().is_empty());
    let again = ada.remove_member("bob", &community("lab/cats")).await;
    assert_eq!(kind(again), ErrorKind::NotFound);
}

#[tokio::test]
async fn the_effective_role_is_the_higher_of_the_direct_and_the_inherited() {
    use Role::{Admin, Developer, Editor, Viewer};
    let (fresh, tabby, _) = Fresh::with_lab().await;
    let bob = fresh.catalog.as_user("bob");
    for (above, direct, effective) in [
        (Viewer, None, Viewer),
        (Developer, None, Viewer),
        (Editor, None, Editor),
        (Admin, None, Admin),
        (Viewer, Some(Developer), Developer),
        (Developer, Some(Viewer), Viewer),
        (Developer, Some(Admin), Admin),
        (Editor, Some(Viewer), Editor),
        (Editor, Some(Developer), Editor),
        (Admin, Some(Viewer), Admin),
    ] {
        fresh.catalog.set_role("bob", above, &community("lab/cats")).await.unwrap();
        if let Some(direct) = direct {
            fresh.catalog.set_role("bob", direct, &project("lab/cats/tabby")).await.unwrap();
        }
        assert_eq!(bob.role_on(&tabby).await.unwrap(), Some(effective), "{above} {direct:?}");
        let members = bob.members(&project("lab/cats/tabby")).await.unwrap();
        let listed = members.iter().find(|member| member.user == "bob").unwrap();
        assert_eq!(listed.role, effective);
        if direct.is_some() {
            fresh.catalog.remove_member("bob", &project("lab/cats/tabby")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn each_role_may_do_what_is_its_own_and_no_more() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    let bob = fresh.catalog.as_user("bob");
    let on = project("lab/cats/tabby");
    dataset(&fresh.catalog, &tabby, "flowers").await;
    fresh.catalog.put_environment(&tabby, "project", None, b"A=1".to_vec()).await.unwrap();
    for role in Role::ALL {
        fresh.catalog.set_role("bob", *role, &on).await.unwrap();
        assert!(bob.resource(&tabby, Kind::Dataset, "flowers").await.is_ok(), "{role} sees");
        let name = format!("by-{role}");
        let allowed = [
            (Role::Developer, bob.create_resource(&tabby, new(Kind::Dataset, &name)).await.err()),
            (Role::Developer, bob.environment(&tabby, "project").await.err()),
            (Role::Developer, bob.next_checkpoint_number(&tabby).await.err()),
            (Role::Admin, bob.set_role("eve", Role::Viewer, &on).await.err()),
        ];
        for (needed, refusal) in allowed {
            assert_eq!(refusal.is_none(), *role >= needed, "{role}: {refusal:?}");
            if let Some(refusal) = refusal {
                assert_eq!(refusal.kind(), ErrorKind::PermissionDenied);
            }
        }
        let deletion = bob.delete_project(&tabby.name).await;
        let expected = if *role >= Role::Editor {
            ErrorKind::ResourceBusy
        } else {
            ErrorKind::PermissionDenied
        };
        assert_eq!(kind(deletion), expected, "{role}");
    }
}

#[tokio::test]
async fn a_project_in_ones_own_organization_is_denied_and_a_foreign_one_is_not_there() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    fresh.catalog.set_role("bob", Role::Developer, &community("lab/lab Team")).await.unwrap();
    let (bob, eve) = (fresh.catalog.as_user("bob"), fresh.catalog.as_user("eve"));
    eve.create_organization("rivals").await.unwrap();
    assert_eq!(kind(bob.project(&tabby.name).await), ErrorKind::PermissionDenied);
    let at = tabby.name.at();
    let flowers = dataset(&fresh.catalog, &tabby, "flowers").await;
    assert_eq!(kind(eve.organization("lab").await), ErrorKind::NotFound);
    assert_eq!(kind(eve.communities("lab").await), ErrorKind::NotFound);
    assert_eq!(kind(eve.community(&at).await), ErrorKind::NotFound);
    assert_eq!(kind(eve.create_community("lab", "spies", "").await), ErrorKind::NotFound);
    assert_eq!(kind(eve.create_project(&at, "spy", "", None).await), ErrorKind::NotFound);
    assert_eq!(kind(eve.project(&tabby.name).await), ErrorKind::NotFound);
    assert_eq!(kind(eve.project_by_id(&tabby.id).await), ErrorKind::NotFound);
    assert_eq!(kind(eve.delete_project(&tabby.name).await), ErrorKind::NotFound);
    assert_eq!(kind(eve.select_project(&tabby.name).await), ErrorKind::NotFound);
    assert_eq!(kind(eve.resources(&tabby, Kind::Dataset).await), ErrorKind::NotFound);
    assert_eq!(kind(eve.versions(&flowers.id).await), ErrorKind::NotFound);
    assert_eq!(kind(eve.version(&flowers.id, 1).await), ErrorKind::NotFound);
    assert_eq!(kind(eve.delete_resource(&flowers).await), ErrorKind::NotFound);
    assert_eq!(kind(eve.publish(&flowers, "cats").await), ErrorKind::NotFound);
    assert_eq!(kind(eve.members(&community("lab/cats")).await), ErrorKind::NotFound);
    assert_eq!(kind(eve.offers(&at).await), ErrorKind::NotFound);
    assert_eq!(kind(eve.environment(&tabby, "project").await), ErrorKind::NotFound);
    assert_eq!(kind(eve.set_policy("lab", Policy::Current).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_project_is_shared_only_within_its_organization() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    let flowers = dataset(&fresh.catalog, &tabby, "flowers").await;
    fresh.catalog.create_organization("other").await.unwrap();
    fresh.project("other/birds/wren").await;
    assert_eq!(kind(fresh.catalog.publish(&flowers, "birds").await), ErrorKind::NotFound);
    fresh.catalog.publish(&flowers, "cats").await.unwrap();
    let wren = fresh.project("other/cats/wren").await;
    let added = fresh.catalog.add(&wren, &flowers.reference()).await;
    assert_eq!(kind(added), ErrorKind::NotFound);
}

/// The test vector of the product description under `seed`.
#[tokio::test]
async fn under_seed_publishing_needs_admin_on_both_sides() {
    let vector = Vector::new(Policy::Seed).await;
    let Vector { fresh, .. } = &vector;
    let user = &vector.user;
    fresh.catalog.set_role("uma", Role::Admin, &community("lab/Cats")).await.unwrap();
    fresh.catalog.set_role("uma", Role::Admin, &community("lab/Fences")).await.unwrap();
    fresh.catalog.set_role("uma", Role::Developer, &community("lab/Top-secret")).await.unwrap();
    fresh.catalog.set_role("uma", Role::Admin, &project("lab/Top-secret/p111")).await.unwrap();
    for (resource, to, allowed) in [
        (&vector.of_cats, "Cats", true),
        (&vector.of_cats, "Fences", true),
        (&vector.of_fences, "Cats", true),
        (&vector.of_fences, "Fences", true),
        (&vector.of_p111, "Cats", true),
        (&vector.of_p111, "Fences", true),
        (&vector.of_p111, "Top-secret", false),
        (&vector.of_cats, "Top-secret", false),
    ] {
        let result = user.publish(resource, to).await;
        assert_eq!(result.is_ok(), allowed, "{} to {to}: {result:?}", resource.owner);
        if !allowed {
            assert_eq!(kind(result), ErrorKind::PermissionDenied);
        }
    }
}

/// The test vector of the product description under `current`.
#[tokio::test]
async fn under_current_publishing_needs_editor_and_developer() {
    let vector = Vector::new(Policy::Current).await;
    let Vector { fresh, .. } = &vector;
    let user = &vector.user;
    fresh.catalog.set_role("uma", Role::Admin, &community("lab/Cats")).await.unwrap();
    fresh.catalog.set_role("uma", Role::Developer, &community("lab/Fences")).await.unwrap();
    fresh.catalog.set_role("uma", Role::Viewer, &community("lab/Top-secret")).await.unwrap();
    fresh.catalog.set_role("uma", Role::Editor, &project("lab/Top-secret/p111")).await.unwrap();
    for (resource, to, allowed) in [
        (&vector.of_cats, "Cats", true),
        (&vector.of_cats, "Fences", true),
        (&vector.of_p111, "Cats", true),
        (&vector.of_p111, "Fences", true),
        (&vector.of_p111, "Top-secret", false),
        (&vector.of_cats, "Top-secret", false),
        (&vector.of_fences, "Cats", false),
    ] {
        let result = user.publish(resource, to).await;
        assert_eq!(result.is_ok(), allowed, "{} to {to}: {result:?}", resource.owner);
    }
}

struct Vector {
    fresh: Fresh,
    user: Catalog,
    of_cats: Resource,
    of_fences: Resource,
    of_p111: Resource,
}

impl Vector {
    async fn new(policy: Policy) -> Self {
        let fresh = Fresh::new().await;
        let catalog = &fresh.catalog;
        catalog.create_organization("lab").await.unwrap();
        catalog.set_policy("lab", policy).await.unwrap();
        assert_eq!(catalog.organization("lab").await.unwrap().policy, policy);
        let cats = fresh.project("lab/Cats/purr").await;
        let fences = fresh.project("lab/Fences/wood").await;
        let secret = fresh.project("lab/Top-secret/p111").await;
        let of_cats = dataset(catalog, &cats, "of-cats").await;
        let of_fences = dataset(catalog, &fences, "of-fences").await;
        let of_p111 = dataset(catalog, &secret, "of-p111").await;
        let user = catalog.as_user("uma");
        Self { fresh, user, of_cats, of_fences, of_p111 }
    }
}

#[tokio::test]
async fn an_added_resource_shows_under_its_name_and_the_own_one_wins() {
    let (fresh, tabby, pug) = Fresh::with_lab().await;
    let catalog = &fresh.catalog;
    let flowers = dataset(catalog, &tabby, "flowers").await;
    let refused = catalog.add(&pug, &flowers.reference()).await;
    assert_eq!(message(refused), "dogs doesn't offer cats/tabby/dataset/flowers");
    catalog.publish(&flowers, "dogs").await.unwrap();
    assert_eq!(kind(catalog.publish(&flowers, "dogs").await), ErrorKind::AlreadyExists);
    assert_eq!(catalog.offers(&pug.name.at()).await.unwrap()[0].resource, flowers);
    let added = catalog.add(&pug, &"cats/tabby/dataset/flowers".parse().unwrap()).await.unwrap();
    assert_eq!((added.name.as_str(), added.active, added.added), ("flowers", true, true));
    let twice = catalog.add(&pug, &flowers.reference()).await;
    assert_eq!(kind(twice), ErrorKind::AlreadyExists);
    dataset(catalog, &pug, "flowers").await;
    assert_eq!(shown_names(catalog, &pug, Kind::Dataset).await, ["flowers", "flowers@tabby"]);
    let own = catalog.resource(&pug, Kind::Dataset, "flowers").await.unwrap();
    assert_eq!(own.owner, pug.name);
    let other = catalog.resource(&pug, Kind::Dataset, "flowers@tabby").await.unwrap();
    assert_eq!(other.id, flowers.id);
    catalog.remove(&pug, &flowers.id).await.unwrap();
    assert_eq!(shown_names(catalog, &pug, Kind::Dataset).await, ["flowers"]);
    assert_eq!(kind(catalog.remove(&pug, &flowers.id).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_consumer_reads_and_hides_what_was_added_but_never_changes_it() {
    let (fresh, tabby, pug) = Fresh::with_lab().await;
    let ada = &fresh.catalog;
    ada.set_role("bob", Role::Developer, &project("lab/dogs/pug")).await.unwrap();
    let bob = ada.as_user("bob");
    let flowers = dataset(ada, &tabby, "flowers").await;
    assert_eq!(kind(bob.versions(&flowers.id).await), ErrorKind::NotFound);
    ada.publish(&flowers, "dogs").await.unwrap();
    assert_eq!(bob.offers(&pug.name.at()).await.unwrap().len(), 1);
    bob.add(&pug, &flowers.reference()).await.unwrap();
    assert_eq!(bob.versions(&flowers.id).await.unwrap().len(), 1);
    let hidden = bob.activate(&pug, Kind::Dataset, "flowers", false).await.unwrap();
    assert!(!hidden.active && hidden.resource.active);
    let change = ResourceChange { active: Some(false), ..Default::default() };
    let changed = bob.update_resource(&flowers.id, change).await;
    assert_eq!(kind(changed), ErrorKind::PermissionDenied);
    assert_eq!(kind(bob.delete_resource(&flowers).await), ErrorKind::PermissionDenied);
    assert_eq!(kind(bob.unpublish(&flowers, "dogs").await), ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn what_is_active_published_or_added_is_not_deleted() {
    let (fresh, tabby, pug) = Fresh::with_lab().await;
    let catalog = &fresh.catalog;
    let flowers = dataset(catalog, &tabby, "flowers").await;
    let refused = catalog.delete_resource(&flowers).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
    assert_eq!(refused.to_string(), "dataset flowers is active in lab/cats/tabby");
    assert_eq!(refused.hint().unwrap(), "`atelier dataset deactivate flowers` first");
    catalog.activate(&tabby, Kind::Dataset, "flowers", false).await.unwrap();
    catalog.publish(&flowers, "dogs").await.unwrap();
    catalog.add(&pug, &flowers.reference()).await.unwrap();
    let refused = catalog.delete_resource(&flowers).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
    assert_eq!(
        refused.to_string(),
        "dataset flowers of lab/cats/tabby is in use: published in dogs, added to lab/dogs/pug"
    );
    let losers = catalog.unpublish(&flowers, "dogs").await.unwrap();
    assert_eq!(losers, std::slice::from_ref(&pug.name));
    assert!(shown_names(catalog, &pug, Kind::Dataset).await.is_empty());
    assert_eq!(kind(catalog.unpublish(&flowers, "dogs").await), ErrorKind::NotFound);
    catalog.delete_resource(&flowers).await.unwrap();
    assert!(shown_names(catalog, &tabby, Kind::Dataset).await.is_empty());
    assert!(catalog.roots().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_empty_is_not_deleted_and_says_what_is_in_it() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    let catalog = &fresh.catalog;
    let bucket = catalog.create_resource(&tabby, new(Kind::S3, "warehouse")).await.unwrap();
    catalog.select_project(&tabby.name).await.unwrap();
    let refused = catalog.delete_project(&tabby.name).await;
    assert_eq!(message(refused), "project lab/cats/tabby isn't empty: s3 warehouse");
    let refused = catalog.delete_community(&tabby.name.at()).await;
    assert_eq!(message(refused), "community lab/cats isn't empty: project tabby");
    catalog.delete_resource(&bucket).await.unwrap();
    assert_eq!(catalog.selected_project().await.unwrap().unwrap().name, tabby.name);
    catalog.delete_project(&tabby.name).await.unwrap();
    assert_eq!(catalog.selected_project().await.unwrap(), None);
    catalog.delete_community(&tabby.name.at()).await.unwrap();
    let team = "lab/lab Team".parse().unwrap();
    assert_eq!(kind(catalog.delete_community(&team).await), ErrorKind::NotPermitted);
}

#[tokio::test]
async fn versions_count_up_and_the_newest_active_one_shows() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    let catalog = &fresh.catalog;
    let flowers = dataset(catalog, &tabby, "flowers").await;
    let described =
        NewResource { description: "petals".to_owned(), ..new(Kind::Dataset, "flowers") };
    let (same, second) = catalog.publish_version(&tabby, described, root("b")).await.unwrap();
    assert_eq!((&same.id, second.number), (&flowers.id, 2));
    assert_eq!(same.description, "petals");
    assert!(same.modified > flowers.modified);
    assert_eq!((second.files, second.bytes), (3, 300));
    assert_eq!(catalog.newest_version(&flowers.id).await.unwrap().unwrap().number, 2);
    let change = VersionChange { active: Some(false), ..Default::default() };
    catalog.update_version(&flowers.id, 2, change).await.unwrap();
    assert_eq!(catalog.newest_version(&flowers.id).await.unwrap().unwrap().number, 1);
    assert_eq!(catalog.version(&flowers.id, 2).await.unwrap().root, "b");
    let missing = catalog.version(&flowers.id, 3).await;
    assert_eq!(message(missing), "dataset flowers has no version 3");
    assert_eq!(catalog.roots().await.unwrap(), ["b", "flowers"]);
    catalog.delete_version(&flowers.id, 2).await.unwrap();
    let only = catalog.delete_version(&flowers.id, 1).await;
    assert_eq!(kind(only), ErrorKind::ResourceBusy);
    let (_, third) =
        catalog.publish_version(&tabby, new(Kind::Dataset, "flowers"), root("c")).await.unwrap();
    assert_eq!(third.number, 3, "a number is never used twice");
    let bucket = catalog.publish_version(&tabby, new(Kind::S3, "flowers"), root("d")).await;
    assert_eq!(kind(bucket), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn ten_regular_checkpoints_are_kept_and_the_pinned_ones() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    let catalog = &fresh.catalog;
    let first = checkpoint(catalog, &tabby).await;
    assert_eq!(first.name, "0001");
    let pinned = catalog.pin(&tabby, &first.id, "good").await.unwrap();
    assert_eq!(pinned.pinned_name(), Some("good"));
    for _ in 0..11 {
        checkpoint(catalog, &tabby).await;
    }
    let names = shown_names(catalog, &tabby, Kind::Checkpoint).await;
    assert_eq!(names.len(), 11);
    assert_eq!(
        (names[0].as_str(), names[1].as_str(), names[10].as_str()),
        ("0001", "0003", "0012")
    );
    let by_name = catalog.resource(&tabby, Kind::Checkpoint, "good").await.unwrap();
    assert_eq!(by_name.id, first.id);
    let third = catalog.resource(&tabby, Kind::Checkpoint, "0003").await.unwrap();
    assert_eq!(kind(catalog.pin(&tabby, &third.id, "good").await), ErrorKind::AlreadyExists);
    assert_eq!(kind(catalog.pin(&tabby, &third.id, "latest").await), ErrorKind::InvalidInput);
    assert_eq!(kind(catalog.publish(&third, "cats").await), ErrorKind::InvalidInput);
    catalog.publish(&first, "cats").await.unwrap();
    assert_eq!(kind(catalog.unpin(&first.id).await), ErrorKind::ResourceBusy);
    catalog.unpublish(&first, "cats").await.unwrap();
    assert_eq!(catalog.unpin(&first.id).await.unwrap().pinned_name(), None);
}

#[tokio::test]
async fn an_eleventh_pin_is_refused() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    let catalog = &fresh.catalog;
    for n in 0..10 {
        let checkpoint = checkpoint(catalog, &tabby).await;
        catalog.pin(&tabby, &checkpoint.id, &format!("pin{n}")).await.unwrap();
    }
    let last = checkpoint(catalog, &tabby).await;
    assert_eq!(kind(catalog.pin(&tabby, &last.id, "more").await), ErrorKind::StorageFull);
    let first = catalog.resource(&tabby, Kind::Checkpoint, "pin0").await.unwrap();
    catalog.pin(&tabby, &first.id, "renamed").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn checkpoint_numbers_are_never_given_twice() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (catalog, tabby) = (fresh.catalog.clone(), tabby.clone());
            tokio::spawn(async move { catalog.next_checkpoint_number(&tabby).await.unwrap() })
        })
        .collect();
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.push(task.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
    assert_eq!(checkpoint_name(7), "0007");
}

#[tokio::test]
async fn an_environment_changes_only_for_who_has_seen_the_last_change() {
    let (fresh, tabby, pug) = Fresh::with_lab().await;
    let catalog = &fresh.catalog;
    let body = |text: &str| text.as_bytes().to_vec();
    let first = catalog.put_environment(&tabby, "project", None, body("A=1\n\0é")).await.unwrap();
    let stored = catalog.environment(&tabby, "project").await.unwrap();
    assert_eq!((stored.generation, stored.body), (first, body("A=1\n\0é")));
    assert_eq!(stored.resource.kind, Kind::Secret);
    let blind = catalog.put_environment(&tabby, "project", None, body("B=1")).await;
    assert_eq!(kind(blind), ErrorKind::StaleHandle);
    let next = catalog.put_environment(&tabby, "project", Some(first), body("B=1")).await.unwrap();
    assert!(next > first);
    let late = catalog.put_environment(&tabby, "project", Some(first), body("C=1")).await;
    assert_eq!(kind(late), ErrorKind::StaleHandle);
    let gone = catalog.put_environment(&tabby, "other", Some(1), body("C=1")).await;
    assert_eq!(kind(gone), ErrorKind::StaleHandle);
    assert_eq!(catalog.environment(&tabby, "project").await.unwrap().body, body("B=1"));
    assert_eq!(kind(catalog.environment(&tabby, "other").await), ErrorKind::NotFound);
    let secret = stored.resource;
    catalog.publish(&secret, "dogs").await.unwrap();
    catalog.add(&pug, &secret.reference()).await.unwrap();
    assert_eq!(catalog.environment(&pug, "project").await.unwrap().body, body("B=1"));
    let edited = catalog.put_environment(&pug, "project", None, body("D=1")).await;
    assert_eq!(kind(edited), ErrorKind::NotPermitted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_eight_who_change_an_environment_at_once_one_wins() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    let catalog = &fresh.catalog;
    let seen = catalog.put_environment(&tabby, "project", None, vec![0]).await.unwrap();
    let tasks: Vec<_> = (1..=8)
        .map(|n| {
            let (catalog, tabby) = (catalog.clone(), tabby.clone());
            tokio::spawn(async move {
                catalog.put_environment(&tabby, "project", Some(seen), vec![n]).await.map(|_| n)
            })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(n) => winners.push(n),
            Err(error) => assert_eq!(error.kind(), ErrorKind::StaleHandle),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(catalog.environment(&tabby, "project").await.unwrap().body, winners);
}

#[tokio::test]
async fn recipients_are_those_of_developers_and_of_communities_it_is_published_in() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    let ada = &fresh.catalog;
    for (user, role) in [("dev", Role::Developer), ("vic", Role::Viewer), ("edi", Role::Editor)] {
        ada.set_role(user, role, &project("lab/cats/tabby")).await.unwrap();
        ada.as_user(user).add_recipient(user, &format!("age1{user}")).await.unwrap();
    }
    ada.set_role("dog", Role::Viewer, &community("lab/dogs")).await.unwrap();
    ada.as_user("dog").add_recipient("dog", "age1dog").await.unwrap();
    ada.set_role("boss", Role::Editor, &community("lab/cats")).await.unwrap();
    ada.as_user("boss").add_recipient("boss", "age1boss").await.unwrap();
    ada.add_recipient("ada", "age1two").await.unwrap();
    ada.add_recipient("ada", "age1one").await.unwrap();
    ada.add_recipient("ada", "age1one").await.unwrap();
    assert_eq!(ada.own_recipients().await.unwrap(), ["age1two", "age1one"]);
    let users = |all: Vec<atelier::catalog::Recipient>| -> Vec<String> {
        all.into_iter().map(|one| one.recipient).collect()
    };
    let all = users(ada.recipients(&tabby).await.unwrap());
    assert_eq!(all, ["age1one", "age1two", "age1boss", "age1dev", "age1edi"]);
    ada.put_environment(&tabby, "project", None, vec![1]).await.unwrap();
    let secret = ada.resource(&tabby, Kind::Secret, "project").await.unwrap();
    ada.publish(&secret, "dogs").await.unwrap();
    let all = users(ada.recipients_of(&secret).await.unwrap());
    assert_eq!(all, ["age1one", "age1two", "age1boss", "age1dev", "age1dog", "age1edi"]);
    assert_eq!(kind(ada.add_recipient("bob", "age1bob").await), ErrorKind::PermissionDenied);
    assert_eq!(kind(ada.add_recipient("ada", "AGE-SECRET-KEY-1").await), ErrorKind::InvalidInput);
    ada.remove_recipient("age1two").await.unwrap();
    assert_eq!(kind(ada.remove_recipient("age1two").await), ErrorKind::NotFound);
}

#[tokio::test]
async fn the_last_admin_of_a_community_stays() {
    let (fresh, _, _) = Fresh::with_lab().await;
    let catalog = &fresh.catalog;
    let cats = community("lab/cats");
    let demoted = catalog.set_role("ada", Role::Editor, &cats).await;
    assert_eq!(message(demoted), "ada is the last admin of cats");
    assert_eq!(kind(catalog.remove_member("ada", &cats).await), ErrorKind::NotPermitted);
    let left = catalog.remove_member("ada", &community("lab/lab Team")).await;
    assert_eq!(message(left), "ada is the last admin of cats, dogs, lab Team");
    catalog.set_role("bob", Role::Admin, &cats).await.unwrap();
    catalog.remove_member("ada", &cats).await.unwrap();
    let members = catalog.as_user("bob").members(&cats).await.unwrap();
    assert_eq!(members.len(), 1, "ada left cats, and only cats");
    assert_eq!(catalog.projects(None).await.unwrap().len(), 2, "her own projects stay hers");
}

#[tokio::test]
async fn a_member_may_leave_by_himself_and_remove_nobody_else() {
    let (fresh, _, _) = Fresh::with_lab().await;
    let cats = community("lab/cats");
    fresh.catalog.set_role("bob", Role::Viewer, &cats).await.unwrap();
    fresh.catalog.set_role("eve", Role::Viewer, &cats).await.unwrap();
    let bob = fresh.catalog.as_user("bob");
    assert_eq!(kind(bob.remove_member("eve", &cats).await), ErrorKind::PermissionDenied);
    bob.remove_member("bob", &cats).await.unwrap();
    assert_eq!(kind(bob.members(&cats).await), ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn all_seven_kinds_are_kept_with_their_spec() {
    let (fresh, tabby, _) = Fresh::with_lab().await;
    for kind in Kind::ALL {
        let name = if *kind == Kind::Checkpoint { "0001" } else { "thing" };
        let made = NewResource {
            description: "what it is for".to_owned(),
            spec: json!({"z": 1, "a": ["x", null, 1.5]}),
            ..new(*kind, name)
        };
        let made = fresh.catalog.create_resource(&tabby, made).await.unwrap();
        assert_eq!((made.kind, made.creator.as_str(), made.active), (*kind, "ada", true));
        assert_eq!(made.spec.to_string(), r#"{"z":1,"a":["x",null,1.5]}"#, "order stays");
        assert_eq!(made.created, made.modified);
        let change = ResourceChange { spec: Some(json!(7)), ..Default::default() };
        let changed = fresh.catalog.update_resource(&made.id, change).await.unwrap();
        assert_eq!((changed.spec, changed.description), (json!(7), made.description));
        assert!(changed.modified > changed.created);
    }
}
