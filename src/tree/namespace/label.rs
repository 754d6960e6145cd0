//! What a mounted resource tells of itself: the extended attributes `user.atelier.*`.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;

use crate::catalog::{Kind, Project, Resource, Version};
use crate::tree::Identity;

/// Names of the extended attributes of a resource and their values.
pub struct Label {
    values: Vec<(&'static str, String)>,
    identity: Identity,
}

/// The device number under which resources have their identities; no real device has it.
const DEVICE: u64 = u64::MAX;

impl Label {
    /// The label of the project's directory.
    pub(super) fn of_project(project: &Project) -> Self {
        let values = vec![
            ("user.atelier.kind", "project".to_owned()),
            ("user.atelier.id", project.id.to_string()),
        ];
        Self { identity: identity(&(), &values), values }
    }

    /// The label of a resource that shows as `name`.
    pub(super) fn of_resource(name: &str, resource: &Resource, version: Option<&Version>) -> Self {
        let mut values = vec![
            ("user.atelier.kind", resource.kind.to_string()),
            ("user.atelier.id", resource.id.to_string()),
        ];
        if let Some(version) = version {
            values.push(("user.atelier.version", version.number.to_string()));
        }
        // A bucket's root stays the same node while its connection is changed to another bucket or
        // key, so the time of the change is part of who it is.
        let changed = (resource.kind == Kind::S3).then_some(resource.modified);
        let identity = identity(&(name, changed), &values);
        Self { values, identity }
    }

    /// The value of an attribute.
    pub fn value(&self, name: &[u8]) -> Option<Bytes> {
        let (_, value) = self.values.iter().find(|(known, _)| known.as_bytes() == name)?;
        Some(Bytes::from(value.clone()))
    }

    /// The names of the attributes.
    pub fn names(&self) -> Vec<Bytes> {
        self.values.iter().map(|(name, _)| Bytes::from_static(name.as_bytes())).collect()
    }

    /// Tells this version under this name from every other.
    pub(super) fn identity(&self) -> Identity {
        self.identity
    }
}

fn identity(more: &impl Hash, values: &[(&'static str, String)]) -> Identity {
    let mut hasher = DefaultHasher::new();
    (more, values).hash(&mut hasher);
    Identity { device: DEVICE, inode: hasher.finish() }
}
