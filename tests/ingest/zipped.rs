//! Zip archives, as Python writes them.

use super::*;
use crate::support::program;

/// Makes a zip: a line of Python for each entry.
fn zip(home: &Home, name: &str, entries: &str) -> Vec<u8> {
    let begin = "import struct, sys, zipfile\n\
                 from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_STORED\n\
                 zip = zipfile.ZipFile(sys.argv[1], 'w')\n\
                 def add(name, data, mode=0, how=ZIP_DEFLATED, zip64=False, extra=b''):\n\
                 \x20   entry = zipfile.ZipInfo(name, (2001, 9, 9, 1, 46, 40))\n\
                 \x20   entry.external_attr, entry.compress_type = mode << 16, how\n\
                 \x20   entry.extra = extra\n\
                 \x20   with zip.open(entry, 'w', force_zip64=zip64) as file:\n\
                 \x20       file.write(data)\n";
    let script = format!("{begin}{entries}\nzip.close()\n");
    let python = program::find("python3");
    run(&home.path(""), python.to_str().unwrap(), &["-c", &script, name]);
    fs::read(home.path(name)).unwrap()
}

/// A zip with all kinds of entries.
fn all_kinds(home: &Home, name: &str) -> Vec<u8> {
    plain(home);
    zip(
        home,
        name,
        "add('empty/', b'', 0o40700)\n\
         add('deep/er/large.bin', open('plain/sub/large.bin', 'rb').read(), 0o100600, ZIP_STORED)\n\
         add('zip64.txt', b'text\\n' * 10000, 0o100444, zip64=True)\n\
         add('run.sh', b'#!/bin/sh\\n', 0o100755)\n\
         add('link', b'deep/er/large.bin', 0o120777)\n\
         add('nothing', b'')\n\
         add('before.txt', b'1969', extra=struct.pack('<HHBl', 0x5455, 5, 1, -86400))",
    )
}

#[test]
fn a_zip_holds_files_links_modes_and_times() {
    let home = Home::with_project();
    all_kinds(&home, "a.zip");
    home.ok(["dataset", "create", "zipped", "a.zip"]);
    let found = kept(&home, "zipped");
    let entries: Vec<_> = found
        .iter()
        .map(|(path, (mode, seconds, ..))| {
            format!("{} {mode:o} {seconds}", String::from_utf8_lossy(path))
        })
        .collect();
    let expected = [
        "before.txt 100600 -86400",
        "deep 40755 1000000000",
        "deep/er 40755 1000000000",
        "deep/er/large.bin 100600 1000000000",
        "empty 40700 1000000000",
        "link 120777 1000000000",
        "nothing 100600 1000000000",
        "run.sh 100755 1000000000",
        "zip64.txt 100444 1000000000",
    ];
    assert_eq!(entries, expected);
    let place = Place::of(home);
    place.mount();
    let dataset = place.dir.join("datasets/zipped");
    assert!(fs::read(dataset.join("link")).unwrap() == noise(2_000_000, 2));
    assert_eq!(fs::read(dataset.join("zip64.txt")).unwrap(), b"text\n".repeat(10_000));
}

#[test]
fn a_zip_of_more_entries_than_the_small_record_counts_is_whole() {
    let home = Home::with_project();
    zip(
        &home,
        "many.zip",
        "for number in range(70000):\n    add(f'{number % 100}/{number}', b'%d' % number, how=ZIP_STORED)",
    );
    home.ok(["dataset", "create", "many", "many.zip"]);
    assert_eq!(home.json(["dataset", "show", "many"])["files"], 70_000);
}

#[test]
fn a_zip_that_is_damaged_publishes_nothing() {
    let home = Home::with_project();
    let whole = all_kinds(&home, "a.zip");
    let refuse = |bytes: &[u8]| {
        fs::write(home.path("cut.zip"), bytes).unwrap();
        let said = home.fails(["dataset", "create", "cut", "cut.zip"]);
        assert_refused(&home, &said, "cut.zip is damaged or incomplete");
    };
    for len in [30, 1_000_000, whole.len() - 100, whole.len() - 22, whole.len() - 1] {
        refuse(&whole[..len]);
    }
    let index = whole.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    let name = b"deep/er/large.bin";
    let named = whole.windows(name.len()).rposition(|bytes| bytes == name).unwrap();
    // Bytes of a file, the index, a checksum, and the length and place of the index.
    for at in [1_000_000, index + 1, named - 30, whole.len() - 10, whole.len() - 6] {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        refuse(&flipped);
    }
}

#[test]
fn entries_of_a_zip_that_can_not_be_read_are_named() {
    let home = Home::with_project();
    let mut bytes = zip(
        &home,
        "some.zip",
        "add('../up', b'hostile')\n\
         add('fine', b'content')\n\
         add('bzip2', b'content', how=ZIP_BZIP2)\n\
         add('locked', b'content')\n\
         add('fifo', b'', 0o10644)",
    );
    // The flags are 24 bytes before the name in the file's own header, and 38 in the index.
    let places = bytes.windows(6).enumerate().filter(|(_, bytes)| bytes == b"locked");
    let places: Vec<_> = places.map(|(at, _)| at).collect();
    for (at, before) in places.into_iter().zip([24, 38]) {
        bytes[at - before] |= 1;
    }
    fs::write(home.path("some.zip"), bytes).unwrap();
    let ended = home.run(["dataset", "create", "some", "some.zip"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    for line in [
        "../up: its name leads outside",
        "bzip2: it is compressed in a way that isn't read",
        "locked: it is encrypted",
        "fifo: it is neither a file, a directory nor a symbolic link",
        "left out: 4",
    ] {
        assert!(ended.stderr.contains(line), "{line}: {}", ended.stderr);
    }
    assert_eq!(home.json(["dataset", "show", "some"])["files"], 1);
}
