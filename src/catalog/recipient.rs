//! Recipients: the public age keys of users and hosts, and which secrets are encrypted to them.
//!
//! A user registers his keys himself, and they count everywhere. What an Admin registers for
//! somebody else counts only where he is Admin, where he might as well let himself in.

use std::fmt;

use sqlx::AnyConnection;

use super::access::Standing;
use super::database::{failed, field, now};
use super::member::developers;
use super::model::{Id, Kind, Project, Recipient, Resource, Role, Scope};
use super::project::by_id;
use super::query::{self, select_resources};
use super::{Catalog, access, commit, name};
use crate::error::{Error, ErrorKind, Result};

/// What the holder's name of a host's key begins with; no user's name has a slash.
const HOST: &str = "host/";

/// Whose a key is that an Admin registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A member's.
    Member(String),
    /// A machine's, whose mounts open the keys of buckets that no user of it sees.
    Host(String),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(user) => f.write_str(user),
            Self::Host(host) => write!(f, "{HOST}{host}"),
        }
    }
}

/// The secrets that a change of members or keys concerns.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Those that the user may change, by project and name.
    pub secrets: Vec<Resource>,
    /// How many there are besides.
    pub others: usize,
}

impl Catalog {
    /// Registers a public age key of the acting user; a second time changes nothing.
    ///
    /// # Errors
    /// `PermissionDenied` for somebody else's; `InvalidInput` for what is no public age key.
    pub async fn add_recipient(&self, user: &str, recipient: &str) -> Result<()> {
        check_recipient(recipient)?;
        if user != self.user() {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("only {user} may register a key of {user}"),
            ));
        }
        let mut db = self.write().await?;
        sqlx::query(
            "INSERT INTO recipient (user_name, recipient, created, retired) \
             VALUES ($1, $2, $3, 0) ON CONFLICT (user_name, recipient) DO UPDATE SET retired = 0",
        )
        .bind(user)
        .bind(recipient)
        .bind(now())
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        commit(db).await
    }

    /// Retires a public age key of the acting user: nothing is encrypted to it any more.
    ///
    /// # Errors
    /// `NotFound` when he has no such key.
    pub async fn remove_recipient(&self, recipient: &str) -> Result<()> {
        let mut db = self.write().await?;
        let gone = sqlx::query(
            "UPDATE recipient SET retired = 1 \
             WHERE user_name = $1 AND recipient = $2 AND retired = 0",
        )
        .bind(self.user())
        .bind(recipient)
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        if gone.rows_affected() == 0 {
            return Err(no_key(self.user(), recipient));
        }
        commit(db).await
    }

    /// The public age keys of the acting user, oldest first.
    pub async fn own_recipients(&self) -> Result<Vec<String>> {
        let mut db = self.read().await?;
        let rows = sqlx::query(
            "SELECT recipient FROM recipient WHERE user_name = $1 AND retired = 0 \
             ORDER BY created, recipient",
        )
        .bind(self.user())
        .fetch_all(&mut *db)
        .await
        .map_err(failed)?;
        rows.iter().map(|row| field(row, "recipient")).collect()
    }

    /// Registers a key for somebody else, or for a host, in one community or project; a second
    /// time changes nothing.
    ///
    /// # Errors
    /// `PermissionDenied` below Admin there; `InvalidInput` for what is no public age key.
    pub async fn place_recipient(
        &self,
        holder: &Holder,
        recipient: &str,
        on: &Scope,
    ) -> Result<()> {
        check_recipient(recipient)?;
        let (Holder::Member(named) | Holder::Host(named)) = holder;
        name::check_user(named)?;
        let mut db = self.write().await?;
        let place = self.administered(&mut db, on).await?;
        take(&mut db, &place, &holder.to_string(), recipient).await?;
        sqlx::query(
            "INSERT INTO placed_recipient (community, project, holder, recipient, creator, created) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(place.community.as_ref().map(Id::as_str))
        .bind(place.project.as_ref().map(Id::as_str))
        .bind(holder.to_string())
        .bind(recipient)
        .bind(self.user())
        .bind(now())
        .execute(&mut *db)
        .await
        .map_err(failed)?;
        commit(db).await
    }

    /// Takes back a key that was registered in a community or project.
    ///
    /// # Errors
    /// `PermissionDenied` below Admin there; `NotFound` when it wasn't registered there.
    pub async fn displace_recipient(
        &self,
        holder: &Holder,
        recipient: &str,
        on: &Scope,
    ) -> Result<()> {
        let mut db = self.write().await?;
        let place = self.administered(&mut db, on).await?;
        if take(&mut db, &place, &holder.to_string(), recipient).await? == 0 {
            return Err(no_key(&format!("{holder} on {on}"), recipient));
        }
        commit(db).await
    }

    /// Who has registered a key at some time, if anybody.
    pub async fn holder(&self, recipient: &str) -> Result<Option<String>> {
        let mut db = self.read().await?;
        let row = sqlx::query(
            "SELECT user_name AS holder FROM recipient WHERE recipient = $1 UNION ALL \
             SELECT holder FROM placed_recipient WHERE recipient = $1",
        )
        .bind(recipient)
        .fetch_optional(&mut *db)
        .await
        .map_err(failed)?;
        row.map(|row| field(&row, "holder")).transpose()
    }

    /// The keys that a project's secrets are encrypted to: those of its members from Developer
    /// on, and of hosts, by user and key.
    ///
    /// # Errors
    /// `PermissionDenied` for who has no role on the project.
    pub async fn recipients(&self, project: &Project) -> Result<Vec<Recipient>> {
        let mut db = self.read().await?;
        self.require(&mut db, project, Role::Viewer).await?;
        let mut found = Vec::new();
        of_project(&mut db, project, &mut found).await?;
        Ok(in_order(found))
    }

    /// Whether a user has a key that counts in a community or project: one that he registered, or an
    /// Admin there.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` for who has no role there.
    pub async fn has_key(&self, user: &str, on: &Scope) -> Result<bool> {
        let mut db = self.read().await?;
        let (mut place, _) = self.find_place(&mut db, on, Role::Viewer).await?;
        if let Some(project) = &place.project {
            place.community = Some(by_id(&mut db, project).await?.community);
        }
        let (users, mut found) = ([user.to_owned()], Vec::new());
        registered(&mut db, &users, &mut found).await?;
        placed(&mut db, &place, &users, &mut found).await?;
        Ok(found.iter().any(|recipient| recipient.user == user))
    }

    /// The keys that one secret is encrypted to: [`Catalog::recipients`] of its project, and
    /// those of the members of each community that it is published in.
    ///
    /// # Errors
    /// `NotFound` where the user may not know of the secret.
    pub async fn recipients_of(&self, secret: &Resource) -> Result<Vec<Recipient>> {
        let mut db = self.read().await?;
        let secret = self.find_readable(&mut db, &secret.id).await?;
        let owner = by_id(&mut db, &secret.project).await?;
        let mut found = Vec::new();
        of_project(&mut db, &owner, &mut found).await?;
        let rows = sqlx::query(
            "SELECT b.community, m.user_name FROM publication b \
             JOIN community_member m ON m.community = b.community WHERE b.resource = $1",
        )
        .bind(secret.id.as_str())
        .fetch_all(&mut *db)
        .await
        .map_err(failed)?;
        let mut users = Vec::new();
        for row in &rows {
            users.push(field(row, "user_name")?);
        }
        let mut communities: Vec<Id> =
            rows.iter().map(|row| query::id(row, "community")).collect::<Result<_>>()?;
        communities.dedup();
        registered(&mut db, &users, &mut found).await?;
        for community in communities {
            let place = Place { community: Some(community), project: None };
            placed(&mut db, &place, &users, &mut found).await?;
        }
        Ok(in_order(found))
    }

    /// The secrets that are encrypted to the members of a community or project: those of its
    /// projects, and those that are published in it.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` for who has no role there.
    pub async fn secrets_within(&self, on: &Scope) -> Result<Reach> {
        let mut db = self.read().await?;
        let (place, everywhere) = self.find_place(&mut db, on, Role::Viewer).await?;
        let rows = sqlx::query(select_resources!(
            "WHERE r.kind = $1 AND (r.project = $2 OR p.community = $3 OR c.organization = $4 \
             OR r.id IN (SELECT resource FROM publication WHERE community = $3)) \
             ORDER BY c.name, p.name, r.name"
        ))
        .bind(Kind::Secret.as_str())
        .bind(place.project.as_ref().map(Id::as_str))
        .bind(place.community.as_ref().map(Id::as_str))
        .bind(everywhere.as_ref().map(Id::as_str))
        .fetch_all(&mut *db)
        .await
        .map_err(failed)?;
        let mut reach = Reach::default();
        for row in &rows {
            let secret = query::resource(row)?;
            let standing = access::role_in_project(&mut db, &secret.project, self.user()).await?;
            if matches!(standing, Standing::Member(Some(role)) if role >= Role::Developer) {
                reach.secrets.push(secret);
            } else {
                reach.others += 1;
            }
        }
        Ok(reach)
    }

    async fn administered(&self, db: &mut AnyConnection, on: &Scope) -> Result<Place> {
        Ok(self.find_place(db, on, Role::Admin).await?.0)
    }

    /// A community or project in which the user has `needed`, and the organization that all of it
    /// is the team of.
    async fn find_place(
        &self,
        db: &mut AnyConnection,
        on: &Scope,
        needed: Role,
    ) -> Result<(Place, Option<Id>)> {
        Ok(match on {
            Scope::Community(name) => {
                let community = self.find_community(db, name).await?;
                self.require_in_community(db, &community, needed).await?;
                let organization = self.find_organization(db, &name.organization).await?.id;
                let everywhere = community.is_default.then_some(organization);
                (Place { community: Some(community.id), project: None }, everywhere)
            }
            Scope::Project(name) => {
                let project = self.find_project(db, name, needed).await?;
                (Place { community: None, project: Some(project.id) }, None)
            }
        })
    }
}

/// Where a key was registered: one of the two.
struct Place {
    community: Option<Id>,
    project: Option<Id>,
}

/// Takes back the keys that were registered for a user in a place where he has no role any more.
pub(super) async fn forget(db: &mut AnyConnection, user: &str, on: &Scope) -> Result<()> {
    let (organization, community, project) = match on {
        Scope::Community(name) => (&name.organization, &name.community, None),
        Scope::Project(name) => (&name.organization, &name.community, Some(&name.project)),
    };
    sqlx::query(
        "DELETE FROM placed_recipient WHERE holder = $1 AND ( \
         project IN (SELECT p.id FROM project p JOIN community c ON c.id = p.community \
         JOIN organization o ON o.id = c.organization \
         WHERE o.name = $2 AND c.name = $3 AND p.name = $4) OR \
         community IN (SELECT c.id FROM community c JOIN organization o ON o.id = c.organization \
         WHERE o.name = $2 AND c.name = $3 AND $4 IS NULL))",
    )
    .bind(user)
    .bind(organization)
    .bind(community)
    .bind(project)
    .execute(db)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Removes a key from a place; returns how often it was there.
async fn take(db: &mut AnyConnection, place: &Place, holder: &str, recipient: &str) -> Result<u64> {
    let gone = sqlx::query(
        "DELETE FROM placed_recipient WHERE holder = $3 AND recipient = $4 \
         AND (community = $1 OR project = $2)",
    )
    .bind(place.community.as_ref().map(Id::as_str))
    .bind(place.project.as_ref().map(Id::as_str))
    .bind(holder)
    .bind(recipient)
    .execute(db)
    .await
    .map_err(failed)?;
    Ok(gone.rows_affected())
}

async fn of_project(
    db: &mut AnyConnection,
    project: &Project,
    found: &mut Vec<Recipient>,
) -> Result<()> {
    let users = developers(db, project).await?;
    registered(db, &users, found).await?;
    let place =
        Place { community: Some(project.community.clone()), project: Some(project.id.clone()) };
    placed(db, &place, &users, found).await
}

/// The keys that these users registered themselves.
async fn registered(
    db: &mut AnyConnection,
    users: &[String],
    found: &mut Vec<Recipient>,
) -> Result<()> {
    let rows = sqlx::query("SELECT user_name, recipient FROM recipient WHERE retired = 0")
        .fetch_all(db)
        .await
        .map_err(failed)?;
    for row in &rows {
        let user: String = field(row, "user_name")?;
        if users.contains(&user) {
            found.push(Recipient { user, recipient: field(row, "recipient")? });
        }
    }
    Ok(())
}

/// The keys that were registered in a place for these users, and for hosts.
async fn placed(
    db: &mut AnyConnection,
    place: &Place,
    users: &[String],
    found: &mut Vec<Recipient>,
) -> Result<()> {
    let rows = sqlx::query(
        "SELECT holder, recipient FROM placed_recipient WHERE community = $1 OR project = $2",
    )
    .bind(place.community.as_ref().map(Id::as_str))
    .bind(place.project.as_ref().map(Id::as_str))
    .fetch_all(db)
    .await
    .map_err(failed)?;
    for row in &rows {
        let user: String = field(row, "holder")?;
        if user.starts_with(HOST) || users.contains(&user) {
            found.push(Recipient { user, recipient: field(row, "recipient")? });
        }
    }
    Ok(())
}

/// By user and key, each key once.
fn in_order(mut found: Vec<Recipient>) -> Vec<Recipient> {
    found.sort_by(|a, b| (&a.user, &a.recipient).cmp(&(&b.user, &b.recipient)));
    let mut kept: Vec<Recipient> = Vec::with_capacity(found.len());
    for recipient in found {
        if !kept.iter().any(|other| other.recipient == recipient.recipient) {
            kept.push(recipient);
        }
    }
    kept
}

fn check_recipient(recipient: &str) -> Result<()> {
    let fine = recipient.starts_with("age1")
        && recipient.len() <= 4096
        && recipient.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if fine {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "that is no public age key")
        .with_hint("it begins with age1; `atelier identity show` and `age-keygen -y` print it"))
}

fn no_key(holder: &str, recipient: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{holder} has no key {recipient}"))
}
