//! What every tree that can be written promises to those who write.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use atelier::error::ErrorKind;
use atelier::path::TreePath;
use atelier::tree::{
    FileType, NewNode, OpenMode, Opened, RenameMode, SetAttr, SetTime, Tree, XattrMode,
};

use super::{READ_WRITE, contents, failure, list, me, path};

/// Holds an empty tree that can be written to what it promises to writers.
pub(crate) async fn writes(tree: Arc<dyn Tree>) {
    let tree = &*tree;
    makes_nodes_of_every_kind(tree).await;
    refuses_a_name_that_is_taken(tree).await;
    refuses_a_place_that_is_not_there(tree).await;
    limits_names_to_255_bytes(tree).await;
    reads_back_what_was_written(tree).await;
    appends_at_the_end(tree).await;
    cuts_and_extends(tree).await;
    reserves_and_punches(tree).await;
    keeps_handles_to_their_mode(tree).await;
    keeps_an_open_file_without_a_name(tree).await;
    gives_a_file_two_names(tree).await;
    removes_names(tree).await;
    renames(tree).await;
    refuses_impossible_renames(tree).await;
    changes_attributes(tree).await;
    keeps_times(tree).await;
    keeps_extended_attributes(tree).await;
    lists_a_directory_that_changes(tree).await;
    inherits_the_group(tree).await;
    tells_its_room(tree).await;
}

fn new(mode: u32) -> NewNode {
    NewNode { mode, owner: me() }
}

async fn make(tree: &dyn Tree, name: &str, bytes: &[u8]) -> Opened {
    let made = tree.create(&path(name), new(0o644), READ_WRITE).await.unwrap();
    made.file.write_at(0, bytes).await.unwrap();
    made
}

async fn make_dir(tree: &dyn Tree, name: &str) {
    tree.create_dir(&path(name), new(0o755)).await.unwrap();
}

async fn names(tree: &dyn Tree, dir: &str) -> Vec<String> {
    let entries = list(tree, &path(dir)).await.unwrap();
    let mut names: Vec<_> =
        entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect();
    names.sort();
    names
}

/// Mode and owner are those that were asked for, whatever this process' umask.
async fn makes_nodes_of_every_kind(tree: &dyn Tree) {
    make_dir(tree, "kinds").await;
    let made = tree.create(&path("kinds/file"), new(0o666), READ_WRITE).await.unwrap();
    assert_eq!((made.attr.mode, made.attr.size, made.attr.nlink), (0o666, 0, 1));
    assert_eq!((made.attr.file_type, made.attr.owner), (FileType::File, Some(me())));
    let dir = tree.create_dir(&path("kinds/dir"), new(0o777)).await.unwrap();
    assert_eq!((dir.file_type, dir.mode, dir.owner), (FileType::Directory, 0o777, Some(me())));
    let link = tree.symlink(&path("kinds/link"), b"/any where", new(0o777)).await.unwrap();
    assert_eq!((link.file_type, link.size), (FileType::Symlink, 10));
    assert_eq!(tree.read_link(&path("kinds/link")).await.unwrap(), &b"/any where"[..]);
    for (name, file_type) in
        [("fifo", FileType::Fifo), ("socket", FileType::Socket), ("plain", FileType::File)]
    {
        let path = path(format!("kinds/{name}"));
        let node = tree.create_node(&path, new(0o620), file_type, 0).await.unwrap();
        assert_eq!((node.file_type, node.mode), (file_type, 0o620), "{name}");
        assert_eq!(tree.stat(&path).await.unwrap().file_type, file_type, "{name}");
    }
    // Opening one must neither wait for its other end nor hand it out as a file.
    let fifo = tree.open(&path("kinds/fifo"), OpenMode::READ).await;
    assert_eq!(failure(fifo), ErrorKind::InvalidInput);
    assert_eq!(names(tree, "kinds").await, ["dir", "fifo", "file", "link", "plain", "socket"]);
}

async fn refuses_a_name_that_is_taken(tree: &dyn Tree) {
    make_dir(tree, "taken").await;
    make_dir(tree, "taken/dir").await;
    make(tree, "taken/file", b"first").await;
    tree.symlink(&path("taken/dangling"), b"nowhere", new(0o777)).await.unwrap();
    for name in ["taken/dir", "taken/file", "taken/dangling"] {
        let path = path(name);
        let taken = ErrorKind::AlreadyExists;
        assert_eq!(failure(tree.create(&path, new(0o644), READ_WRITE).await), taken);
        assert_eq!(failure(tree.create_dir(&path, new(0o755)).await), taken);
        assert_eq!(failure(tree.symlink(&path, b"x", new(0o777)).await), taken);
        assert_eq!(failure(tree.create_node(&path, new(0o644), FileType::Fifo, 0).await), taken);
        assert_eq!(failure(tree.link(&super::path("taken/file"), &path).await), taken);
    }
    assert_eq!(contents(tree, &path("taken/file")).await.unwrap(), &b"first"[..]);
    let root = tree.create_dir(&TreePath::root(), new(0o755)).await;
    assert_eq!(failure(root), ErrorKind::AlreadyExists);
}

async fn refuses_a_place_that_is_not_there(tree: &dyn Tree) {
    make_dir(tree, "place").await;
    make(tree, "place/file", b"").await;
    tree.symlink(&path("place/link"), b".", new(0o777)).await.unwrap();
    for (name, kind) in [
        ("place/none/new", ErrorKind::NotFound),
        ("place/file/new", ErrorKind::NotADirectory),
        ("place/link/new", ErrorKind::NotADirectory),
    ] {
        let to = path(name);
        assert_eq!(failure(tree.create(&to, new(0o644), READ_WRITE).await), kind, "{name}");
        assert_eq!(failure(tree.create_dir(&to, new(0o755)).await), kind, "{name}");
        assert_eq!(failure(tree.link(&path("place/file"), &to).await), kind, "{name}");
        let moved = tree.rename(&path("place/file"), &to, RenameMode::Replace).await;
        assert_eq!(failure(moved), kind, "{name}");
        assert_eq!(failure(tree.remove_file(&to).await), kind, "{name}");
        assert_eq!(failure(tree.remove_dir(&to).await), kind, "{name}");
        assert_eq!(failure(tree.set_attr(&to, SetAttr::default()).await), kind, "{name}");
        assert_eq!(failure(tree.sync_dir(&to).await.and(tree.stat(&to).await)), kind, "{name}");
    }
}

async fn limits_names_to_255_bytes(tree: &dyn Tree) {
    make_dir(tree, "long").await;
    let longest = path(format!("long/{}", "n".repeat(255)));
    tree.create(&longest, new(0o644), READ_WRITE).await.unwrap();
    assert!(tree.stat(&longest).await.is_ok());
    let longer = path(format!("long/{}", "n".repeat(256)));
    let long = ErrorKind::NameTooLong;
    assert_eq!(failure(tree.create(&longer, new(0o644), READ_WRITE).await), long);
    assert_eq!(failure(tree.stat(&longer).await), long);
    assert_eq!(failure(tree.rename(&longest, &longer, RenameMode::Replace).await), long);
    tree.create(&path(b"long/\xff\x80"), new(0o644), READ_WRITE).await.unwrap();
    assert_eq!(list(tree, &path("long")).await.unwrap().len(), 2);
}

async fn reads_back_what_was_written(tree: &dyn Tree) {
    make_dir(tree, "bytes").await;
    let made = make(tree, "bytes/file", b"hello world").await;
    made.file.write_at(6, b"there").await.unwrap();
    assert_eq!(contents(tree, &path("bytes/file")).await.unwrap(), &b"hello there"[..]);
    // What lies between the end and a write past it reads as zeroes.
    made.file.write_at(100_000, b"far").await.unwrap();
    let read = made.file.read_at(0, usize::MAX).await.unwrap();
    assert_eq!((read.len(), &read[100_000..]), (100_003, &b"far"[..]));
    assert!(read[11..100_000].iter().all(|byte| *byte == 0));
    // An older handle and the name see it too.
    let other = tree.open(&path("bytes/file"), READ_WRITE).await.unwrap();
    other.write_at(0, b"J").await.unwrap();
    assert_eq!(&made.file.read_at(0, 5).await.unwrap()[..], b"Jello");
    assert_eq!(tree.stat(&path("bytes/file")).await.unwrap().size, 100_003);
    made.file.flush().await.unwrap();
    made.file.sync(true).await.unwrap();
    made.file.sync(false).await.unwrap();
    tree.sync_dir(&path("bytes")).await.unwrap();
}

async fn appends_at_the_end(tree: &dyn Tree) {
    make_dir(tree, "append").await;
    let plain = make(tree, "append/log", b"one ").await;
    let mode = OpenMode { append: true, write: true, ..OpenMode::default() };
    let log = tree.open(&path("append/log"), mode).await.unwrap();
    log.write_at(0, b"two ").await.unwrap();
    plain.file.write_at(8, b"three ").await.unwrap();
    log.write_at(0, b"four").await.unwrap();
    let read = contents(tree, &path("append/log")).await.unwrap();
    assert_eq!(read, &b"one two three four"[..]);
}

async fn cuts_and_extends(tree: &dyn Tree) {
    make_dir(tree, "cut").await;
    let made = make(tree, "cut/file", b"0123456789").await;
    let to = |len| SetAttr { size: Some(len), ..SetAttr::default() };
    assert_eq!(tree.set_attr(&path("cut/file"), to(4)).await.unwrap().size, 4);
    assert_eq!(made.file.set_attr(to(6)).await.unwrap().size, 6);
    assert_eq!(contents(tree, &path("cut/file")).await.unwrap(), &b"0123\0\0"[..]);
    let truncate = OpenMode { truncate: true, ..READ_WRITE };
    let emptied = tree.open(&path("cut/file"), truncate).await.unwrap();
    assert_eq!(emptied.stat().await.unwrap().size, 0);
    assert!(made.file.read_at(0, 9).await.unwrap().is_empty());
    let dir = tree.set_attr(&path("cut"), to(0)).await;
    assert_eq!(failure(dir), ErrorKind::IsADirectory);
}

/// `fallocate(2)`: plain reserving extends, `KEEP_SIZE` doesn't, punching zeroes.
async fn reserves_and_punches(tree: &dyn Tree) {
    const KEEP_SIZE: u32 = 1;
    const PUNCH_HOLE: u32 = 2;
    make_dir(tree, "room").await;
    let file = make(tree, "room/file", &[7; 10_000]).await.file;
    file.allocate(0, 20_000, KEEP_SIZE).await.unwrap();
    assert_eq!(file.stat().await.unwrap().size, 10_000);
    file.allocate(0, 20_000, 0).await.unwrap();
    assert_eq!(file.stat().await.unwrap().size, 20_000);
    file.allocate(4_096, 4_096, PUNCH_HOLE | KEEP_SIZE).await.unwrap();
    let read = file.read_at(0, 20_000).await.unwrap();
    assert!(read[..4_096].iter().chain(&read[8_192..10_000]).all(|byte| *byte == 7));
    assert!(read[4_096..8_192].iter().chain(&read[10_000..]).all(|byte| *byte == 0));
    assert_eq!(failure(file.allocate(0, 0, 0).await), ErrorKind::InvalidInput);
}

async fn keeps_handles_to_their_mode(tree: &dyn Tree) {
    make_dir(tree, "mode").await;
    make(tree, "mode/file", b"bytes").await;
    let reader = tree.open(&path("mode/file"), OpenMode::READ).await.unwrap();
    assert_eq!(failure(reader.write_at(0, b"x").await), ErrorKind::BadDescriptor);
    let write = OpenMode { write: true, ..OpenMode::default() };
    let writer = tree.open(&path("mode/file"), write).await.unwrap();
    assert_eq!(failure(writer.read_at(0, 5).await), ErrorKind::BadDescriptor);
    // The mode of a new file doesn't bind the handle that made it.
    let made = tree.create(&path("mode/private"), new(0), READ_WRITE).await.unwrap();
    made.file.write_at(0, b"mine").await.unwrap();
    assert_eq!(&made.file.read_at(0, 4).await.unwrap()[..], b"mine");
}

async fn keeps_an_open_file_without_a_name(tree: &dyn Tree) {
    make_dir(tree, "unlinked").await;
    let made = make(tree, "unlinked/file", b"kept").await;
    tree.remove_file(&path("unlinked/file")).await.unwrap();
    assert_eq!(failure(tree.stat(&path("unlinked/file")).await), ErrorKind::NotFound);
    let attr = made.file.stat().await.unwrap();
    assert_eq!((attr.nlink, attr.size), (0, 4));
    made.file.write_at(4, b" on").await.unwrap();
    let private = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    assert_eq!(made.file.set_attr(private).await.unwrap().mode, 0o600);
    assert_eq!(&made.file.read_at(0, 99).await.unwrap()[..], b"kept on");
    // Another file takes the name; neither disturbs the other.
    make(tree, "unlinked/file", b"another").await;
    assert_eq!(&made.file.read_at(0, 99).await.unwrap()[..], b"kept on");
}

async fn gives_a_file_two_names(tree: &dyn Tree) {
    make_dir(tree, "names").await;
    make(tree, "names/one", b"shared").await;
    let attr = tree.link(&path("names/one"), &path("names/two")).await.unwrap();
    assert_eq!(attr.nlink, 2);
    let one = tree.stat(&path("names/one")).await.unwrap();
    assert!(one.identity.is_some() && one.identity == attr.identity);
    let two = tree.open(&path("names/two"), READ_WRITE).await.unwrap();
    two.write_at(0, b"SH").await.unwrap();
    assert_eq!(contents(tree, &path("names/one")).await.unwrap(), &b"SHared"[..]);
    // rename(2) between two names of one file does nothing.
    let same = tree.rename(&path("names/one"), &path("names/two"), RenameMode::Replace).await;
    assert!(same.is_ok());
    assert_eq!(names(tree, "names").await, ["one", "two"]);
    tree.remove_file(&path("names/one")).await.unwrap();
    assert_eq!(tree.stat(&path("names/two")).await.unwrap().nlink, 1);
    // A link's own name can be doubled, a directory's can't.
    tree.symlink(&path("names/link"), b"two", new(0o777)).await.unwrap();
    let linked = tree.link(&path("names/link"), &path("names/link2")).await.unwrap();
    assert_eq!(linked.file_type, FileType::Symlink);
    let dir = tree.link(&path("names"), &path("again")).await;
    assert_eq!(failure(dir), ErrorKind::NotPermitted);
}

async fn removes_names(tree: &dyn Tree) {
    make_dir(tree, "gone").await;
    make_dir(tree, "gone/dir").await;
    make(tree, "gone/dir/file", b"").await;
    let (dir, file) = (path("gone/dir"), path("gone/dir/file"));
    assert_eq!(failure(tree.remove_file(&dir).await), ErrorKind::IsADirectory);
    assert_eq!(failure(tree.remove_dir(&file).await), ErrorKind::NotADirectory);
    assert_eq!(failure(tree.remove_dir(&dir).await), ErrorKind::DirectoryNotEmpty);
    tree.remove_file(&file).await.unwrap();
    assert_eq!(failure(tree.remove_file(&file).await), ErrorKind::NotFound);
    tree.remove_dir(&dir).await.unwrap();
    assert_eq!(failure(tree.remove_dir(&dir).await), ErrorKind::NotFound);
    // A link is removed itself, not what it names.
    make(tree, "gone/kept", b"kept").await;
    tree.symlink(&path("gone/link"), b"kept", new(0o777)).await.unwrap();
    tree.remove_file(&path("gone/link")).await.unwrap();
    assert_eq!(names(tree, "gone").await, ["kept"]);
}

async fn renames(tree: &dyn Tree) {
    make_dir(tree, "moves").await;
    for dir in ["moves/a", "moves/b", "moves/empty"] {
        make_dir(tree, dir).await;
    }
    make(tree, "moves/a/x", b"x").await;
    make(tree, "moves/b/y", b"y").await;
    let moved = |from: &str, to: &str, mode| {
        let (from, to) = (path(format!("moves/{from}")), path(format!("moves/{to}")));
        async move { tree.rename(&from, &to, mode).await }
    };
    let read = |name: &str| {
        let path = path(format!("moves/{name}"));
        async move { contents(tree, &path).await.unwrap() }
    };
    let open = tree.open(&path("moves/b/y"), OpenMode::READ).await.unwrap();
    moved("a/x", "b/y", RenameMode::Replace).await.unwrap();
    assert_eq!(read("b/y").await, &b"x"[..]);
    assert_eq!(&open.read_at(0, 9).await.unwrap()[..], b"y", "the replaced file lives on");
    moved("b", "empty", RenameMode::Replace).await.unwrap();
    assert_eq!(read("empty/y").await, &b"x"[..]);
    assert_eq!(names(tree, "moves").await, ["a", "empty"]);
    make(tree, "moves/f", b"f").await;
    let taken = moved("f", "empty/y", RenameMode::NoReplace).await;
    assert_eq!(failure(taken), ErrorKind::AlreadyExists);
    moved("f", "empty/g", RenameMode::NoReplace).await.unwrap();
    // A file and a directory change places.
    moved("empty/g", "a", RenameMode::Exchange).await.unwrap();
    assert_eq!(read("a").await, &b"f"[..]);
    assert!(tree.stat(&path("moves/empty/g")).await.unwrap().is_dir());
    let alone = moved("a", "none", RenameMode::Exchange).await;
    assert_eq!(failure(alone), ErrorKind::NotFound);
    moved("a", "a", RenameMode::Replace).await.unwrap();
    assert_eq!(read("a").await, &b"f"[..]);
}

async fn refuses_impossible_renames(tree: &dyn Tree) {
    make_dir(tree, "fails").await;
    for dir in ["fails/dir", "fails/dir/inner", "fails/full"] {
        make_dir(tree, dir).await;
    }
    make(tree, "fails/full/x", b"").await;
    make(tree, "fails/file", b"").await;
    for (from, to, kind) in [
        ("fails/none", "fails/new", ErrorKind::NotFound),
        ("fails/dir", "fails/dir/inner/below", ErrorKind::InvalidInput),
        ("fails/dir", "fails/full", ErrorKind::DirectoryNotEmpty),
        ("fails/dir/inner", "fails/dir", ErrorKind::DirectoryNotEmpty),
        ("fails/file", "fails/dir", ErrorKind::IsADirectory),
        ("fails/dir", "fails/file", ErrorKind::NotADirectory),
        ("fails/file/x", "fails/new", ErrorKind::NotADirectory),
    ] {
        let moved = tree.rename(&path(from), &path(to), RenameMode::Replace).await;
        assert_eq!(failure(moved), kind, "{from} to {to}");
    }
    for (from, to) in [(TreePath::root(), path("root")), (path("fails"), TreePath::root())] {
        let moved = tree.rename(&from, &to, RenameMode::Replace).await;
        assert_eq!(failure(moved), ErrorKind::ResourceBusy, "{from} to {to}");
    }
}

async fn changes_attributes(tree: &dyn Tree) {
    make_dir(tree, "attrs").await;
    make(tree, "attrs/file", b"123").await;
    tree.symlink(&path("attrs/link"), b"file", new(0o777)).await.unwrap();
    // Unreadable for everyone, and still to be examined, changed and given back.
    let set = |mode| SetAttr { mode: Some(mode), ..SetAttr::default() };
    for mode in [0, 0o1644, 0o600] {
        assert_eq!(tree.set_attr(&path("attrs/file"), set(mode)).await.unwrap().mode, mode);
        assert_eq!(tree.stat(&path("attrs/file")).await.unwrap().mode, mode);
    }
    assert_eq!(tree.set_attr(&path("attrs"), set(0o750)).await.unwrap().mode, 0o750);
    let link = tree.set_attr(&path("attrs/link"), set(0o600)).await;
    assert_eq!(failure(link), ErrorKind::Unsupported);
    let owned = SetAttr { uid: Some(me().uid), gid: Some(me().gid), ..SetAttr::default() };
    for name in ["attrs", "attrs/file", "attrs/link"] {
        let attr = tree.set_attr(&path(name), owned).await.unwrap();
        assert_eq!(attr.owner, Some(me()), "{name}");
    }
    // All at once: none of the changes undoes another.
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let all = SetAttr { mode: Some(0o640), size: Some(1), mtime: Some(SetTime::At(at)), ..owned };
    let attr = tree.set_attr(&path("attrs/file"), all).await.unwrap();
    assert_eq!((attr.mode, attr.size, attr.mtime), (0o640, 1, at));
    assert_eq!(failure(tree.set_attr(&path("attrs/none"), all).await), ErrorKind::NotFound);
}

async fn keeps_times(tree: &dyn Tree) {
    make_dir(tree, "times").await;
    let made = make(tree, "times/file", b"123").await;
    let file = path("times/file");
    let long_ago = SystemTime::UNIX_EPOCH - Duration::new(86_400, 250_000_000);
    let lately = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    let both = SetAttr {
        atime: Some(SetTime::At(long_ago)),
        mtime: Some(SetTime::At(lately)),
        ..SetAttr::default()
    };
    let attr = tree.set_attr(&file, both).await.unwrap();
    assert_eq!((attr.atime, attr.mtime), (long_ago, lately));
    // What isn't named stays.
    let one = SetAttr { mtime: Some(SetTime::At(long_ago)), ..SetAttr::default() };
    let attr = made.file.set_attr(one).await.unwrap();
    assert_eq!((attr.atime, attr.mtime), (long_ago, long_ago));
    let now = SetAttr { atime: Some(SetTime::Now), mtime: Some(SetTime::Now), ..both };
    let attr = tree.set_attr(&file, now).await.unwrap();
    for time in [attr.atime, attr.mtime] {
        assert!(time.elapsed().unwrap_or_default() < Duration::from_mins(1));
    }
    // Writing moves the time of the last change.
    tree.set_attr(&file, both).await.unwrap();
    made.file.write_at(0, b"9").await.unwrap();
    assert!(tree.stat(&file).await.unwrap().mtime > lately);
    tree.symlink(&path("times/link"), b"file", new(0o777)).await.unwrap();
    let link = tree.set_attr(&path("times/link"), both).await.unwrap();
    assert_eq!((link.file_type, link.mtime), (FileType::Symlink, lately));
    assert!(tree.stat(&file).await.unwrap().mtime > lately, "the target keeps its own");
}

async fn keeps_extended_attributes(tree: &dyn Tree) {
    make_dir(tree, "xattrs").await;
    make(tree, "xattrs/file", b"").await;
    for name in ["xattrs", "xattrs/file"] {
        let path = path(name);
        let set = |name: &'static str, value: Vec<u8>, mode| {
            let path = path.clone();
            async move { tree.set_xattr(&path, name.as_bytes(), &value, mode).await }
        };
        assert!(tree.xattrs(&path).await.unwrap().iter().all(|name| !name.starts_with(b"user.")));
        let absent = set("user.colour", b"red".to_vec(), XattrMode::Replace).await;
        assert_eq!(failure(absent), ErrorKind::NoAttribute);
        set("user.colour", b"red".to_vec(), XattrMode::Create).await.unwrap();
        let taken = set("user.colour", b"blue".to_vec(), XattrMode::Create).await;
        assert_eq!(failure(taken), ErrorKind::AlreadyExists);
        // Longer than a first guess at the buffer's length, and empty.
        set("user.colour", vec![7; 2_000], XattrMode::Replace).await.unwrap();
        set("user.empty", Vec::new(), XattrMode::Any).await.unwrap();
        assert_eq!(tree.xattr(&path, b"user.colour").await.unwrap(), vec![7; 2_000]);
        assert!(tree.xattr(&path, b"user.empty").await.unwrap().is_empty());
        let mut names = tree.xattrs(&path).await.unwrap();
        names.retain(|name| name.starts_with(b"user."));
        names.sort();
        assert_eq!(names, ["user.colour", "user.empty"]);
        tree.remove_xattr(&path, b"user.colour").await.unwrap();
        let gone = tree.remove_xattr(&path, b"user.colour").await;
        assert_eq!(failure(gone), ErrorKind::NoAttribute);
        assert_eq!(failure(tree.xattr(&path, b"user.colour").await), ErrorKind::NoAttribute);
    }
    // Not readable, and reached nevertheless.
    let hidden = SetAttr { mode: Some(0), ..SetAttr::default() };
    let file = path("xattrs/file");
    tree.set_attr(&file, hidden).await.unwrap();
    assert!(tree.xattrs(&file).await.is_ok());
    // See "user extended attributes" in xattr(7): none on a link.
    tree.symlink(&path("xattrs/link"), b"file", new(0o777)).await.unwrap();
    let on_link = tree.set_xattr(&path("xattrs/link"), b"user.x", b"", XattrMode::Any).await;
    assert_eq!(failure(on_link), ErrorKind::NotPermitted);
    let list = tree.set_xattr(&file, b"system.posix_acl_access", b"", XattrMode::Any).await;
    assert_eq!(failure(list), ErrorKind::Unsupported);
}

/// Names that come and go meanwhile are in the listing or not; the others are in it once.
async fn lists_a_directory_that_changes(tree: &dyn Tree) {
    use futures_util::StreamExt as _;
    make_dir(tree, "busy").await;
    for number in 0..500 {
        make(tree, &format!("busy/{number}"), b"").await;
    }
    let mut listing = tree.list(&path("busy"));
    let mut seen = Vec::new();
    for number in 0..250 {
        seen.push(listing.next().await.unwrap().unwrap().name);
        tree.remove_file(&path(format!("busy/{}", number * 2))).await.unwrap();
    }
    while let Some(entry) = listing.next().await {
        seen.push(entry.unwrap().name);
    }
    for number in 0..250 {
        let name = (number * 2 + 1).to_string();
        assert_eq!(seen.iter().filter(|seen| **seen == name).count(), 1, "{name}");
    }
}

async fn inherits_the_group(tree: &dyn Tree) {
    tree.create_dir(&path("group"), new(0o2775)).await.unwrap();
    let below = tree.create_dir(&path("group/below"), new(0o755)).await.unwrap();
    assert_eq!(below.mode, 0o2755);
    let file = tree.create(&path("group/file"), new(0o644), READ_WRITE).await.unwrap();
    assert_eq!(file.attr.mode, 0o644);
}

async fn tells_its_room(tree: &dyn Tree) {
    let space = tree.space(&TreePath::root()).await.unwrap();
    assert!(space.total >= space.free && space.free >= space.available);
    assert!(space.available > 0 && space.files >= space.files_free);
}
