//! Admission: what whoever makes a request may do in a mount that others may enter.
//!
//! By itself the kernel lets nobody into a mount but who mounted it. With `allow_other` and
//! `allow_root` it lets others in, root too, and this is the one place that decides what they may
//! do: by the uid of the request and the role of the member whose account it is. Who is no member
//! may do nothing, also as root.
//!
//! Every request that names a file passes [`Fuse::admit`](super::dispatch::Fuse::admit) with what it
//! [`Need`]s. What goes through a handle doesn't: that was decided when it was opened, and whoever is
//! handed an open file may use it, as on a disk. A pid never decides, since it may stand for another
//! process by the time it is looked at.
//!
//! What the kernel has in its caches it tells without asking here. So it is given an access control
//! list for the project's directory, which keeps strangers out at the door. Without the list a
//! refused lookup would have to, and the kernel answers one by dropping the name it knew: whoever
//! works there would find himself nowhere. Only root is beyond the list, and is told no more than
//! names and attributes that the kernel knows already.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::future::BoxFuture;

use crate::catalog::Role;
use crate::error::{Error, ErrorKind, Result};
use crate::vfs::ROOT;

/// How long roles are believed before they are asked for again.
const FRESH: Duration = Duration::from_secs(1);

/// The access control list of a node itself, see `acl(5)`.
const ACCESS_LIST: &[u8] = b"system.posix_acl_access";

/// The names of access control lists begin so.
const ACCESS_LISTS: &[u8] = b"system.posix_acl_";

/// Mode of a directory with a list: what the group may do bounds what is listed.
pub(super) const LISTED_MODE: u16 = 0o750;

/// How many accounts a list may name: the kernel takes 4 KiB of it (`fuse_get_acl`).
const MOST_LISTED: usize = 500;

/// Asks for the role of each account that has one.
pub type AskRoles = Arc<dyn Fn() -> BoxFuture<'static, Result<BTreeMap<u32, Role>>> + Send + Sync>;

/// The role of each account that has one.
type Roles = Arc<BTreeMap<u32, Role>>;

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// To be there: a name that every project has.
    Nothing,
    /// Names and attributes.
    Metadata,
    /// Bytes, or to change anything.
    Content,
}

impl Need {
    /// The need of who looks a name up in a directory of a project.
    ///
    /// In the project's own directory all names are the same in every project. They aren't refused,
    /// since then the kernel would take away the mounts on them, as soon as root looked.
    pub(super) fn of_lookup(parent: u64) -> Self {
        if parent == ROOT { Self::Nothing } else { Self::Metadata }
    }

    /// The least role that may do it.
    fn role(self) -> Option<Role> {
        match self {
            Self::Nothing => None,
            Self::Metadata => Some(Role::Viewer),
            Self::Content => Some(Role::Developer),
        }
    }
}

/// The accounts that may enter a mount, and their roles.
pub struct Accounts {
    ask: AskRoles,
    /// Guards the last answer; never held while roles are asked for.
    last: Mutex<Option<(Instant, Roles)>>,
}

impl Accounts {
    /// Accounts whose roles `ask` tells; it is asked once a second at most.
    pub fn new(ask: AskRoles) -> Arc<Self> {
        Arc::new(Self { ask, last: Mutex::default() })
    }

    async fn roles(&self) -> Result<Roles> {
        let now = Instant::now();
        if let Some((asked, roles)) = &*self.lock()
            && now.duration_since(*asked) < FRESH
        {
            return Ok(roles.clone());
        }
        let roles = Arc::new((self.ask)().await?);
        *self.lock() = Some((now, roles.clone()));
        Ok(roles)
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, Roles)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").finish_non_exhaustive()
    }
}

/// Decides for one mount; clones decide together.
#[derive(Clone, Debug)]
pub(super) enum Admission {
    /// The kernel lets nobody in but who mounted it.
    Owner,
    /// The kernel lets others in.
    Members {
        /// Who they are.
        accounts: Arc<Accounts>,
        /// Whether the root has an access control list. One inside a project's mount needs none:
        /// the way to it leads through the project's directory.
        has_list: bool,
    },
}

impl Admission {
    /// Refuses who may not do that.
    ///
    /// # Errors
    /// `PermissionDenied`; those of asking for roles, which let nobody in either.
    pub(super) async fn check(&self, uid: u32, need: Need) -> Result<()> {
        let (Self::Members { accounts, .. }, Some(needed)) = (self, need.role()) else {
            return Ok(());
        };
        let role = accounts.roles().await?.get(&uid).copied();
        if role >= Some(needed) {
            return Ok(());
        }
        let has = role.map_or("none", Role::as_str);
        let message = format!("uid {uid} needs the role {needed} here and has {has}");
        Err(Error::new(ErrorKind::PermissionDenied, message))
    }

    /// Whether a node has an access control list: the project's directory, in a mount that others
    /// may enter.
    pub(super) fn lists(&self, ino: u64) -> bool {
        ino == ROOT && matches!(self, Self::Members { has_list: true, .. })
    }

    /// Whether an extended attribute is an access control list, for which the kernel asks on behalf
    /// of whoever comes by.
    pub(super) fn is_list(&self, name: &[u8]) -> bool {
        matches!(self, Self::Members { .. }) && name.starts_with(ACCESS_LISTS)
    }

    /// The access control list of a node.
    ///
    /// # Errors
    /// `NoAttribute` for a node without one; those of asking for roles.
    pub(super) async fn list(&self, ino: u64, name: &[u8]) -> Result<Bytes> {
        match self {
            Self::Members { accounts, .. } if self.lists(ino) && name == ACCESS_LIST => {
                Ok(list_of(&*accounts.roles().await?))
            }
            _ => Err(ErrorKind::NoAttribute.into()),
        }
    }
}

/// Writes a list as `posix_acl_xattr.h` has it: its version, then each entry as tag, permissions
/// and number, in this order.
fn list_of(roles: &BTreeMap<u32, Role>) -> Bytes {
    const VERSION: u32 = 2;
    const NO_NUMBER: u32 = u32::MAX;
    const ALL: u16 = 0o7;
    const ENTER: u16 = 0o5;
    let (owner, user, group, mask, other) = (0x01, 0x02, 0x04, 0x10, 0x20);
    // More than fit: then strangers are refused only what the kernel asks for.
    let (listed, others) =
        if roles.len() > MOST_LISTED { (None, ENTER) } else { (Some(roles.keys()), 0) };
    let mut list = BytesMut::new();
    list.put_u32_le(VERSION);
    let mut entry = |tag: u16, permissions: u16, number: u32| {
        list.put_u16_le(tag);
        list.put_u16_le(permissions);
        list.put_u32_le(number);
    };
    entry(owner, ALL, NO_NUMBER);
    listed.into_iter().flatten().for_each(|uid| entry(user, ENTER, *uid));
    entry(group, 0, NO_NUMBER);
    entry(mask, ENTER, NO_NUMBER);
    entry(other, others, NO_NUMBER);
    list.freeze()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;

    use super::*;

    fn admission(roles: &[(u32, Role)]) -> Admission {
        let roles: BTreeMap<_, _> = roles.iter().copied().collect();
        let accounts = Accounts::new(Arc::new(move || {
            let roles = roles.clone();
            async move { Ok(roles) }.boxed()
        }));
        Admission::Members { accounts, has_list: true }
    }

    async fn may(admission: &Admission, uid: u32, need: Need) -> bool {
        match admission.check(uid, need).await {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::PermissionDenied);
                false
            }
        }
    }

    #[tokio::test]
    async fn a_role_decides_and_root_has_none() {
        let admission = admission(&[(1001, Role::Viewer), (1002, Role::Developer)]);
        for (uid, sees, uses) in
            [(1001, true, false), (1002, true, true), (1003, false, false), (0, false, false)]
        {
            assert_eq!(may(&admission, uid, Need::Metadata).await, sees, "{uid}");
            assert_eq!(may(&admission, uid, Need::Content).await, uses, "{uid}");
        }
        assert!(may(&admission, 1003, Need::of_lookup(ROOT)).await);
        assert!(!may(&admission, 1003, Need::of_lookup(2)).await);
        assert!(may(&Admission::Owner, 0, Need::Content).await);
    }

    #[tokio::test]
    async fn who_cannot_be_asked_lets_nobody_in() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let accounts = Accounts::new(Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Err(ErrorKind::Io.into()) }.boxed()
        }));
        let admission = Admission::Members { accounts, has_list: false };
        assert!(!admission.lists(ROOT));
        assert!(admission.check(0, Need::Metadata).await.is_err());
        assert!(admission.check(0, Need::Metadata).await.is_err());
        assert_eq!(asked.load(Ordering::Relaxed), 2, "a failure isn't kept");
    }

    #[tokio::test]
    async fn only_the_root_has_a_list() {
        let admission = admission(&[(7, Role::Viewer), (5, Role::Admin)]);
        assert!(admission.lists(ROOT) && !admission.lists(2) && !Admission::Owner.lists(ROOT));
        let list = admission.list(ROOT, ACCESS_LIST).await.unwrap();
        let entries: Vec<_> =
            list[4..].chunks(8).map(|entry| (entry[0], entry[2], entry[4])).collect();
        let expected = [(1, 7, 255), (2, 5, 5), (2, 5, 7), (4, 0, 255), (16, 5, 255), (32, 0, 255)];
        assert_eq!(entries, expected);
        for (ino, name) in [(2, ACCESS_LIST), (ROOT, b"system.posix_acl_default")] {
            assert!(admission.is_list(name));
            let none = admission.list(ino, name).await.unwrap_err();
            assert_eq!(none.kind(), ErrorKind::NoAttribute);
        }
        assert!(!admission.is_list(b"user.atelier.id"));
        assert!(!Admission::Owner.is_list(ACCESS_LIST));
    }

    #[test]
    fn a_list_fits_into_what_the_kernel_takes() {
        let roles = |count: u32| (0..count).map(|uid| (uid, Role::Viewer)).collect();
        assert!(list_of(&roles(500)).len() <= 4096);
        let many = list_of(&roles(501));
        assert_eq!(many[many.len() - 6], 5, "others may come to the door");
    }
}
