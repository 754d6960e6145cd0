//! The architecture, as a test: everything points down, and each foreign package has its place.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The floors, from the ground up. Modules on one floor don't know of each other.
const FLOORS: &[&[&str]] = &[
    &["error"],
    &["path", "config", "crypto", "metrics"],
    &["object"],
    &["cache", "catalog", "secret"],
    &["chunk"],
    &["snapshot", "notebook"],
    &["tree"],
    &["vfs", "workspace"],
    &["fuse", "control"],
    &["cli"],
    &["main"],
];

/// The files that may name a package; a folder's name ends in `/`.
const PLACES: &[(&str, &[&str])] = &[
    ("fuser", &["fuse.rs", "fuse/"]),
    ("aws_sdk_s3", &["object/s3.rs", "object/s3/"]),
    ("aws_config", &["object/s3.rs", "object/s3/"]),
    ("aws_smithy_http_client", &["object/s3.rs", "object/s3/"]),
    ("aws_smithy_runtime_api", &["object/s3.rs", "object/s3/"]),
    ("sqlx", &["catalog.rs", "catalog/"]),
    ("clap", &["cli.rs", "cli/", "config.rs", "config/", "main.rs"]),
    ("aes_gcm", &["crypto.rs"]),
    ("libc", &["cli/mount/allocator.rs"]),
    ("age", &["secret.rs", "secret/"]),
    ("lru", &["cache.rs", "cache/", "tree/", "chunk.rs", "chunk/", "snapshot.rs", "snapshot/"]),
    ("blake3", &["chunk.rs", "chunk/"]),
    ("fastcdc", &["chunk.rs", "chunk/"]),
    ("zstd", &["chunk.rs", "chunk/", "snapshot/capture/archive.rs"]),
    ("flate2", &["snapshot/capture/archive.rs", "snapshot/capture/archive/"]),
    ("tar", &["snapshot/capture/archive/"]),
    ("hmac", &["notebook/kernel.rs"]),
];

#[test]
fn everything_points_down() {
    let floor: BTreeMap<&str, usize> = FLOORS
        .iter()
        .enumerate()
        .flat_map(|(height, names)| names.iter().map(move |name| (*name, height)))
        .collect();
    let mut climbing = Vec::new();
    for (file, text) in sources() {
        let from = module_of(&file);
        if from == "lib" {
            continue;
        }
        let height = floor.get(from.as_str()).unwrap_or_else(|| panic!("{from} has no floor"));
        for to in used_modules(&text) {
            if to != from && floor.get(to.as_str()).is_none_or(|other| other >= height) {
                climbing.push(format!("{}: {from} uses {to}", file.display()));
            }
        }
    }
    assert!(climbing.is_empty(), "these imports climb:\n{}", climbing.join("\n"));
}

#[test]
fn each_package_stays_in_its_place() {
    let mut strayed = Vec::new();
    for (file, text) in sources() {
        for (package, places) in PLACES {
            let name = file.to_string_lossy();
            let at_home = places.iter().any(|place| {
                if place.ends_with('/') { name.starts_with(place) } else { name == *place }
            });
            if !at_home && names_package(&text, package) {
                strayed.push(format!("{name} names {package}"));
            }
        }
    }
    assert!(strayed.is_empty(), "packages out of their place:\n{}", strayed.join("\n"));
}

/// A package is somebody else's code in the process that holds the keys.
#[test]
fn each_package_has_a_reason_to_be_here() {
    let manifest = include_str!("../Cargo.toml");
    let reasons = include_str!("../deny.toml");
    let mut named = 0;
    for section in ["[dependencies]\n", "[dev-dependencies]\n"] {
        let lines = manifest.split_once(section).expect("there is one").1.lines();
        for line in lines.take_while(|line| !line.starts_with('[')) {
            let Some((package, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#'))
            else {
                continue;
            };
            assert!(reasons.contains(&format!("# {package}: ")), "deny.toml: why {package}?");
            named += 1;
        }
    }
    assert!(named > 30, "{named}");
}

#[test]
fn no_file_outgrows_its_reader() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(file, text)| (text.lines().take_while(|line| *line != "#[cfg(test)]").count(), file))
        .filter(|(lines, _)| *lines > 500)
        .collect();
    assert!(long.is_empty(), "split these: {long:?}");
}

#[test]
fn an_import_that_climbs_is_seen() {
    let text =
        "use crate::{error::Result, vfs::Vfs};\nfn f() { crate::cli::run() }\n// crate::tree\n";
    assert_eq!(used_modules(text), ["cli", "error", "vfs"]);
    assert!(names_package("let x = sqlx::query(\"\");", "sqlx"));
    assert!(names_package("use lru::LruCache;", "lru"));
    assert!(!names_package("use crate::stage::Page;", "age"));
    assert!(!names_package("// sqlx::query", "sqlx"));
}

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    walkdir::WalkDir::new(&root)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "rs"))
        .map(|entry| {
            let text = fs::read_to_string(entry.path()).expect("a source is readable");
            (entry.path().strip_prefix(&root).expect("below src").to_owned(), text)
        })
        .collect()
}

fn module_of(file: &Path) -> String {
    let first = file.iter().next().expect("a file has a name").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The top-level modules that a source names after `crate::`, grouped imports included.
fn used_modules(text: &str) -> Vec<String> {
    let code = without_comments(text);
    let mut modules = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        if code[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[start + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => modules.extend(group_heads(group)),
            None => modules.push(identifier(rest)),
        }
    }
    modules.sort();
    modules.dedup();
    modules
}

/// The first names of a `{a::b, c::{d, e}}` group, given what follows its brace.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut item) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(identifier(std::mem::take(&mut item).trim())),
            _ if depth == 0 => item.push(c),
            _ => {}
        }
    }
    heads.push(identifier(item.trim()));
    heads.retain(|head| !head.is_empty());
    heads
}

fn names_package(text: &str, package: &str) -> bool {
    let code = without_comments(text);
    code.match_indices(&format!("{package}::")).any(|(start, _)| {
        !code[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}
