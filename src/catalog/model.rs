//! What the catalogue knows: organizations, communities, projects, members, resources, versions.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::name::{CommunityName, ProjectName, Reference};
use crate::error::{Error, ErrorKind, Result};

/// An opaque identifier that is never used twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Id(pub(super) String);

impl Id {
    /// The identifier as text: lower-case letters and digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Declares an enum whose variants are single words in SQL, JSON and on the command line.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $what:literal { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word for it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(word: &str) -> Result<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == word).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|one| one.as_str()).collect();
                    let known = known.join(", ");
                    Error::new(
                        ErrorKind::InvalidInput,
                        format!("\"{word}\" is no {}: write one of {known}", $what),
                    )
                })
            }
        }
    };
}

words! {
    /// What somebody may do in a community or a project; each role can do what those before it can.
    Role, "role" {
        /// Sees metadata, not content.
        Viewer = "viewer",
        /// In a project: uses, creates and deletes resources. In a community: creates projects.
        Developer = "developer",
        /// Changes settings and deletes.
        Editor = "editor",
        /// Grants roles.
        Admin = "admin",
    }
}

words! {
    /// What kind of thing a resource is.
    Kind, "kind of resource" {
        /// An immutable, versioned directory.
        Dataset = "dataset",
        /// An encrypted environment file.
        Secret = "secret",
        /// A connection to an S3 bucket.
        S3 = "s3",
        /// A Docker image.
        Image = "image",
        /// A notebook's saved state.
        Checkpoint = "checkpoint",
        /// A service that runs a trained model.
        Node = "node",
        /// A published name over nodes.
        Alias = "alias",
    }
}

words! {
    /// Who may publish a resource in a community.
    Policy, "publishing policy" {
        /// An Admin of the owning project who is also Admin of the community.
        Seed = "seed",
        /// An Editor of the owning project who is also Developer of the community.
        Current = "current",
    }
}

/// The outer boundary: nothing is visible from one organization in another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Organization {
    /// Its identifier.
    pub id: Id,
    /// Its name, unique in the catalogue.
    pub name: String,
    /// Who may publish resources.
    pub policy: Policy,
    /// Who made it.
    pub creator: String,
    /// When it was made.
    pub created: Timestamp,
    /// When its settings last changed.
    pub modified: Timestamp,
}

/// A team: scopes projects and what they share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Community {
    /// Its identifier.
    pub id: Id,
    /// Its name below its organization.
    pub name: CommunityName,
    /// What it is for.
    pub description: String,
    /// Whether it is the one that every member of the organization is in.
    pub is_default: bool,
    /// Who made it.
    pub creator: String,
    /// When it was made.
    pub created: Timestamp,
    /// When its settings last changed.
    pub modified: Timestamp,
}

/// A user's main work space: files and resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Project {
    /// Its identifier.
    pub id: Id,
    /// Its name below its organization and community.
    pub name: ProjectName,
    /// The community it is in.
    pub community: Id,
    /// What it is for.
    pub description: String,
    /// How much its storage may hold, in GiB.
    pub quota_gib: Option<u32>,
    /// How many of its datasets may be active at a time.
    pub active_datasets: Option<u32>,
    /// Up to how much its storage may hold to be taken into checkpoints, in GiB.
    pub checkpoint_gib: Option<u32>,
    /// Who made it.
    pub creator: String,
    /// When it was made.
    pub created: Timestamp,
    /// When its settings last changed.
    pub modified: Timestamp,
}

impl Project {
    /// How much its storage may hold, in bytes.
    pub fn quota(&self) -> Option<u64> {
        self.quota_gib.map(|gib| u64::from(gib) << 30)
    }
}

/// Where a role is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a community.
    Community(CommunityName),
    /// In a project.
    Project(ProjectName),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Community(name) => name.fmt(f),
            Self::Project(name) => name.fmt(f),
        }
    }
}

/// A user's role in a community or a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Who.
    pub user: String,
    /// The role that holds: the higher one of the granted and the inherited.
    pub role: Role,
    /// Whether that role comes from the project's community.
    pub inherited: bool,
}

/// A user of the machines that mount an organization's projects, who is one of its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// The number of the user, see `credentials(7)`.
    pub uid: u32,
    /// The member.
    pub user: String,
}

/// Something a project owns and can share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Resource {
    /// Its identifier.
    pub id: Id,
    /// What it is.
    pub kind: Kind,
    /// Its name, unique among those of its kind in its project.
    pub name: String,
    /// The project that owns it.
    pub project: Id,
    /// The name of the project that owns it.
    pub owner: ProjectName,
    /// What it is for.
    pub description: String,
    /// What makes it up, by kind.
    pub spec: serde_json::Value,
    /// Whether it shows in its own project's mount.
    pub active: bool,
    /// Who made it.
    pub creator: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it, its versions or its content last changed.
    pub modified: Timestamp,
}

impl Resource {
    /// How consumers name it.
    pub fn reference(&self) -> Reference {
        Reference {
            community: self.owner.community.clone(),
            project: self.owner.project.clone(),
            kind: self.kind,
            name: self.name.clone(),
        }
    }

    /// The name a checkpoint is pinned under, `pinned_name` in its spec.
    pub fn pinned_name(&self) -> Option<&str> {
        self.spec.get("pinned_name")?.as_str()
    }
}

/// A resource as one project sees it: its own, or one that was added to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// The name in the mount: its own, or `<name>@<project>` where that is taken.
    pub name: String,
    /// Whether it is active in this project.
    pub active: bool,
    /// Whether another project owns it.
    pub added: bool,
    /// The resource itself.
    pub resource: Resource,
}

/// A resource that is about to be made.
#[derive(Clone, Debug)]
pub struct NewResource {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// What it is for; at most 256 characters.
    pub description: String,
    /// What makes it up, by kind.
    pub spec: serde_json::Value,
}

/// Changes to a resource; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct ResourceChange {
    /// What makes it up.
    pub spec: Option<serde_json::Value>,
    /// What it is for.
    pub description: Option<String>,
    /// Whether it shows in its own project's mount.
    pub active: Option<bool>,
}

/// An immutable state of a dataset or a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Version {
    /// The dataset or checkpoint.
    pub resource: Id,
    /// Counts from 1 in each resource and is never used twice.
    pub number: u32,
    /// The hash of its root in the content store.
    pub root: String,
    /// How many files it holds.
    pub files: u64,
    /// How large they are together, in bytes.
    pub bytes: u64,
    /// Whether it may be the one that shows under the dataset's name.
    pub active: bool,
    /// What else is known of it, by kind.
    pub spec: serde_json::Value,
    /// Who made it.
    pub creator: String,
    /// When it was made.
    pub created: Timestamp,
}

/// A version that is about to be made.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// The hash of its root in the content store.
    pub root: String,
    /// How many files it holds.
    pub files: u64,
    /// How large they are together, in bytes.
    pub bytes: u64,
    /// What else is known of it, by kind.
    pub spec: serde_json::Value,
    /// The objects of the content store that it needs, its root among them.
    pub needs: Vec<String>,
}

/// Changes to a version; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct VersionChange {
    /// Whether it may be the one that shows under the dataset's name.
    pub active: Option<bool>,
    /// What else is known of it.
    pub spec: Option<serde_json::Value>,
}

/// A name that somebody gave a version of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tag {
    /// The name.
    pub name: String,
    /// The number of the version.
    pub version: u32,
}

/// What a version and its dataset need of the content store, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// The objects that the version needs.
    pub all: u64,
    /// Those of them that no other version needs, of any dataset or checkpoint.
    pub unique: u64,
    /// The objects that any version of the dataset needs.
    pub dataset: u64,
    /// The files of all versions of the dataset together.
    pub logical: u64,
}

/// An encrypted environment file.
#[derive(Clone, Debug, PartialEq)]
pub struct Environment {
    /// The secret.
    pub resource: Resource,
    /// Grows with every change; what a compare-and-set compares.
    pub generation: i64,
    /// The file: ciphertext in the SOPS dotenv format.
    pub body: Vec<u8>,
}

/// A public age key and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recipient {
    /// Whose.
    pub user: String,
    /// The key, `age1…`.
    pub recipient: String,
}

/// A resource that a community offers to its projects.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Offer {
    /// The resource.
    pub resource: Resource,
    /// Who published it.
    pub publisher: String,
    /// When it was published.
    pub published: Timestamp,
}

/// Where a resource is used besides its own project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Uses {
    /// The communities that offer it.
    pub published: Vec<String>,
    /// The projects that have added it.
    pub added: Vec<ProjectName>,
}

impl Uses {
    /// Whether it isn't used anywhere else.
    pub fn is_empty(&self) -> bool {
        self.published.is_empty() && self.added.is_empty()
    }
}

impl fmt::Display for Uses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let published = self.published.iter().map(|name| format!("published in {name}"));
        let added = self.added.iter().map(|name| format!("added to {name}"));
        f.write_str(&published.chain(added).collect::<Vec<_>>().join(", "))
    }
}
