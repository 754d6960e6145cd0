//! What the README says a bucket looks like as files, stated anew from its table of names.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A version of an object. No two hold the same bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) etag: String,
    pub(crate) bytes: Vec<u8>,
}

/// The objects of a bucket.
pub(crate) type Objects = BTreeMap<String, Arc<Version>>;

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Directory,
    File { key: String, version: Arc<Version> },
}

/// Every path there is, names joined by `/`, and what it leads to; the root is empty.
pub(crate) type View = BTreeMap<String, Node>;

pub(crate) fn view(objects: &Objects) -> View {
    let mut view = View::from([(String::new(), Node::Directory)]);
    for (key, version) in objects {
        let parts: Vec<_> = key.split('/').collect();
        let (last, above) = parts.split_last().expect("a split has a part");
        let mut dir = String::new();
        if above.iter().any(|part| name(part).len() > LONGEST) {
            continue;
        }
        for part in above {
            dir = below(&dir, &name(part));
            view.insert(dir.clone(), Node::Directory);
        }
        let is_marker = last.is_empty() && version.bytes.is_empty();
        let beside = objects.keys().any(|other| other.starts_with(&format!("{key}/")));
        let name = if beside { name(last) + "%2F" } else { name(last) };
        if !is_marker && name.len() <= LONGEST {
            let node = Node::File { key: key.clone(), version: version.clone() };
            let before = view.insert(below(&dir, &name), node);
            assert_eq!(before, None, "two objects have the name {name}");
        }
    }
    view
}

/// The entries of a directory.
pub(crate) fn entries(view: &View, dir: &str) -> BTreeMap<String, Node> {
    let within = |path: &str| {
        let rest = if dir.is_empty() { path } else { path.strip_prefix(dir)?.strip_prefix('/')? };
        (!rest.is_empty() && !rest.contains('/')).then(|| rest.to_owned())
    };
    view.iter().filter_map(|(path, node)| Some((within(path)?, node.clone()))).collect()
}

/// The longest name that FUSE takes.
const LONGEST: usize = 1024;

pub(crate) fn below(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

/// The name of a part of a key, but for an object beside a directory.
pub(crate) fn name(part: &str) -> String {
    let as_code = ["%", "%2E", "%2E%2E"].contains(&part)
        || part.contains("%00")
        || part.contains("%25")
        || part.ends_with("%2F");
    match part {
        "" => "%".into(),
        "." => "%2E".into(),
        ".." => "%2E%2E".into(),
        _ if as_code => part.replace('%', "%25").replace('\0', "%00"),
        _ => part.replace('\0', "%00"),
    }
}
