//! Whom a mount lets in, as the catalogue has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt as _;

use super::options::Others;
use crate::catalog::{Catalog, Project, Role};
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::{Access, Accounts};

/// Whom a mount of the project lets in.
///
/// # Errors
/// `NotPermitted` where others are to be let in and nobody else is known.
pub(super) async fn of(
    others: Option<Others>,
    catalog: &Catalog,
    project: &Project,
) -> Result<Access> {
    let Some(others) = others else { return Ok(Access::Owner) };
    let known = roles(catalog, project).await?;
    let me = rustix::process::geteuid().as_raw();
    let admitted = match others {
        Others::Root => known.contains_key(&0),
        Others::Members => known.keys().any(|uid| *uid != me),
    };
    if !admitted {
        let (who, uid) = match others {
            Others::Root => ("root isn't the account of a member", "0"),
            Others::Members => ("no other account of this machine is a member's", "UID"),
        };
        let message = format!("{} would let nobody in: {who} of {}", others.word(), project.name);
        return Err(Error::new(ErrorKind::NotPermitted, message)
            .with_hint(format!("`atelier member map USER {uid}` says whose account it is")));
    }
    let (catalog, project) = (catalog.clone(), project.clone());
    let accounts = Accounts::new(Arc::new(move || {
        let (catalog, project) = (catalog.clone(), project.clone());
        async move { roles(&catalog, &project).await }.boxed()
    }));
    Ok(match others {
        Others::Root => Access::OwnerAndRoot(accounts),
        Others::Members => Access::Members(accounts),
    })
}

/// The roles of all accounts. Who serves the mount is who is acting, whatever his account.
async fn roles(catalog: &Catalog, project: &Project) -> Result<BTreeMap<u32, Role>> {
    let mut roles = catalog.roles_of_accounts(project).await?;
    if let Some(role) = catalog.role_on(project).await? {
        roles.insert(rustix::process::geteuid().as_raw(), role);
    }
    Ok(roles)
}
