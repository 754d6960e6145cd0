//! Pages: what lists the files of a version.
#![no_main]

use atelier::snapshot::format::Page;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(page) = Page::decode(Bytes::copy_from_slice(bytes)) {
        for at in 0..page.len() {
            let (directory, name, _) = page.get(at).expect("it has that many");
            assert_eq!(page.find(&directory, &name), Ok(at));
        }
    }
});
