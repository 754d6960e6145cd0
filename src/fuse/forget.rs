//! The thread that asks the kernel to forget files.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::mpsc::Receiver;
use std::thread;

use fuser::{INodeNo, Notifier};

use crate::vfs::Forgettable;

/// How many are forgotten at once at most.
const BATCH: usize = 512;

/// `FUSE_NOTIFY_PRUNE` of `<linux/fuse.h>`, since Linux 6.18.
const PRUNE: i32 = 9;

/// The bytes of `struct fuse_out_header` and of `struct fuse_notify_prune_out`.
const HEADERS: usize = 16 + 16;

/// Asks for each of these files by `device` until no more can come, on a thread of its own: where
/// the kernel can only forget a name, it waits for requests about the same directory, which a FUSE
/// thread has to answer.
pub(super) fn start(
    device: File,
    notifier: Notifier,
    forgettable: Receiver<Forgettable>,
) -> io::Result<()> {
    let work = move || {
        let mut prunes = true;
        while let Ok(first) = forgettable.recv() {
            let mut batch = vec![first];
            batch.extend(forgettable.try_iter().take(BATCH - 1));
            if prunes && let Err(error) = (&device).write_all(&prune(&batch)) {
                // A kernel that doesn't know of it says so; one that has unmounted, too.
                tracing::debug!(%error, "the kernel forgets names, not files");
                prunes = false;
            }
            if !prunes {
                for Forgettable { place, .. } in &batch {
                    // It fails where the name was forgotten before.
                    let name = OsStr::from_bytes(&place.name);
                    let _ = notifier.inval_entry(INodeNo(place.parent), name);
                }
            }
        }
    };
    thread::Builder::new().name("forget".into()).spawn(work).map(|_| ())
}

/// The message to forget these files, if nobody uses them.
fn prune(batch: &[Forgettable]) -> Vec<u8> {
    let len = HEADERS + size_of::<u64>() * batch.len();
    let mut message = Vec::with_capacity(len);
    // The length of it all, the code, and no request that it answers.
    message.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend_from_slice(&PRUNE.to_ne_bytes());
    message.extend_from_slice(&0_u64.to_ne_bytes());
    // How many, and what is kept for later use.
    message.extend_from_slice(&u32::try_from(batch.len()).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend_from_slice(&[0; 12]);
    for Forgettable { ino, .. } in batch {
        message.extend_from_slice(&ino.to_ne_bytes());
    }
    message
}
