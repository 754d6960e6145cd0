//! Finds the programs that tests run, in the repository's environments first, then on the path.

use std::path::{Path, PathBuf};

/// The path of a program.
///
/// # Panics
/// When it is nowhere: a test that can't run is a failure, not a success.
pub(crate) fn find(name: &str) -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    [".venv/bin", ".venv-s3/bin"]
        .into_iter()
        .map(|environment| repository.join(environment))
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} isn't installed: scripts/setup installs it"))
}
