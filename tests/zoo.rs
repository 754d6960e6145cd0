//! Keys that are no paths, on a server that takes them all: through a real mount each object has
//! one name, the one that the README tells, and its own bytes; and nothing leads outside.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use atelier::cache::BlockCache;
use atelier::object::{ObjectStore as _, PutMode};
use atelier::tree::bucket::BucketTree;

use crate::bucket_model::view::{Node, Objects, Version, view};
use crate::support::moto::Moto;
use crate::support::mounted::Mounted;
use crate::support::seaweed::{limits, store_at};

/// Every kind of key there is, but for those that moto refuses, which have a newline.
#[allow(clippy::too_many_lines)] // It is a list.
fn zoo() -> Vec<String> {
    let keys = [
        // An object, a directory and a marker of one name; markers with data and without.
        "a",
        "a/",
        "a/b",
        "m/",
        "m/x",
        "empty/",
        "full/",
        "full/x",
        "deep/er/",
        // Empty parts, wherever they can be.
        "a//b",
        "//",
        "/",
        "/lead",
        "x//",
        "x///y",
        "two//",
        "two///",
        // What leads outside in a path.
        ".",
        "..",
        "../x",
        "../../etc/passwd",
        "a/../b",
        "a/./b",
        "./y",
        "...",
        "..a",
        "up/..",
        "up/.",
        // Codes, and what looks like one.
        "%",
        "%%",
        "%2F",
        "a%2F",
        "a%2F%2F",
        "%2E",
        "%2E%2E",
        "%2e",
        "%25",
        "%252F",
        "%00",
        "100%",
        "a%20b",
        "%/x",
        "%2F/x",
        "%2E/x",
        "c%2F",
        "c",
        "c/d",
        "c%252F",
        // In which order are these?
        "o-",
        "o-/x",
        "o/x",
        "o0",
        "o",
        "o!",
        "o.",
        "o/",
        "o//",
        // Characters that URLs, XML, shells and terminals take for something else.
        "p+q",
        " ",
        "s p",
        " lead",
        "trail ",
        "&<>\"",
        "&amp;",
        "it's",
        "b\\s",
        "~",
        "*",
        "?q=1",
        "#h",
        "$HOME",
        "`x`",
        "-rf",
        "--",
        "\t",
        "\r",
        "\u{1}",
        "\u{1b}[0m",
        "\u{7f}",
        "nul\0",
        "\0",
        "=",
        ":",
        "@",
        "v@1",
        // Text that is composed one way and the other, and the ends of Unicode.
        "\u{e9}",
        "e\u{301}",
        "\u{fffd}",
        "\u{fffe}",
        "\u{10ffff}",
        "\u{200b}",
        "日本/語",
    ];
    let mut zoo: Vec<_> = keys.into_iter().map(str::to_owned).collect();
    // The AWS SDK takes a key for missing that is nothing but white space; a part may be that.
    zoo.iter_mut().filter(|key| key.trim().is_empty()).for_each(|key| key.insert_str(0, "w/"));
    zoo.extend([255, 256, 1023, 1024].map(|len| "k".repeat(len)));
    // It fits as a key, and not as a name once it is written with codes.
    zoo.push("%00".repeat(341));
    zoo.push("é".repeat(512));
    zoo.push(vec!["d".repeat(24); 40].join("/"));
    zoo
}

/// What an object holds: nothing for some markers, and else what no other holds.
fn content(key: &str) -> Vec<u8> {
    if ["m/", "empty/", "deep/er/", "two//", "o/"].contains(&key) {
        return Vec::new();
    }
    let mut text = String::new();
    write!(text, "this is {key:?}").unwrap();
    text.into_bytes()
}

/// Walks a directory with Python and tells, for each path, what it is: `d`, or `f` with its bytes.
const WALK: &str = r"
import os, sys
root = os.fsencode(sys.argv[1])
def tell(*words):
    sys.stdout.buffer.write(b'\0'.join(words) + b'\0')
def refuse(error):
    raise error
for dir, dirs, files in os.walk(root, onerror=refuse):
    listed = {e.name: e for e in os.scandir(dir)}
    assert sorted(listed) == sorted(os.listdir(dir)) == sorted(dirs + files)
    for name in dirs + files:
        path = os.path.join(dir, name)
        stat = os.lstat(path)
        assert listed[name].stat(follow_symlinks=False) == stat, path
        assert listed[name].is_dir() == os.path.isdir(path) == (name in dirs), path
        short = os.path.relpath(path, root)
        if name in dirs:
            tell(short, b'd', b'')
        else:
            with open(path, 'rb') as file:
                data = file.read()
            assert len(data) == stat.st_size
            tell(short, b'f', data)
";

fn output(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{command:?}: {said}");
    output.stdout
}

/// The paths below `root` and what they are, as Python sees them.
fn walked(root: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let told = output(Command::new("python3").args(["-c", WALK]).arg(root));
    let words: Vec<_> =
        told.strip_suffix(b"\0").unwrap_or(&told).split(|byte| *byte == 0).collect();
    let mut found = BTreeMap::new();
    for triple in words.chunks_exact(3) {
        let path = String::from_utf8(triple[0].to_vec()).unwrap();
        let content = (triple[1] == b"f").then(|| triple[2].to_vec());
        assert!(found.insert(path.clone(), content).is_none(), "{path:?} twice");
    }
    found
}

/// What the README promises of these objects.
fn promised(objects: &Objects) -> BTreeMap<String, Option<Vec<u8>>> {
    let view = view(objects);
    let below_root = view.into_iter().filter(|(path, _)| !path.is_empty());
    below_root
        .map(|(path, node)| match node {
            Node::Directory => (path, None),
            Node::File { version, .. } => (path, Some(version.bytes.clone())),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_has_one_name_and_nothing_leads_outside() {
    let server = Moto::start();
    let all = store_at(server.endpoint(), "", limits()).await;
    let mut objects = Objects::new();
    // Prefixes that are odd themselves; whoever takes one for a path sees the other's objects.
    for prefix in ["", "../", "./", "a/", "%2E%2E/", "%/", "é /", "x///"] {
        for key in if prefix.is_empty() { zoo() } else { vec!["inside".into(), "..".into()] } {
            let key = format!("{prefix}{key}");
            let bytes = content(&key);
            all.put(&key, bytes.clone().into(), PutMode::Overwrite).await.unwrap();
            objects.insert(key, Arc::new(Version { etag: String::new(), bytes }));
        }
    }
    for prefix in ["", "../", "./", "a/", "%2E%2E/", "%/", "é /", "x///"] {
        let store = store_at(server.endpoint(), prefix, limits()).await;
        let inside: Objects = objects
            .iter()
            .filter_map(|(key, version)| Some((key.strip_prefix(prefix)?, version)))
            .map(|(key, version)| (key.to_owned(), version.clone()))
            .collect();
        tokio::task::spawn_blocking(move || check(store, &inside)).await.unwrap();
    }
}

fn check(store: atelier::object::s3::S3Store, objects: &Objects) {
    let store = Arc::new(store);
    let mount = || {
        Mounted::new(async {
            let cache = Arc::new(BlockCache::new(1 << 20, Arc::default()));
            BucketTree::new(store.clone(), cache, "zoo", Duration::from_mins(1))
        })
    };
    let mounted = mount();
    let root = mounted.path();
    let expected = promised(objects);
    assert_eq!(walked(&root), expected);
    // `find` ends, and shows each once.
    let found =
        output(Command::new("find").arg(&root).args(["-mindepth", "1", "-printf", "%P\\0"]));
    let found = found.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    let mut found: Vec<_> = found.map(|path| String::from_utf8(path.to_vec()).unwrap()).collect();
    found.sort();
    assert_eq!(found, expected.keys().cloned().collect::<Vec<_>>());
    // `ls` agrees, and what `cat` prints is as long as all objects are.
    output(Command::new("ls").args(["-lR"]).arg(&root));
    let cat = "find \"$0\" -type f -print0 | xargs -0 cat | wc -c";
    let printed = output(Command::new("sh").args(["-c", cat]).arg(&root));
    let bytes: usize = expected.values().flatten().map(Vec::len).sum();
    assert_eq!(String::from_utf8(printed).unwrap().trim(), bytes.to_string());
    // Each is found by its name, and no other name leads anywhere.
    for (path, content) in &expected {
        let file = root.join(path);
        let meta = std::fs::symlink_metadata(&file).unwrap();
        assert_eq!(meta.is_dir(), content.is_none(), "{path:?}");
    }
    // A few are looked up where nothing was listed before.
    let unlisted = mount();
    for (path, content) in expected.iter().take(20) {
        let meta = std::fs::symlink_metadata(unlisted.path().join(path)).unwrap();
        assert_eq!(meta.is_dir(), content.is_none(), "{path:?}");
    }
    for nothing in ["%2E%2E/%2E%2E/%2E%2E", "%%2F/x", "%252E%25", "%2f", "no%2F", "a%2F/b"] {
        let found = std::fs::symlink_metadata(root.join(nothing)).is_ok();
        assert_eq!(found, expected.contains_key(nothing), "{nothing}");
    }
}
