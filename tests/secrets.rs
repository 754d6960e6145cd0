//! Environment files, both ways through the real `sops`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use atelier::error::ErrorKind;
use atelier::secret::identity::Identities;
use atelier::secret::{EnvironmentFile, OpenEnvironment, Value};
use tempfile::TempDir;

use crate::support::program;

mod commands;
mod differential;
mod files;
pub(crate) mod home;
mod host;
mod keys;
mod tree;
pub(crate) mod writes;

type Pairs = BTreeMap<String, Vec<u8>>;

/// A member with a key file and a folder of environment files.
struct Member {
    dir: TempDir,
    identities: Identities,
}

impl Member {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identities = Identities::load_or_create(&dir.path().join("keys.txt")).unwrap();
        Self { dir, identities }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the real `sops` with this member's key and nothing else of this environment.
    fn sops(&self, args: &[&str], file: &Path, rest: &[&str]) -> Output {
        Command::new(program::find("sops"))
            .args(args)
            .arg(file)
            .args(rest)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("SOPS_AGE_KEY_FILE", self.file("keys.txt"))
            .env("SOPS_DISABLE_VERSION_CHECK", "1")
            .output()
            .unwrap()
    }

    /// What `sops` says that a file holds.
    fn read_by_sops(&self, file: &Path) -> Result<Pairs, String> {
        let output = self.sops(&["exec-env", "--pristine"], file, &["exec /usr/bin/env -0"]);
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let pairs = output.stdout.split(|byte| *byte == 0).filter(|pair| !pair.is_empty());
        Ok(pairs
            .filter_map(|pair| {
                let split = pair.iter().position(|byte| *byte == b'=')?;
                Some((String::from_utf8(pair[..split].to_vec()).ok()?, pair[split + 1..].to_vec()))
            })
            // The shell that sops starts adds these.
            .filter(|(key, _)| !matches!(key.as_str(), "PWD" | "SHLVL" | "_" | "OLDPWD"))
            .collect())
    }

    fn encrypted_by_sops(&self, name: &str, plain: &str) -> PathBuf {
        let file = self.file(name);
        fs::write(&file, plain).unwrap();
        let recipient = self.identities.recipient();
        done(&self.sops(&["encrypt", "--in-place", "--age", &recipient], &file, &[]));
        file
    }

    fn open(&self, file: &Path) -> atelier::error::Result<OpenEnvironment> {
        EnvironmentFile::parse("test", &fs::read(file).unwrap())?.open(&self.identities)
    }

    fn seal(&self, name: &str, pairs: &Pairs) -> PathBuf {
        let mut environment = OpenEnvironment::create(name).unwrap();
        for (key, value) in pairs {
            environment.set(key, Value::new(value.clone())).unwrap();
        }
        let file = self.file(name);
        fs::write(&file, environment.seal(&[self.identities.recipient()]).unwrap()).unwrap();
        file
    }
}

fn done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn pairs_of(environment: &OpenEnvironment) -> Pairs {
    environment.values().map(|(key, value)| (key.to_owned(), value.expose().to_vec())).collect()
}

fn pairs(list: &[(&str, &str)]) -> Pairs {
    list.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
}

/// Numbers that look random and are the same in each run (xorshift64, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }

    fn pairs(&mut self, pieces: &[&str]) -> Pairs {
        let count = 1 + self.below(8);
        (0..count)
            .map(|index| {
                let len = 1 + self.below(6);
                let value: String = (0..len).map(|_| pieces[self.below(pieces.len())]).collect();
                (format!("KEY_{index}"), value.into_bytes())
            })
            .collect()
    }
}

const PIECES: &[&str] = &[
    "\n",
    "\r\n",
    "'",
    "\"",
    "$(id)",
    "`id`",
    "\\",
    "\\t",
    "=",
    "#",
    " ",
    "\t",
    "é",
    "日本語",
    "🎨",
    "ENC[AES256_GCM,data:",
    "]",
    "plain",
    "\u{7f}",
    "%s",
    "&&",
    ";",
    "0",
    "true",
    "null",
    "\\n",
];

/// How many generated files go through `sops`, each way.
const FILES: usize = 200;

/// Does something with each file, a few at a time: most of it is waiting for `sops`.
fn at_once(files: &[Pairs], work: impl Fn(usize, &Pairs) + Sync) {
    std::thread::scope(|scope| {
        for lane in 0..4 {
            let work = &work;
            scope.spawn(move || {
                for (index, file) in files.iter().enumerate().skip(lane).step_by(4) {
                    work(index, file);
                }
            });
        }
    });
}

/// What is sealed here is what `sops exec-env` puts into the environment, whatever the bytes.
#[test]
fn sops_reads_what_is_written_here() {
    let member = Member::new();
    let mut numbers = Numbers(0x5eed_0001);
    let files: Vec<_> = (0..FILES).map(|_| numbers.pairs(PIECES)).collect();
    at_once(&files, |round, pairs| {
        let file = member.seal(&format!("{round}.env"), pairs);
        assert_eq!(member.read_by_sops(&file).unwrap(), *pairs, "file {round}");
    });
}

/// A value of 100 KiB goes both ways, and `sops decrypt` prints what was set.
#[test]
fn long_values_and_plain_output_work_in_sops() {
    let member = Member::new();
    let long = "x".repeat(100 * 1024);
    let file = member.seal("long.env", &pairs(&[("LONG", &long), ("TWO", "1\n2")]));
    assert_eq!(member.read_by_sops(&file).unwrap()["LONG"], long.as_bytes());
    let output = member.sops(&["decrypt"], &file, &[]);
    done(&output);
    assert_eq!(output.stdout, format!("LONG={long}\nTWO=1\\n2\n").into_bytes());
    assert_eq!(member.open(&file).unwrap().value("LONG").unwrap().expose(), long.as_bytes());
}

/// What `sops encrypt` writes is read here: values, empty and clear ones, comments.
#[test]
fn what_sops_writes_is_read_here() {
    let member = Member::new();
    // `sops` takes what follows `\n` for a line feed, and ends a line at a real one.
    let pieces: Vec<_> = PIECES.iter().filter(|piece| !piece.contains('\n')).copied().collect();
    let mut numbers = Numbers(0x5eed_0002);
    let files: Vec<_> = (0..FILES).map(|_| numbers.pairs(&pieces)).collect();
    at_once(&files, |round, expected| {
        let mut plain = String::from("# a comment\n#\n\nEMPTY=\nFREE_unencrypted=a\\nb\n");
        for (key, value) in expected {
            plain.extend([key, "=", str::from_utf8(value).unwrap(), "\n"]);
        }
        let file = member.encrypted_by_sops(&format!("{round}.env"), &plain);
        let expected: Pairs = expected
            .iter()
            .map(|(key, value)| (key, str::from_utf8(value).unwrap().replace("\\n", "\n")))
            .map(|(key, value)| (key.clone(), value.into_bytes()))
            .collect();
        assert_eq!(pairs_of(&member.open(&file).unwrap()), expected, "file {round}");
    });
}

/// A file goes to and fro between `sops` and this program, each changing a line.
#[test]
fn both_change_the_same_file() {
    let member = Member::new();
    let recipients = [member.identities.recipient()];
    let file = member.seal("shared.env", &pairs(&[("A", "1"), ("B", "2")]));
    done(&member.sops(&["set"], &file, &["[\"A\"]", "\"one\\ntwo\""]));
    assert_eq!(pairs_of(&member.open(&file).unwrap()), pairs(&[("A", "one\ntwo"), ("B", "2")]));

    let mut opened = member.open(&file).unwrap();
    opened.set("C", Value::new(b"3".to_vec())).unwrap();
    opened.delete("B");
    fs::write(&file, opened.seal(&recipients).unwrap()).unwrap();
    let expected = pairs(&[("A", "one\ntwo"), ("C", "3")]);
    assert_eq!(member.read_by_sops(&file).unwrap(), expected);

    done(&member.sops(&["rotate", "--in-place"], &file, &[]));
    assert_eq!(pairs_of(&member.open(&file).unwrap()), expected);
    let mut opened = member.open(&file).unwrap();
    opened.rotate().unwrap();
    fs::write(&file, opened.seal(&recipients).unwrap()).unwrap();
    assert_eq!(member.read_by_sops(&file).unwrap(), expected);

    done(&member.sops(&["unset"], &file, &["[\"A\"]"]));
    assert_eq!(pairs_of(&member.open(&file).unwrap()), pairs(&[("C", "3")]));
    done(&member.sops(&["unset"], &file, &["[\"C\"]"]));
    assert_eq!(pairs_of(&member.open(&file).unwrap()), Pairs::new());
}

/// A file with comments, empty and clear values that `sops` wrote keeps its lines when a value is
/// set here.
#[test]
fn lines_of_sops_stay_as_they_are() {
    let member = Member::new();
    let plain = "# comment\n#\nA=1\nEMPTY=\nFREE_unencrypted=a\\nb c\nB=2\n";
    let file = member.encrypted_by_sops("kept.env", plain);
    let before = fs::read_to_string(&file).unwrap();
    let mut opened = member.open(&file).unwrap();
    opened.set("B", Value::new(b"two".to_vec())).unwrap();
    let after = opened.seal(&[member.identities.recipient()]).unwrap();
    fs::write(&file, &after).unwrap();
    let after = String::from_utf8(after).unwrap();
    let changed: Vec<_> = before
        .lines()
        .zip(after.lines())
        .filter(|(before, after)| before != after)
        .map(|(before, _)| before.split('=').next().unwrap())
        .filter(|key| *key != "sops_lastmodified")
        .collect();
    assert_eq!(changed, ["B", "sops_mac"]);
    let decrypted = member.sops(&["decrypt"], &file, &[]);
    done(&decrypted);
    assert_eq!(String::from_utf8(decrypted.stdout).unwrap(), plain.replace("B=2", "B=two"));
}

/// The same mistakes have the same codes: no key 128, a changed value 25, a changed whole 51.
#[test]
fn failures_are_those_of_sops() {
    let (member, stranger) = (Member::new(), Member::new());
    let file = member.seal("a.env", &pairs(&[("A", "1"), ("B", "2")]));
    let both = |file: &Path, reader: &Member| {
        let sops = reader.sops(&["decrypt"], file, &[]).status.code();
        (sops, reader.open(file).map(|opened| pairs_of(&opened)).map_err(|error| error.kind()))
    };
    assert_eq!(both(&file, &stranger), (Some(128), Err(ErrorKind::NoIdentity)));

    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("A=", "C=", 1)).unwrap();
    assert_eq!(both(&file, &member), (Some(25), Err(ErrorKind::DecryptFailed)));

    let without_first = text.split_once('\n').unwrap().1;
    fs::write(&file, without_first).unwrap();
    assert_eq!(both(&file, &member), (Some(51), Err(ErrorKind::MacMismatch)));
}

/// Harmless changes to a file are accepted here only where `sops` accepts them too.
#[test]
fn what_is_accepted_here_sops_accepts() {
    let member = Member::new();
    let expected = pairs(&[("A", "1"), ("B", "2\n3")]);
    let file = member.seal("a.env", &expected);
    let text = fs::read_to_string(&file).unwrap();
    let metadata = text.find("sops_").unwrap();
    let mut reversed: Vec<_> = text[metadata..].lines().collect();
    reversed.reverse();
    for changed in [
        text.trim_end().to_owned(),
        text.replace("\nsops_", "\n\nsops_"),
        text.replace("sops_unencrypted_suffix=_unencrypted\n", ""),
        text.replace("-----\\n\nsops", "-----\nsops"),
        text.replace("3.11.0", "3.10.2"),
        format!("#\n{text}"),
        format!("{}{}\n", &text[..metadata], reversed.join("\n")),
    ] {
        fs::write(&file, &changed).unwrap();
        assert_eq!(pairs_of(&member.open(&file).unwrap()), expected, "{changed}");
        assert_eq!(member.read_by_sops(&file).unwrap(), expected, "{changed}");
    }
}
