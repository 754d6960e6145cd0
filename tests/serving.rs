//! Datasets as loaders of training data read them.

mod sessions;
mod warm;

use std::fs;

use crate::support::home::Home;

/// Makes `files` files of 15 to 65 KB in ten directories: names, and bytes that don't compress.
fn fill(home: &Home, files: usize) {
    let mut noise = vec![0; 65_000];
    getrandom::fill(&mut noise).unwrap();
    for number in 0..files {
        let dir = home.path(format!("photos/{}", number / files.div_ceil(10)));
        fs::create_dir_all(&dir).unwrap();
        noise[..8].copy_from_slice(&number.to_le_bytes());
        let len = 15_000 + number * 7919 % 50_000;
        fs::write(dir.join(format!("{number:04}.jpg")), &noise[..len]).unwrap();
    }
}
