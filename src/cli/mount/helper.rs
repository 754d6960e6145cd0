//! Being called as `mount.atelier`, by `mount -t atelier PROJECT DIR` or from `/etc/fstab`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use super::options::Options;
use crate::config::ServingArgs;
use crate::error::Result;

/// The name under which mount(8) looks for a helper of the type `atelier`.
const NAME: &str = "mount.atelier";

/// The command line as `atelier` knows it.
///
/// mount(8) calls `mount.atelier PROJECT DIR [-sfnv] [-N namespace] [-o options] [-t type]`.
pub fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut given = given.into_iter();
    let program = given.next().unwrap_or_default();
    if Path::new(&program).file_name() != Some(NAME.as_ref()) {
        return std::iter::once(program).chain(given).collect();
    }
    let (mut switches, mut places) = (Vec::<OsString>::new(), Vec::new());
    let mut quiet = true;
    while let Some(word) = given.next() {
        let bytes = word.as_bytes();
        if bytes.len() < 2 || bytes[0] != b'-' {
            places.push(word);
            continue;
        }
        if bytes.starts_with(b"--") {
            switches.push(word);
            continue;
        }
        for (at, letter) in bytes.iter().enumerate().skip(1) {
            match letter {
                b's' => switches.push("--sloppy".into()),
                b'f' => switches.push("--fake".into()),
                b'v' => quiet = false,
                b'r' => switches.extend(["-o".into(), "ro".into()]),
                // These take a value, in the same word or the next.
                b'o' | b't' | b'N' => {
                    let rest = bytes[at + 1..].to_vec();
                    let value =
                        if rest.is_empty() { given.next() } else { Some(OsString::from_vec(rest)) };
                    if *letter == b'o' {
                        switches.push("-o".into());
                        switches.extend(value);
                    }
                    break;
                }
                // -n and -w are so anyway.
                _ => {}
            }
        }
    }
    if quiet {
        switches.push("--quiet".into());
    }
    let mut arguments = vec![program, "mount".into()];
    arguments.extend(switches);
    arguments.push("--".into());
    arguments.extend(places);
    arguments
}

/// Checks the options of a list, as `mount -f` has it done, and does nothing by them.
///
/// # Errors
/// `InvalidInput` for one that isn't known, unless `sloppy`, or whose value makes no sense.
pub fn check(list: &str, sloppy: bool) -> Result<()> {
    Options::parse(&[list.to_owned()], &ServingArgs::default(), sloppy).map(drop)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_words_make_it_panic_or_become_an_option_of_their_own(
            words in prop::collection::vec("-?-?[a-zN,= ]{0,6}", 0..8)
        ) {
            let given = std::iter::once("mount.atelier").chain(words.iter().map(String::as_str));
            let words = translated(&given.collect::<Vec<_>>());
            prop_assert_eq!((&*words[0], &*words[1]), ("mount.atelier", "mount"));
            prop_assert!(words.contains(&"--".to_owned()));
        }
    }

    fn translated(words: &[&str]) -> Vec<String> {
        let words = arguments(words.iter().map(OsString::from));
        words.into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn other_names_change_nothing() {
        assert_eq!(translated(&["/usr/bin/atelier", "-o", "x"]), ["/usr/bin/atelier", "-o", "x"]);
    }

    #[test]
    fn what_mount_passes_becomes_a_command() {
        let words = ["/sbin/mount.atelier", "o/c/p", "/mnt/a b", "-sn", "-v", "-o", "rw,noexec"];
        let expected = [
            "/sbin/mount.atelier",
            "mount",
            "--sloppy",
            "-o",
            "rw,noexec",
            "--",
            "o/c/p",
            "/mnt/a b",
        ];
        assert_eq!(translated(&words), expected);
        let words = ["mount.atelier", "o/c/p", "/m", "-f", "-oro", "-t", "atelier"];
        let expected =
            ["mount.atelier", "mount", "--fake", "-o", "ro", "--quiet", "--", "o/c/p", "/m"];
        assert_eq!(translated(&words), expected);
    }
}
