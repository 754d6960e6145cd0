//! Keeps what a process knows from being dumped or traced while it handles keys.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

use crate::error::{Error, Result};

/// A process that leaves no core and that no other of the same user can attach to.
pub(super) struct Shield {
    core: Rlimit,
}

impl Shield {
    /// Raises the shield; call it before any key is read.
    ///
    /// See `PR_SET_DUMPABLE` in `prctl(2)` and `RLIMIT_CORE` in `getrlimit(2)`.
    ///
    /// # Errors
    /// What the kernel answers; then no key should be read.
    pub(super) fn raise() -> Result<Self> {
        let failed = |error: rustix::io::Errno| {
            Error::io(error.into(), "this process can't be kept from being dumped")
        };
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)?;
        let core = getrlimit(Resource::Core);
        setrlimit(Resource::Core, Rlimit { current: Some(0), ..core }).map_err(failed)?;
        Ok(Self { core })
    }

    /// Gives back the limit on cores, for a program that is about to take this process over.
    ///
    /// The kernel itself makes a process dumpable again when it executes another program.
    pub(super) fn lower(self) -> Result<()> {
        setrlimit(Resource::Core, self.core)
            .map_err(|error| Error::io(error.into(), "the limit on cores can't be restored"))
    }
}
