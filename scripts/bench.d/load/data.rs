//! The data: incompressible, and each part of it tells which part it is.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::Outcome;

/// Every so many bytes of the large file begin with a word that names their place.
const PAGE: u64 = 4096;

/// What is made.
#[derive(Args)]
pub(crate) struct Make {
    dir: PathBuf,
    /// Bytes of large.bin
    #[arg(long)]
    large: u64,
    /// How many files are in small/
    #[arg(long)]
    small: u64,
    /// How many directories these are in
    #[arg(long, default_value_t = 4)]
    dirs: u64,
    /// How many files are in tree/
    #[arg(long, default_value_t = 0)]
    tree: u64,
}

impl Make {
    pub(crate) fn run(self) -> Outcome {
        fs::create_dir_all(&self.dir)?;
        let mut large =
            BufWriter::with_capacity(1 << 20, File::create(self.dir.join("large.bin"))?);
        for page in 0..self.large / PAGE {
            large.write_all(&noise(page, PAGE))?;
        }
        large.flush()?;
        for number in 0..self.small {
            let file = format!("small/{:02}/{number:06}.jpg", number * self.dirs / self.small);
            write(&self.dir.join(file), &noise(number, small_len(number)))?;
        }
        for number in 0..self.tree {
            let file = format!("tree/{}/{}/{number:06}.txt", number % 10, number / 10 % 10);
            write(&self.dir.join(file), &noise(number, 64))?;
        }
        Ok(json!({ "large": self.large, "small": self.small, "tree": self.tree }))
    }
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, bytes)
}

/// Whether bytes read from `offset` of the large file are its own.
pub(crate) fn is_right(offset: u64, bytes: &[u8]) -> bool {
    let first = offset.next_multiple_of(PAGE) - offset;
    let pages = bytes.chunks(usize::try_from(PAGE).unwrap_or(usize::MAX));
    // Where a read doesn't start at a page, which the readers here never do, nothing is compared.
    first != 0
        || pages.zip(offset / PAGE..).all(|(page, number)| {
            page.first_chunk().is_none_or(|word| *word == mixed(number).to_le_bytes())
        })
}

/// Whether these are the bytes of the small file of this name.
pub(crate) fn is_small(path: &Path, bytes: &[u8]) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    stem.and_then(|stem| stem.parse().ok()).is_some_and(|number| {
        bytes.len() as u64 == small_len(number) && bytes.starts_with(&mixed(number).to_le_bytes())
    })
}

/// 15 to 65 KB, as photographs for training are.
fn small_len(number: u64) -> u64 {
    15_000 + mixed(!number) % 50_000
}

fn noise(seed: u64, len: u64) -> Vec<u8> {
    let words = (0..len.div_ceil(8)).map(|word| mixed(seed.wrapping_add(word << 40)));
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
    bytes
}

/// A number that looks random: the finalizer of splitmix64.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut word = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Puts them into an order that depends on the seed alone.
pub(crate) fn shuffle<T>(items: &mut [T], seed: u64) {
    for last in (1..items.len()).rev() {
        let other = mixed(seed.wrapping_add((last as u64) << 20)) % (last as u64 + 1);
        items.swap(last, usize::try_from(other).unwrap_or(last));
    }
}
