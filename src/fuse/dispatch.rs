//! Where synchronous FUSE meets tokio: a request is polled once where it came in, then spawned.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use fuser::{InitFlags, KernelConfig, ReplyAttr, ReplyEntry, Request};
use tokio::runtime;

use super::admission::{Admission, LISTED_MODE, Need};
use super::answer::{Answer, Shown};
use super::device;
use super::passthrough::Passthrough;
use crate::error::{ErrorKind, Result};
use crate::metrics::Metrics;
use crate::tree::{Attr, NewNode, Owner};
use crate::vfs::{Known, ROOT, Vfs};

/// The largest read or write, in bytes; the kernel allows 1 MiB unless its limit was raised.
const MAX_REQUEST: u32 = device::MAX_PAGES * 4096;

/// How many requests that nobody waits for, such as read-ahead, may be under way.
///
/// The kernel's default of 12 starves several streams of read-ahead from a remote store.
const MAX_BACKGROUND: u16 = 128;

/// The front end that fuser calls, over what gives numbers to a tree.
pub(super) struct Fuse<V = Vfs, P = Arc<Passthrough>> {
    pub(super) vfs: Arc<V>,
    pub(super) metrics: Arc<Metrics>,
    /// How files are opened.
    pub(super) opens: P,
    /// Runs what has to wait.
    pub(super) runtime: runtime::Handle,
    /// Whose a node is that has no owner of its own.
    pub(super) owner: Owner,
    /// Who may do what.
    pub(super) admission: Admission,
}

impl<V, P> Fuse<V, P> {
    /// What answers a request, for who may do what it needs. All requests that name a file go
    /// through here; those that come with a handle were admitted when it was opened.
    pub(super) fn admit(
        &self,
        request: &Request,
        need: Need,
    ) -> impl Future<Output = Result<Arc<V>>> + Send + 'static + use<V, P>
    where
        V: Send + Sync + 'static,
    {
        let (vfs, admission, uid) = (self.vfs.clone(), self.admission.clone(), request.uid());
        async move { admission.check(uid, need).await.map(|()| vfs) }
    }

    /// Polls the work once here and spawns it when it has to wait.
    ///
    /// When it panics its reply is dropped, which answers `EIO`; the thread lives on.
    pub(super) fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        let _context = self.runtime.enter();
        let mut work = Box::pin(work);
        let mut context = Context::from_waker(Waker::noop());
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut context))) {
            Ok(Poll::Ready(())) => {}
            Ok(Poll::Pending) => drop(self.runtime.spawn(work)),
            Err(_) => tracing::error!("a request panicked and was answered with EIO"),
        }
    }

    /// Answers `operation` with what the work comes to.
    pub(super) fn answer<T: Send + 'static>(
        &self,
        operation: &'static str,
        reply: impl Answer<T> + Send + 'static,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) {
        let metrics = self.metrics.clone();
        self.run(async move { reply.send(operation, work.await, &metrics) });
    }

    /// Answers what is done already.
    pub(super) fn send<T>(
        &self,
        reply: impl Answer<T>,
        operation: &'static str,
        result: Result<T>,
    ) {
        reply.send(operation, result, &self.metrics);
    }

    /// The same with the node that the work found or made.
    pub(super) fn answer_entry(
        &self,
        operation: &'static str,
        reply: ReplyEntry,
        work: impl Future<Output = Result<Known>> + Send + 'static,
    ) {
        let owner = self.owner;
        let shown = async move {
            match work.await {
                Ok(known) => Ok(Shown::of(&known, owner)),
                // The kernel remembers it too: an entry without a node is one that isn't there.
                Err(error) if error.kind() == ErrorKind::NotFound && !error.lasts().is_zero() => {
                    Ok(Shown::nowhere(error.lasts()))
                }
                Err(error) => Err(error),
            }
        };
        self.answer(operation, reply, shown);
    }

    /// The same with the attributes of a node.
    pub(super) fn answer_attr(
        &self,
        operation: &'static str,
        reply: ReplyAttr,
        ino: u64,
        work: impl Future<Output = Result<Attr>> + Send + 'static,
    ) {
        let (owner, is_listed) = (self.owner, self.admission.lists(ino));
        let shown = async move {
            let mut shown = Shown::new(ino, &work.await?, owner);
            if is_listed {
                shown.attr.perm = LISTED_MODE;
            }
            Ok(shown)
        };
        self.answer(operation, reply, shown);
    }
}

/// Tells the kernel what we can do with a tree that may change.
pub(super) fn negotiate(
    config: &mut KernelConfig,
    passthrough: &Passthrough,
    admission: &Admission,
) {
    negotiate_reading(config);
    if admission.lists(ROOT) {
        want(config, &[InitFlags::FUSE_POSIX_ACL]);
    }
    // Not FUSE_ATOMIC_O_TRUNC: with it a program that is running loses its bytes before the kernel
    // refuses to open it with `ETXTBSY`.
    //
    // Without this one the kernel asks for security.capability before every write.
    want(config, &[InitFlags::FUSE_HANDLE_KILLPRIV_V2]);
    // To files of a file system that lies on no other; then others can be stacked on ours.
    if config.set_max_stack_depth(1).is_ok()
        && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
    {
        passthrough.enable();
    }
}

/// Tells the kernel what we can do with any tree; it uses of it what it knows.
pub(super) fn negotiate_reading(config: &mut KernelConfig) {
    let wanted = [
        InitFlags::FUSE_AUTO_INVAL_DATA,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_ASYNC_DIO,
        // A link with another target is another file: it has another identity or version.
        InitFlags::FUSE_CACHE_SYMLINKS,
    ];
    want(config, &wanted);
    // Both are within fuser's bounds, so neither is refused.
    let _ = config.set_max_write(MAX_REQUEST);
    let _ = config.set_max_background(MAX_BACKGROUND);
}

fn want(config: &mut KernelConfig, flags: &[InitFlags]) {
    for flag in flags {
        if config.add_capabilities(*flag).is_err() {
            tracing::debug!(?flag, "the kernel doesn't know that");
        }
    }
}

/// What the caller wants to make. The kernel has taken the umask off, since `FUSE_DONT_MASK` isn't
/// negotiated.
pub(super) fn new_node(request: &Request, mode: u32) -> NewNode {
    NewNode { mode: mode & 0o7777, owner: Owner { uid: request.uid(), gid: request.gid() } }
}

/// Whether a change of the bytes takes off set-user-id bits: for all but root, who has
/// `CAP_FSETID`.
pub(super) fn drops_privileges(request: &Request) -> bool {
    request.uid() != 0
}
