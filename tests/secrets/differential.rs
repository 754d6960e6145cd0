//! The same files, read here and by the real `sops`: what is accepted here, it accepts with the same
//! values.

use std::fs;

use super::{Member, Numbers, Pairs, done, pairs, pairs_of};

/// How many changed files are read.
const MUTANTS: usize = 2500;

/// How many of those that are accepted here are given to `sops`, which takes a while for each.
const ASKED: usize = 50;

/// What a mutation may put into a line.
const TOKENS: &[&str] = &[
    "\n",
    "\r",
    "\t",
    " ",
    "=",
    "#",
    ",",
    ":",
    "]",
    "[",
    "\\n",
    "\\",
    "\"",
    "'",
    "\0",
    "\u{feff}",
    "é",
    "A",
    "0",
    "9",
    "/",
    "+",
    "-",
    "_",
    "==",
    "ENC[",
    "ENC[AES256_GCM,data:",
    ",iv:",
    ",tag:",
    ",type:str]",
    ",type:int]",
    ",type:comment]",
    "sops_",
    "sops_age__list_0__map_enc=",
    "_unencrypted",
    "sops_age__list_1__map_recipient=",
    "sops_mac=",
    "sops_version=3.11.0",
    "export ",
    "list_1__",
];

/// Lines that stand for whole classes of lines.
const LINES: &[&str] = &[
    "#",
    "",
    "D=",
    "D_unencrypted=x",
    "D_unencrypted=a\\nb é",
    "# clear",
    "D=clear",
    "no pair",
    "sops_unencrypted_suffix=_unencrypted",
    "sops_version=3.9.4",
    "sops_version=4.0.0",
    "sops_mac_only_encrypted=true",
    "sops_unknown=x",
    "sops_lastmodified=2026-01-01T00:00:00Z",
];

fn mutated(text: &str, numbers: &mut Numbers) -> Vec<u8> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..=numbers.below(3) {
        let (one, two) = (numbers.below(lines.len()), numbers.below(lines.len()));
        let token = TOKENS[numbers.below(TOKENS.len())];
        let (count, other) = (lines.len(), lines[two].clone());
        let line = &mut lines[one];
        let mut place = numbers.below(line.len() + 1);
        while !line.is_char_boundary(place) {
            place -= 1;
        }
        match numbers.below(12) {
            0 if count > 1 => drop(lines.remove(one)),
            1 => lines.swap(one, two),
            2 => lines.insert(one, other),
            3..=5 => lines.insert(one, LINES[numbers.below(LINES.len())].to_owned()),
            6 => line.insert_str(place, token),
            7 => line.truncate(place),
            8 => line.push_str(token),
            9 => line.insert_str(0, token),
            10 => *line = line.replace('=', token),
            _ => *line = line.to_lowercase(),
        }
    }
    let mut bytes = lines.join("\n").into_bytes();
    if numbers.below(2) == 0 {
        bytes.push(b'\n');
    }
    if numbers.below(4) == 0 && !bytes.is_empty() {
        let place = numbers.below(bytes.len());
        bytes[place] ^= 1 << numbers.below(8);
    }
    bytes
}

/// However lines are added, dropped, doubled, swapped and changed: nothing panics, what is accepted
/// here holds the values that were sealed, and `sops` reads the same.
#[test]
fn no_file_is_read_in_two_ways() {
    let member = Member::new();
    let original = pairs(&[("A", "1"), ("B", "2\n3"), ("C", "1")]);
    let file = member.seal("a.env", &original);
    let by_us = fs::read_to_string(&file).unwrap();
    let by_sops = member.encrypted_by_sops("b.env", "# comment\nA=1\nB=2\\n3\nE=\nC=1\n");
    let by_sops = fs::read_to_string(by_sops).unwrap();
    let mut numbers = Numbers(0x5eed_0004);
    let (mut accepted, mut asked) = (0, Vec::new());
    for round in 0..MUTANTS {
        let bytes = mutated(if round % 2 == 0 { &by_us } else { &by_sops }, &mut numbers);
        fs::write(&file, &bytes).unwrap();
        let Ok(opened) = member.open(&file) else { continue };
        accepted += 1;
        let found = pairs_of(&opened);
        assert!(found.iter().all(|pair| original.iter().any(|other| other == pair)), "{round}");
        if asked.len() < ASKED && !asked.contains(&bytes) {
            let read = member.read_by_sops(&file);
            let mut read = read.unwrap_or_else(|why| panic!("{round}: {why}: {}", shown(&bytes)));
            // What nothing vouches for is no secret here.
            read.retain(|key, value| !value.is_empty() && !key.ends_with("_unencrypted"));
            assert_eq!(read, found, "{round}: {}", shown(&bytes));
            asked.push(bytes);
        }
    }
    assert!(asked.len() == ASKED && accepted < MUTANTS / 2, "{accepted} were accepted");
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// What `sops` 3.11 takes and is refused here on purpose: it isn't what `sops` writes, and nothing
/// vouches for it.
#[test]
fn what_is_refused_on_purpose_is_known() {
    let member = Member::new();
    let file = member.seal("a.env", &pairs(&[("A", "1"), ("B", "2")]));
    let text = fs::read_to_string(&file).unwrap();
    let (data, metadata) = text.split_at(text.find("sops_").unwrap());
    let on_line = |begin: &str, change: &dyn Fn(&str) -> String| -> String {
        let lines = text
            .lines()
            .map(|line| if line.starts_with(begin) { change(line) } else { line.to_owned() });
        lines.collect::<Vec<_>>().join("\n") + "\n"
    };
    let lax = [
        ("a comment in the clear", format!("# clear\n{text}")),
        ("a key that no shell has", format!("C-D=\n{text}")),
        ("data behind the metadata", format!("{metadata}{data}")),
        ("unknown metadata", format!("{text}sops_unknown=x\n")),
        ("metadata twice", format!("{text}sops_version=3.11.0\n")),
        ("a gap in the recipients", text.replace("list_0", "list_7")),
        ("another way to write a number", text.replace("list_0", "list_00")),
        ("a blank behind a value", on_line("A=", &|line| format!("{line} "))),
        ("a blank behind the seal", on_line("sops_mac", &|line| format!("{line} "))),
        ("a fraction of a second", on_line("sops_last", &|line| line.replace('Z', ".5Z"))),
    ];
    for (what, changed) in lax {
        fs::write(&file, &changed).unwrap();
        done(&member.sops(&["decrypt"], &file, &[]));
        assert!(member.open(&file).is_err(), "{what}");
    }
    fs::write(&file, &text).unwrap();
    assert_eq!(pairs_of(&member.open(&file).unwrap()).len(), 2);
    let _: Pairs = member.read_by_sops(&file).unwrap();
}
