//! What some tests need and not every machine gives: root, to become several users and to mount
//! inside mounts; and a kernel that is new enough.

/// Whether a test that takes root can go on. Where it can't, that is said; in CI it is a failure, so
/// that none passes unasked there.
#[track_caller]
pub(crate) fn is_here() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        assert!(std::env::var_os("CI").is_none(), "in CI the tests run as root");
        skip("it takes root");
    }
    is_root
}

/// Says that a test, or the rest of one, is passed over.
pub(crate) fn skip(why: &str) {
    let thread = std::thread::current();
    eprintln!("{} is skipped: {why}", thread.name().unwrap_or("a test"));
}
