//! Tar archives.

use std::io::Write;

use tar::{Builder, EntryType, Header};

use super::*;

/// A tar of the directory `from`, as GNU tar writes it.
fn tar_of(from: &Path, to: &Path, options: &[&str]) {
    let to = to.to_str().unwrap();
    let args = [options, &["-cf", to, "-C", from.to_str().unwrap(), "."]].concat();
    run(from, "tar", &args);
}

#[test]
fn a_tar_of_any_format_holds_what_the_directory_held() {
    let place = Place::new();
    let home = &place.home;
    fs::create_dir(home.path("zoo")).unwrap();
    zoo(&home.path("zoo"));
    let expected = shape(&home.path("zoo"));
    for (name, options) in [
        ("pax", &["--format=pax"][..]),
        ("pax-sparse", &["--format=pax", "--sparse"]),
        ("pax-old-sparse", &["--format=pax", "--sparse", "--sparse-version=0.1"]),
        ("gnu", &["--format=gnu"]),
        ("gnu-sparse", &["--format=gnu", "--sparse"]),
    ] {
        // What it is called says nothing.
        tar_of(&home.path("zoo"), &home.path("archive"), options);
        home.ok(["dataset", "create", name, "archive"]);
    }
    let plain = fs::read(home.path("archive")).unwrap();
    home.run_with(&plain, ["dataset", "create", "piped", "-"]).expect_ok();
    fs::write(home.path("a.tar.zst"), zstd::encode_all(&plain[..], 1).unwrap()).unwrap();
    home.ok(["dataset", "create", "zstd", "a.tar.zst"]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let gzip = gzip.finish().unwrap();
    home.run_with(&gzip, ["dataset", "create", "gzip", "-"]).expect_ok();

    let expected = below_top(expected);
    for name in ["pax", "pax-sparse", "pax-old-sparse"] {
        assert_same_shape(&kept(home, name), &expected);
    }
    place.mount();
    assert_same_shape(&mounted(&place, "pax"), &shown(expected.clone()));
    let whole = whole_seconds(expected);
    for name in ["gnu", "gnu-sparse", "piped", "zstd", "gzip"] {
        assert_same_shape(&kept(home, name), &whole);
    }
}

/// An archive that is made by hand, member by member.
struct Made(Builder<Vec<u8>>);

impl Made {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// A member whose name is written as it is, wherever it leads.
    fn member(&mut self, kind: EntryType, name: &str, link: &str, bytes: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o640);
        header.set_mtime(1_000_000_000);
        let fields = header.as_old_mut();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, bytes).unwrap();
    }

    fn file(&mut self, name: &str, bytes: &[u8]) {
        self.member(EntryType::Regular, name, "", bytes);
    }

    fn write(self, home: &Home) {
        fs::write(home.path("made.tar"), self.0.into_inner().unwrap()).unwrap();
    }
}

#[test]
fn what_leads_outside_or_is_no_file_is_left_out_and_named() {
    let home = Home::with_project();
    let mut made = Made::new();
    for name in ["../up", "a/../../up", "/etc/passwd", "b/.."] {
        made.file(name, b"hostile");
    }
    made.member(EntryType::Char, "dev/null", "", b"");
    made.member(EntryType::Fifo, "fifo", "", b"");
    made.member(EntryType::Link, "shadow", "/etc/shadow", b"");
    made.member(EntryType::Link, "early", "./fine", b"");
    made.member(EntryType::Symlink, "out", "/etc", b"");
    made.file("out/hosts", b"mine");
    made.file("\x1b[2Jfine", b"fine");
    made.write(&home);

    let strict = home.run(["dataset", "create", "made", "made.tar", "--strict"]);
    assert_eq!(strict.code, 2, "{strict:?}");
    assert_eq!(home.json(["dataset", "list"]), serde_json::json!([]));
    let ended = home.run(["dataset", "create", "made", "made.tar"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    for line in [
        "../up: its name leads outside",
        "a/../../up: its name leads outside",
        "/etc/passwd: its name is absolute",
        "b/..: its name leads outside",
        "dev/null: it is neither a file, a directory nor a symbolic link",
        "fifo: it is neither a file, a directory nor a symbolic link",
        "shadow: it is a link, but its name is absolute",
        "early: it is a link to fine, which isn't there",
        "out: there are entries below it, so it is a directory",
        "left out: 9",
    ] {
        assert!(ended.stderr.contains(line), "{line}: {}", ended.stderr);
    }
    assert!(!ended.stderr.contains('\x1b'));
    let place = Place::of(home);
    place.mount();
    let found = mounted(&place, "made");
    let paths: Vec<_> = found.keys().map(|path| path.escape_ascii().to_string()).collect();
    assert_eq!(paths, ["\\x1b[2Jfine", "out", "out/hosts"]);
    assert_eq!(fs::read(place.dir.join("datasets/made/out/hosts")).unwrap(), b"mine");
}

#[test]
fn the_last_of_several_members_of_a_name_counts_and_links_are_equal_content() {
    let home = Home::with_project();
    let mut made = Made::new();
    made.file("twice", b"old");
    made.member(EntryType::Link, "link", "twice", b"");
    made.file("large", &noise(1_500_000, 7));
    made.member(EntryType::Link, "large link", "./large", b"");
    made.file("twice", b"new");
    made.file("deep/er/file", b"no directory was said to be here");
    made.member(EntryType::Directory, "./", "", b"");
    made.write(&home);
    home.ok(["dataset", "create", "made", "made.tar"]);
    let shown = home.json(["dataset", "show", "made"]);
    assert_eq!((&shown["files"], &shown["bytes"]), (&5.into(), &3_000_038.into()));
    assert!(shown["stored_bytes"].as_u64().unwrap() < 1_600_000, "{shown}");

    let found = kept(&home, "made");
    let implied = &found[&b"deep"[..]];
    assert_eq!((implied.0 & 0o7777, implied.1), (0o755, 1_000_000_000));

    // The same archive again is no new version, though nobody told the times of its directories.
    let again = home.run(["dataset", "create", "made", "made.tar"]);
    assert!(again.stderr.contains("unchanged"), "{again:?}");
    let place = Place::of(home);
    place.mount();
    let read = |name: &str| fs::read(place.dir.join("datasets/made").join(name)).unwrap();
    assert_eq!((read("twice"), read("link")), (b"new".to_vec(), b"old".to_vec()));
    assert!(read("large link") == noise(1_500_000, 7));
}

#[test]
fn an_archive_that_ends_early_or_is_damaged_publishes_nothing() {
    let home = Home::with_project();
    plain(&home);
    tar_of(&home.path("plain"), &home.path("whole.tar"), &[]);
    let whole = fs::read(home.path("whole.tar")).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&whole).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&whole[..], 1).unwrap();
    // The end marker of a tar is two blocks of zeros, and GNU tar fills up to 10 KiB.
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let end = end.next_multiple_of(512);
    let refuse = |bytes: &[u8]| {
        fs::write(home.path("cut"), bytes).unwrap();
        let said = home.fails(["dataset", "create", "cut", "cut"]);
        assert_refused(&home, &said, "cut is damaged or incomplete");
        let ended = home.run_with(bytes, ["dataset", "create", "cut", "-"]);
        let said = ended.expect_failure();
        assert_refused(&home, &said, "the standard input is damaged or incomplete");
    };
    for len in [600, 1_000_000, end - 1, end] {
        refuse(&whole[..len]);
    }
    for len in [1000, gzip.len() / 2, gzip.len() - 1] {
        refuse(&gzip[..len]);
    }
    for len in [1000, zstd.len() / 2, zstd.len() - 1] {
        refuse(&zstd[..len]);
    }
    for flipped in [gzip.len() / 2, gzip.len() - 6] {
        let mut gzip = gzip.clone();
        gzip[flipped] ^= 1;
        refuse(&gzip);
    }
    fs::write(home.path("cut"), &whole).unwrap();
    home.ok(["dataset", "create", "cut", "cut"]);
}

#[test]
fn what_is_no_archive_that_is_read_says_what_to_do() {
    let home = Home::with_project();
    for (bytes, why) in [
        (&b"name,colour\n"[..], "is neither a directory nor an archive"),
        (b"", "is neither a directory nor an archive"),
        (b"\xfd7zXZ\0rest", "is compressed by xz, which isn't read"),
        (b"BZh9rest", "is compressed by bzip2, which isn't read"),
        (&zstd::encode_all(&b"text"[..], 1).unwrap(), "what is in it isn't a tar archive"),
    ] {
        fs::write(home.path("file"), bytes).unwrap();
        let said = home.fails(["dataset", "create", "nothing", "file"]);
        assert_refused(&home, &said, why);
    }
    let said = home.run_with(b"PK\x03\x04", ["dataset", "create", "nothing", "-"]).expect_failure();
    assert_refused(&home, &said, "has to be a file");
    // An archive of nothing is one, and no dataset.
    fs::write(home.path("empty.tar"), [0; 10_240]).unwrap();
    let said = home.fails(["dataset", "create", "nothing", "empty.tar"]);
    assert_refused(&home, &said, "has no files");
}
