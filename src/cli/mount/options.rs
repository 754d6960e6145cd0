//! The options of `-o`, as mount(8) passes them.

use std::path::PathBuf;

use super::Context;
use crate::config::ServingArgs;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::fuse::Flag;

/// Words that are for mount(8), systemd or nobody, and those that are so anyway.
const PASSED_OVER: &[&str] = &[
    "_netdev",
    "async",
    "atime",
    "auto",
    "defaults",
    "diratime",
    "exec",
    "group",
    "lazytime",
    "loud",
    "nodev",
    "nodiratime",
    "nofail",
    "nolazytime",
    "nomand",
    "noauto",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nouser",
    "owner",
    "relatime",
    "rw",
    "silent",
    "strictatime",
    "user",
    "users",
];

/// Who may enter a mount besides who mounts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// Root, if it is a member's account.
    Root,
    /// All accounts of members.
    Members,
}

impl Others {
    /// The option that asks for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Root => "allow_root",
            Self::Members => "allow_other",
        }
    }
}

/// What `-o` asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Flags of mount(2).
    pub(super) flags: Vec<Flag>,
    /// Who else may enter.
    pub(super) others: Option<Others>,
    /// How to read.
    pub(super) serving: ServingArgs,
    /// The home to mount from.
    home: Option<PathBuf>,
    /// Who is acting. The word is `as`: mount(8) keeps `user` for itself, and adds `suid` to it.
    user: Option<String>,
}

impl Options {
    /// Reads lists of options; a later word overrides an earlier one, and any of them what
    /// `serving` says.
    ///
    /// # Errors
    /// `InvalidInput` for an option that isn't known, unless `sloppy`.
    pub(super) fn parse(lists: &[String], serving: &ServingArgs, sloppy: bool) -> Result<Self> {
        let mut options = Self { serving: serving.clone(), ..Self::default() };
        for word in lists.iter().flat_map(|list| list.split(',')).filter(|word| !word.is_empty()) {
            if !options.take(word)? && !sloppy {
                return Err(unknown(word));
            }
        }
        Ok(options)
    }

    /// The context that commands with these options run in.
    pub(super) fn apply(&self, context: &Context) -> Result<Context> {
        let mut context = context.clone();
        if let Some(home) = &self.home {
            context.config.home = std::path::absolute(home)
                .context(|| format!("home {} can't be found", home.display()))?;
        }
        if let Some(user) = &self.user {
            context.config.user.clone_from(user);
        }
        Ok(context)
    }

    /// Takes a word; tells whether it is known.
    fn take(&mut self, word: &str) -> Result<bool> {
        match word.split_once('=') {
            Some(("home", home)) if !home.is_empty() => self.home = Some(home.into()),
            Some(("as", user)) if !user.is_empty() => self.user = Some(user.to_owned()),
            Some(("comment", _)) => {}
            Some((name, value)) if self.serving.take(name, value)? => {}
            _ => return Ok(self.take_flag(word)),
        }
        Ok(true)
    }

    fn take_flag(&mut self, word: &str) -> bool {
        match word {
            "ro" => self.set(Flag::ReadOnly, true),
            "rw" => self.set(Flag::ReadOnly, false),
            "noexec" => self.set(Flag::NoExec, true),
            "exec" => self.set(Flag::NoExec, false),
            "noatime" => self.set(Flag::NoAtime, true),
            "atime" => self.set(Flag::NoAtime, false),
            "sync" => self.set(Flag::Sync, true),
            "async" => self.set(Flag::Sync, false),
            "dirsync" => self.set(Flag::DirSync, true),
            "allow_other" => self.others = Some(Others::Members),
            "allow_root" => self.others = Some(Others::Root),
            _ => {
                let for_others = word.starts_with("x-") || word.starts_with("X-");
                return for_others || PASSED_OVER.contains(&word);
            }
        }
        true
    }

    fn set(&mut self, flag: Flag, on: bool) {
        self.flags.retain(|other| *other != flag);
        if on {
            self.flags.push(flag);
        }
    }
}

fn unknown(word: &str) -> Error {
    let error = Error::new(ErrorKind::InvalidInput, format!("mount option {word} isn't known"));
    match word {
        "suid" | "dev" => {
            error.with_hint("a mounted project never has set-user-id or device files")
        }
        _ => error.with_hint(
            "known are ro, noexec, noatime, sync, dirsync, allow_other, allow_root, home=DIR, \
             as=NAME and the general ones of mount(8)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(list: &str) -> Result<Options> {
        Options::parse(&[list.to_owned()], &ServingArgs::default(), false)
    }

    #[test]
    fn what_mount_passes_is_understood() {
        let list = "ro,noexec,nosuid,nodev,user,_netdev,nofail,x-systemd.automount,allow_other,\
                    home=/srv/a home,as=ada";
        let options = parse(list).unwrap();
        assert_eq!(options.flags, [Flag::ReadOnly, Flag::NoExec]);
        assert_eq!(options.others, Some(Others::Members));
        assert_eq!(options.home, Some("/srv/a home".into()));
        assert_eq!(options.user.as_deref(), Some("ada"));
    }

    proptest! {
        #[test]
        fn no_options_make_it_panic(
            words in prop::collection::vec("(ro|home|as|memory|metadata_ttl|cache_size|x-)?=?\\PC{0,12}", 0..6),
            sloppy: bool,
        ) {
            let list = words.join(",");
            let parsed = Options::parse(&[list], &ServingArgs::default(), sloppy);
            if let Err(error) = parsed {
                prop_assert!(!error.to_string().contains('\n') || words.concat().contains('\n'));
            }
        }
    }

    #[test]
    fn a_later_word_overrides_an_earlier_one() {
        let options = parse("ro,noexec,rw,exec,ro").unwrap();
        assert_eq!(options.flags, [Flag::ReadOnly]);
    }

    #[test]
    fn an_unknown_option_is_named_unless_it_may_be_passed_over() {
        let error = parse("ro,sped").unwrap_err();
        assert_eq!(error.to_string(), "mount option sped isn't known");
        assert!(parse("suid").is_err());
        assert!(parse("home=").is_err());
        assert!(Options::parse(&["sped".into()], &ServingArgs::default(), true).is_ok());
    }
}
