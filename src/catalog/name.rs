//! Names: the rules for them, and paths of names such as `lab/Cats Team/tabby`.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::model::Kind;
use crate::error::{Error, ErrorKind, Result};

/// A community and the organization it is in, written `organization/community`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommunityName {
    /// The organization.
    pub organization: String,
    /// The community.
    pub community: String,
}

/// A project and where it is, written `organization/community/project`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectName {
    /// The organization.
    pub organization: String,
    /// The community.
    pub community: String,
    /// The project.
    pub project: String,
}

/// How consumers name a resource: `community/project/kind/name`, within their organization.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// The community its project is in.
    pub community: String,
    /// The project that owns it.
    pub project: String,
    /// What it is.
    pub kind: Kind,
    /// Its name there.
    pub name: String,
}

impl ProjectName {
    /// The community this project is in.
    pub fn at(&self) -> CommunityName {
        CommunityName { organization: self.organization.clone(), community: self.community.clone() }
    }
}

impl fmt::Display for CommunityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.organization, self.community)
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.organization, self.community, self.project)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.community, self.project, self.kind, self.name)
    }
}

impl FromStr for CommunityName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let [organization, community] = parts(text, "a community", "ORGANIZATION/COMMUNITY")?;
        Ok(Self { organization: organization.to_owned(), community: community.to_owned() })
    }
}

impl FromStr for ProjectName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let [organization, community, project] =
            parts(text, "a project", "ORGANIZATION/COMMUNITY/PROJECT")?;
        Ok(Self {
            organization: organization.to_owned(),
            community: community.to_owned(),
            project: project.to_owned(),
        })
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let [community, project, kind, name] =
            parts(text, "a resource", "COMMUNITY/PROJECT/KIND/NAME")?;
        Ok(Self {
            community: community.to_owned(),
            project: project.to_owned(),
            kind: kind.parse()?,
            name: name.to_owned(),
        })
    }
}

impl Serialize for CommunityName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for ProjectName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn parts<'a, const N: usize>(text: &'a str, what: &str, form: &str) -> Result<[&'a str; N]> {
    let parts: Vec<&str> = text.split('/').collect();
    match <[&str; N]>::try_from(parts) {
        Ok(parts) if parts.iter().all(|part| !part.is_empty()) => Ok(parts),
        _ => Err(invalid(format!("\"{text}\" doesn't name {what}"))
            .with_hint(format!("write it as {form}"))),
    }
}

/// Checks an organization's name. With ` Team` behind it, it has to fit a community's.
pub(super) fn check_organization(name: &str) -> Result<()> {
    check_words(name, "an organization", 58)
}

/// Checks a community's name.
pub(super) fn check_community(name: &str) -> Result<()> {
    check_words(name, "a community", 63)
}

fn check_words(name: &str, what: &str, most: usize) -> Result<()> {
    let fine = !name.is_empty()
        && name.chars().count() <= most
        && name.trim() == name
        && !name.contains('/')
        && !name.chars().any(char::is_control);
    if fine {
        return Ok(());
    }
    Err(refused(
        name,
        what,
        &format!("1 to {most} characters, no / or control characters, no blank at either end"),
    ))
}

/// Checks a project's name.
pub(super) fn check_project(name: &str) -> Result<()> {
    check_label(name, "a project", 1)
}

/// Checks a resource's name; a checkpoint's is its number.
///
/// # Errors
/// `InvalidInput` with the rule.
pub fn check_resource(kind: Kind, name: &str) -> Result<()> {
    match kind {
        Kind::Dataset => check_label(name, "a dataset", 3),
        Kind::Secret => check_label(name, "an environment file", 1),
        Kind::S3 => check_label(name, "an S3 connection", 1),
        Kind::Image => check_label(name, "an image", 1),
        Kind::Node => check_label(name, "a node", 1),
        Kind::Alias => check_label(name, "an alias", 1),
        Kind::Checkpoint => {
            if name.len() >= 4 && name.bytes().all(|byte| byte.is_ascii_digit()) {
                return Ok(());
            }
            Err(refused(name, "a checkpoint", "a number of at least four digits"))
        }
    }
}

/// Checks the name a checkpoint is pinned under.
pub(super) fn check_pin(name: &str) -> Result<()> {
    if name == "latest" {
        let rule = "latest always leads to the newest checkpoint";
        return Err(refused(name, "a pinned checkpoint", rule));
    }
    check_label(name, "a pinned checkpoint", 1)
}

/// Checks a tag, which is neither a version's number nor a path.
///
/// # Errors
/// `InvalidInput` with the rule.
pub fn check_tag(name: &str) -> Result<()> {
    let fine = (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if fine {
        return Ok(());
    }
    let rule = "1 to 63 letters, digits, hyphens, underscores and dots, \
                the first a letter, the last a letter or digit";
    Err(refused(name, "a tag", rule))
}

/// Checks `[a-z]([-a-z0-9]*[a-z0-9])?` of `least` to 63 characters.
fn check_label(name: &str, what: &str, least: usize) -> Result<()> {
    let fine = (least..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fine {
        return Ok(());
    }
    Err(refused(
        name,
        what,
        &format!(
            "{least} to 63 lower-case letters, digits and hyphens, \
             the first a letter, the last no hyphen"
        ),
    ))
}

/// Checks a description.
pub(super) fn check_description(text: &str) -> Result<()> {
    let len = text.chars().count();
    if len <= 256 {
        return Ok(());
    }
    Err(invalid(format!("a description can't have {len} characters: at most 256")))
}

/// Checks a user's name.
pub(super) fn check_user(name: &str) -> Result<()> {
    let fine = (1..=255).contains(&name.len())
        && !name.contains('/')
        && !name.chars().any(|c| c.is_whitespace() || c.is_control());
    if fine {
        return Ok(());
    }
    Err(refused(name, "a user", "1 to 255 bytes without blanks and /"))
}

fn refused(name: &str, what: &str, rule: &str) -> Error {
    invalid(format!("\"{}\" can't be {what}'s name: {rule}", name.escape_debug()))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let project: ProjectName = "lab/Cats Team/tabby".parse().unwrap();
        assert_eq!(project.to_string(), "lab/Cats Team/tabby");
        assert_eq!(project.at().to_string(), "lab/Cats Team");
        let reference: Reference = "Cats Team/tabby/s3/warehouse".parse().unwrap();
        assert_eq!((reference.kind, reference.name.as_str()), (Kind::S3, "warehouse"));
        assert_eq!(reference.to_string(), "Cats Team/tabby/s3/warehouse");
    }

    #[test]
    fn a_name_of_too_few_or_empty_parts_is_refused_with_the_form() {
        for text in ["", "a", "a/b", "a/b/c/d", "/b/c", "a//c", "a/b/"] {
            let error = text.parse::<ProjectName>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            assert_eq!(error.hint(), Some("write it as ORGANIZATION/COMMUNITY/PROJECT"));
        }
        let error = "a/b/cat/d".parse::<Reference>().unwrap_err();
        assert!(error.to_string().starts_with("\"cat\" is no kind of resource"), "{error}");
    }

    #[test]
    fn a_refusal_shows_what_can_not_be_seen() {
        let error = check_community("a\u{1b}b").unwrap_err();
        assert!(error.to_string().starts_with("\"a\\u{1b}b\" can't be"), "{error}");
    }

    #[test]
    fn a_tag_is_no_number_and_no_path() {
        for tag in ["a", "v1.0", "Best_so-far", "before2024"] {
            check_tag(tag).unwrap();
        }
        for tag in ["", "1", "2024", "v1.", "-a", "a/b", "a@b", "ä", &"a".repeat(64)] {
            check_tag(tag).unwrap_err();
        }
    }

    #[test]
    fn a_checkpoint_is_named_by_its_number_and_pinned_by_a_word() {
        for name in ["0001", "12345"] {
            check_resource(Kind::Checkpoint, name).unwrap();
            check_pin(name).unwrap_err();
        }
        for name in ["1", "001", "abcd", "latest"] {
            check_resource(Kind::Checkpoint, name).unwrap_err();
        }
        check_pin("before-tuning").unwrap();
        check_pin("latest").unwrap_err();
    }
}
