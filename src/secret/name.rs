//! The names of secrets: which are possible, which stay clear, and which change how programs run.

use crate::error::{Error, ErrorKind, Result};

/// Longer keys are refused, in bytes.
const MAX_KEY: usize = 256;

/// Keys with this ending stay clear in a SOPS file.
const CLEAR_SUFFIX: &str = "_unencrypted";

/// Names by which an environment changes what a program loads, runs or trusts.
const DANGEROUS: &[&str] = &[
    "BASHOPTS",
    "BASH_ENV",
    "CURL_CA_BUNDLE",
    "ENV",
    "GCONV_PATH",
    "GIT_EXEC_PATH",
    "GLIBC_TUNABLES",
    "IFS",
    "JAVA_TOOL_OPTIONS",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PATH",
    "PROMPT_COMMAND",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "REQUESTS_CA_BUNDLE",
    "RUBYLIB",
    "RUBYOPT",
    "SHELLOPTS",
];

/// Beginnings of such names.
const DANGEROUS_PREFIXES: &[&str] =
    &["AWS_ENDPOINT_URL", "DYLD_", "GIT_CONFIG", "GIT_SSH", "LD_", "PERL5", "SOPS_", "SSL_CERT_"];

/// Checks the name of a secret that is about to be set.
///
/// The message doesn't repeat the name: whoever types `KEY=value` here shows a value.
///
/// # Errors
/// `InvalidInput`, with the rule.
pub fn check(key: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidInput, why));
    if !is_key(key) {
        return refuse(
            "a secret's name is made of letters, digits and _, doesn't begin with a digit or with \
             sops_, and has at most 256 characters",
        );
    }
    if stays_clear(key) {
        return refuse("a secret's name can't end in _unencrypted: its value would stay clear");
    }
    Ok(())
}

/// Whether a variable of this name changes how programs run, so that it is only set on request.
pub fn is_dangerous(key: &str) -> bool {
    DANGEROUS.contains(&key)
        || DANGEROUS_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
        // Programs read `http_proxy` as well as `HTTP_PROXY`.
        || key.to_ascii_uppercase().ends_with("_PROXY")
}

/// Whether this can be a key of a pair: `[A-Za-z_][A-Za-z0-9_]*`, and not metadata.
pub(super) fn is_key(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= MAX_KEY
        && !key.starts_with(|c: char| c.is_ascii_digit())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !key.starts_with(super::metadata::PREFIX)
}

/// Whether the value of this key isn't encrypted.
pub(super) fn stays_clear(key: &str) -> bool {
    key.ends_with(CLEAR_SUFFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_a_shell_can_use() {
        for name in ["A", "_", "a1", "API_KEY", "SOPS_LIKE", &"K".repeat(256)] {
            assert!(check(name).is_ok(), "{name}");
        }
        for name in ["", "1A", "A-B", "A.B", "A B", "Ä", "sops_x", "A=b", "A_unencrypted"] {
            assert!(check(name).is_err(), "{name}");
        }
        assert!(check(&"K".repeat(257)).is_err());
        assert!(!check("A=hunter2").unwrap_err().to_string().contains("hunter2"));
    }

    #[test]
    fn names_that_change_how_programs_run_are_known() {
        for name in [
            "LD_PRELOAD",
            "PATH",
            "PYTHONPATH",
            "https_proxy",
            "ALL_PROXY",
            "GIT_SSH",
            "SOPS_AGE_KEY",
            "AWS_ENDPOINT_URL_S3",
            "PERL5LIB",
            "ENV",
        ] {
            assert!(is_dangerous(name), "{name}");
        }
        for name in ["API_KEY", "ENVIRONMENT", "MYPATH", "AWS_SECRET_ACCESS_KEY", "PROXY_USER"] {
            assert!(!is_dangerous(name), "{name}");
        }
    }
}
