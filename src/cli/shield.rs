//! What keeps others out of this process and of what it makes.
//!
//! It is raised before anything else, since keys may come from anywhere: a file, the environment, a
//! secret. A process that is shielded can't be traced, nor its memory or environment be read, by
//! another of the same user (`PR_SET_DUMPABLE`), leaves no core, and makes files for its user only.
//! Root can do all of it still.
//!
//! Landlock and seccomp aren't used: under Landlock a process can change no mounts, so that it
//! couldn't unmount what it serves, and without new privileges (`PR_SET_NO_NEW_PRIVS`), which both
//! take, `fusermount3` mounts nothing for a user.

use std::sync::OnceLock;

use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask,
};

use crate::error::{Error, Result};

/// Who may do anything with what this process makes: its user.
const PRIVATE: Mode = Mode::from_raw_mode(0o077);

/// What was so before the shield was raised, for the programs that a user has us run.
static BEFORE: OnceLock<Before> = OnceLock::new();

struct Before {
    core: Rlimit,
    umask: Mode,
}

/// Raises the shield, for as long as this process runs this program.
///
/// # Errors
/// What the kernel answers; then no key should be read.
pub(super) fn raise() -> Result<()> {
    let failed = |error: rustix::io::Errno| {
        Error::io(error.into(), "this process can't be kept from being dumped")
    };
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)?;
    let core = getrlimit(Resource::Core);
    BEFORE.get_or_init(|| Before { core, umask: umask(PRIVATE) });
    setrlimit(Resource::Core, Rlimit { current: Some(0), ..core }).map_err(failed)
}

/// Does what another program begins with: it gets the limit on cores and the umask that the user
/// gave us.
///
/// The kernel itself makes a process dumpable again when it executes another program.
///
/// # Errors
/// What the kernel answers.
pub(super) fn lowered<T>(begin: impl FnOnce() -> T) -> Result<T> {
    let Some(before) = BEFORE.get() else { return Ok(begin()) };
    let failed = |error: rustix::io::Errno| {
        Error::io(error.into(), "the limit on cores can't be given to another program")
    };
    setrlimit(Resource::Core, before.core).map_err(failed)?;
    umask(before.umask);
    let begun = begin();
    umask(PRIVATE);
    setrlimit(Resource::Core, Rlimit { current: Some(0), ..before.core }).map_err(failed)?;
    Ok(begun)
}

/// Makes files as the user wants them from now on: they are his, outside of the home.
pub(super) fn make_files_for_the_user() {
    if let Some(before) = BEFORE.get() {
        umask(before.umask);
    }
}
