//! What is required of an environment file that somebody else wrote, as far as it can be told
//! without any key.

use jiff::{SignedDuration, Timestamp};

use super::EnvironmentFile;
use crate::error::{Error, ErrorKind, Result};

/// How far ahead of ours the clock of whoever sealed a file may be.
const FASTEST_CLOCK: SignedDuration = SignedDuration::from_mins(10);

/// Checks a file that is about to take the place of `present`.
///
/// `members` are the keys that the catalogue has for it. A file that leaves some of them out is
/// fine: the next change by one who can open it lets them in.
///
/// # Errors
/// `NotPermitted` for a file that is encrypted to somebody else, who is named, or that was sealed
/// before the present one or in the future. The time can't be forged without the file's key.
pub fn admit(
    changed: &EnvironmentFile,
    present: Option<&EnvironmentFile>,
    members: &[String],
    now: Timestamp,
) -> Result<()> {
    let refuse = |why: String| {
        let message = format!("environment file {} isn't taken: {why}", changed.name());
        Err(Error::new(ErrorKind::NotPermitted, message))
    };
    if let Some(stranger) = stranger(&changed.recipients(), members) {
        return refuse(format!("it is also encrypted to {stranger}, which is no member's key"))
            .map_err(|error| error.with_hint(SHUT_OUT));
    }
    let sealed = changed.modified();
    match present.map(EnvironmentFile::modified) {
        Some(before) if sealed < before => {
            refuse(format!("it was sealed at {sealed}, and the present one at {before}"))
        }
        _ if sealed > now + FASTEST_CLOCK => {
            refuse(format!("it was sealed in the future, {sealed}"))
        }
        _ => Ok(()),
    }
}

/// The first of a file's recipients that isn't among `members`.
pub fn stranger<'a>(recipients: &'a [String], members: &[String]) -> Option<&'a str> {
    recipients.iter().find(|recipient| !members.contains(recipient)).map(String::as_str)
}

/// What gets rid of a stranger.
const SHUT_OUT: &str = "`atelier secret rotate` shuts him out with a new key; then change the \
                        values that he may have read";

#[cfg(test)]
mod tests {
    use super::super::OpenEnvironment;
    use super::super::identity::Identities;
    use super::*;

    fn somebody() -> String {
        let dir = tempfile::tempdir().unwrap();
        Identities::load_or_create(&dir.path().join("keys.txt")).unwrap().recipient()
    }

    fn sealed_to(recipients: &[String]) -> EnvironmentFile {
        let sealed = OpenEnvironment::create("x").unwrap().seal(recipients).unwrap();
        EnvironmentFile::parse("x", &sealed).unwrap()
    }

    #[test]
    fn a_stranger_is_named_and_a_member_may_be_missing() {
        let (ada, bob) = (somebody(), somebody());
        let (file, now) = (sealed_to(&[ada.clone(), bob.clone()]), Timestamp::now());
        let members = [ada.clone()];
        let error = admit(&file, None, &members, now).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotPermitted);
        assert!(error.to_string().contains(&bob));
        assert!(admit(&file, None, &[ada.clone(), bob.clone()], now).is_ok());
        assert!(admit(&sealed_to(&members), None, &[ada, bob], now).is_ok());
    }

    #[test]
    fn time_goes_forward_only() {
        let ada = [somebody()];
        let file = sealed_to(&ada);
        assert!(admit(&file, Some(&file), &ada, Timestamp::now()).is_ok());
        let early = Timestamp::now() - SignedDuration::from_hours(1);
        assert!(admit(&file, None, &ada, early).unwrap_err().to_string().contains("future"));
        let text = dated(&file, &ada, "2020-01-01T00:00:00Z");
        assert!(admit(&text, Some(&file), &ada, Timestamp::now()).is_err());
        assert!(admit(&file, Some(&text), &ada, Timestamp::now()).is_ok());
    }

    /// The same file with another time, as it would be had it been sealed then.
    fn dated(file: &EnvironmentFile, to: &[String], time: &str) -> EnvironmentFile {
        let sealed = OpenEnvironment::create(file.name()).unwrap().seal(to).unwrap();
        let text = String::from_utf8(sealed).unwrap();
        let lines = text.lines().map(|line| {
            let is_time = line.starts_with("sops_lastmodified=");
            if is_time { format!("sops_lastmodified={time}") } else { line.to_owned() }
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        EnvironmentFile::parse(file.name(), text.as_bytes()).unwrap()
    }
}
