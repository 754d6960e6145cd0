//! Environment files: whatever is written to `secrets/`, or stands in the catalogue.
#![no_main]

use atelier::secret::EnvironmentFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = EnvironmentFile::parse("fuzz", bytes) {
        assert!(file.keys().all(|key| !key.is_empty()));
        let _ = (file.recipients(), file.modified());
    }
});
