//! A disk that is full: one line says so, and nothing that was there is lost.

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;

/// A home on a small disk of its own, which goes with it.
struct Small(Home);

impl Small {
    fn new() -> Self {
        let home = Home::empty();
        fs::create_dir_all(home.atelier()).unwrap();
        mount("tmpfs", home.atelier(), "tmpfs", MountFlags::empty(), Some(c"size=24m,mode=700"))
            .unwrap();
        let small = Self(home);
        small.0.ok(["init"]);
        small.0.make_project();
        small
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = unmount(self.0.atelier(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_costs_what_was_to_be_made_and_nothing_else() {
    let small = Small::new();
    let home = &small.0;
    fill(home, 0);
    home.ok(["dataset", "create", "flowers", "flowers"]);
    fs::create_dir(home.path("large")).unwrap();
    for number in 0..6 {
        fs::write(home.path(format!("large/{number}")), noise(6 << 20)).unwrap();
    }
    let told = home.fails(["dataset", "create", "large", "large"]);
    assert!(told.contains("make room on the disk of") || told.contains("no room"), "{told}");
    assert!(told.lines().filter(|line| line.starts_with("error: ")).count() == 1, "{told}");
    home.ok(["store", "verify"]);
    home.ok(["dataset", "verify", "flowers"]);

    // Not a byte is left, not even for the catalogue.
    let filler = home.atelier().join("filler");
    let mut full = fs::File::create(&filler).unwrap();
    while std::io::Write::write(&mut full, &[1; 1000]).is_ok() {}
    drop(full);
    fs::write(home.path("large/0"), noise(1000)).unwrap();
    for command in [&["dataset", "create", "large", "large"][..], &["gc", "--grace", "0s"]] {
        let ended = home.run(command);
        let errors = ended.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert!(ended.code == 0 || ended.code == 1 && errors == 1, "{ended:?}");
        assert!(ended.code == 0 || ended.stderr.contains("no room"), "{ended:?}");
    }
    fs::remove_file(&filler).unwrap();
    home.ok(["gc", "--grace", "0s"]);
    home.ok(["store", "verify"]);
    let left = home.json(["store", "show"]);
    assert_eq!((&left["objects"], &left["unused_objects"]), (&3.into(), &0.into()));
}
