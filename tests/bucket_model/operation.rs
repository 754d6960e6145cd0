//! What programs do with a mounted bucket, and others with its objects meanwhile.

use proptest::prelude::*;
use proptest::sample::Index;

/// A step of a history.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    /// An object is written by somebody else.
    Put(Key, usize),
    /// An object is removed by somebody else.
    Delete(Key),
    Stat(Path),
    Xattr(Path),
    List(Path),
    /// A directory is read to here, something is changed, and the rest is read.
    ListAround(Path, usize, Box<Operation>),
    /// The whole tree, directory by directory.
    Walk,
    Open(Path),
    Read(Index, u64, usize),
    Close(Index),
    /// Long enough for everything to be forgotten, where it ever is.
    Wait,
}

/// Which object.
#[derive(Clone, Debug)]
pub(super) enum Key {
    /// Any.
    Named(String),
    /// One of those that are there.
    Present(Index),
}

/// Which path.
#[derive(Clone, Debug)]
pub(super) enum Path {
    Root,
    /// That of a key, whether it is there or not.
    Of(String),
    /// One that is there, or was.
    Known(Index),
    /// One that nobody promised.
    Named(String),
}

/// A part of a key: mostly one of few, so that keys meet.
fn part() -> impl Strategy<Value = String> {
    prop_oneof![
        12 => "[a-]{1,3}",
        2 => prop::sample::select(vec![
            "", ".", "..", "...", "%", "%%", "%2F", "a%2F", "%2E", "%2E%2E", "%25", "a%00", "%252F",
            "\u{1}", "a\n", "a\0", "\u{7f}", "é", "e\u{301}", " ", "+", "a&<>\"", "a\\", "a0", "a!",
            "a@1", "~", "\u{fffd}", "\u{10ffff}",
        ]).prop_map(str::to_owned),
        1 => (250_usize..260).prop_map(|len| "a".repeat(len)),
    ]
}

fn whole_key() -> impl Strategy<Value = String> {
    (prop::collection::vec(part(), 1..4), prop::bool::weighted(0.1))
        .prop_map(|(parts, marker)| parts.join("/") + if marker { "/" } else { "" })
        .prop_filter("a key has a character", |key| !key.is_empty())
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        3 => whole_key().prop_map(Key::Named),
        2 => any::<Index>().prop_map(Key::Present),
    ]
}

fn path() -> impl Strategy<Value = Path> {
    let names = prop::sample::select(vec!["a", "-", "%", "%2F", "a%2F", "%%2F", "%2E", "%25", "x"]);
    let named = prop::collection::vec(names, 1..4).prop_map(|names| names.join("/"));
    prop_oneof![
        1 => Just(Path::Root),
        2 => whole_key().prop_map(Path::Of),
        6 => any::<Index>().prop_map(Path::Known),
        1 => named.prop_map(Path::Named),
    ]
}

/// Nothing, a little, a block of the cache and a bit, several blocks.
fn len() -> impl Strategy<Value = usize> {
    prop_oneof![2 => Just(0), 4 => 1..50_usize, 3 => 60..140_usize, 1 => 500..2000_usize]
}

fn change() -> impl Strategy<Value = Operation> {
    prop_oneof![
        3 => (key(), len()).prop_map(|(key, len)| Operation::Put(key, len)),
        2 => key().prop_map(Operation::Delete),
    ]
}

pub(super) fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        10 => change(),
        6 => path().prop_map(Operation::Stat),
        1 => path().prop_map(Operation::Xattr),
        4 => path().prop_map(Operation::List),
        2 => (path(), 0..12_usize, change().prop_map(Box::new))
            .prop_map(|(path, piece, change)| Operation::ListAround(path, piece, change)),
        1 => Just(Operation::Walk),
        4 => path().prop_map(Operation::Open),
        6 => (any::<Index>(), 0..300_u64, 1..400_usize)
            .prop_map(|(file, offset, len)| Operation::Read(file, offset, len)),
        1 => any::<Index>().prop_map(Operation::Close),
        1 => Just(Operation::Wait),
    ]
}
