//! The thread that asks the kernel to forget names.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::mpsc::Receiver;
use std::thread;

use fuser::{INodeNo, Notifier};

use crate::vfs::Place;

/// Asks for each of these names until no more can come.
///
/// On a thread of its own: the kernel waits for requests about the same directory, which a FUSE
/// thread has to answer.
pub(super) fn start(notifier: Notifier, forgettable: Receiver<Place>) -> io::Result<()> {
    let work = move || {
        for Place { parent, name } in forgettable {
            // It fails where the name was forgotten before.
            let _ = notifier.inval_entry(INodeNo(parent), OsStr::from_bytes(&name));
        }
    };
    thread::Builder::new().name("forget".into()).spawn(work).map(|_| ())
}
