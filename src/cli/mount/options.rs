//! The options of `-o`, as mount(8) passes them.

use std::path::PathBuf;

use super::{Context, MountOptions};
use crate::config::ServingArgs;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::fuse::{Access, Flag};

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

/// What `-o` asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// How to mount; its source isn't known here.
    pub(super) mount: MountOptions,
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
            "allow_other" => self.mount.access = Access::All,
            "allow_root" => self.mount.access = Access::OwnerAndRoot,
            _ => {
                let for_others = word.starts_with("x-") || word.starts_with("X-");
                return for_others || PASSED_OVER.contains(&word);
            }
        }
        true
    }

    fn set(&mut self, flag: Flag, on: bool) {
        self.mount.flags.retain(|other| *other != flag);
        if on {
            self.mount.flags.push(flag);
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
    use super::*;

    fn parse(list: &str) -> Result<Options> {
        Options::parse(&[list.to_owned()], &ServingArgs::default(), false)
    }

    #[test]
    fn what_mount_passes_is_understood() {
        let list = "ro,noexec,nosuid,nodev,user,_netdev,nofail,x-systemd.automount,allow_other,\
                    home=/srv/a home,as=ada";
        let options = parse(list).unwrap();
        assert_eq!(options.mount.flags, [Flag::ReadOnly, Flag::NoExec]);
        assert_eq!(options.mount.access, Access::All);
        assert_eq!(options.home, Some("/srv/a home".into()));
        assert_eq!(options.user.as_deref(), Some("ada"));
    }

    #[test]
    fn a_later_word_overrides_an_earlier_one() {
        let options = parse("ro,noexec,rw,exec,ro").unwrap();
        assert_eq!(options.mount.flags, [Flag::ReadOnly]);
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
