//! Which parts of a file are known to be what was written.

use std::sync::atomic::{AtomicU64, Ordering};

/// Which granules were seen to be right by this process.
#[derive(Debug)]
pub(super) struct Verified {
    bits: Vec<AtomicU64>,
    count: AtomicU64,
    granules: u64,
}

impl Verified {
    /// Marks none of so many.
    pub(super) fn new(granules: u64) -> Self {
        let bits = (0..granules.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { bits, count: AtomicU64::new(0), granules }
    }

    /// Marks one.
    pub(super) fn set(&self, granule: u64) {
        let bit = 1 << (granule % 64);
        if let Some(word) = self.word(granule)
            && word.load(Ordering::Relaxed) & bit == 0
            && word.fetch_or(bit, Ordering::Relaxed) & bit == 0
        {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes a mark away.
    pub(super) fn unset(&self, granule: u64) {
        let bit = 1 << (granule % 64);
        if let Some(word) = self.word(granule)
            && word.fetch_and(!bit, Ordering::Relaxed) & bit != 0
        {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn word(&self, granule: u64) -> Option<&AtomicU64> {
        self.bits.get(usize::try_from(granule / 64).ok()?)
    }

    /// Marks all of them.
    pub(super) fn set_all(&self) {
        (0..self.granules).for_each(|granule| self.set(granule));
    }

    /// Whether all are marked.
    pub(super) fn is_whole(&self) -> bool {
        self.count.load(Ordering::Relaxed) == self.granules
    }

    /// The first that isn't marked.
    pub(super) fn first_unset(&self) -> Option<u64> {
        let ones = |word: &AtomicU64| u64::from(word.load(Ordering::Relaxed).trailing_ones());
        let gap = (0..).zip(self.bits.iter().map(ones)).find(|(_, ones)| *ones < 64);
        gap.map(|(word, ones)| word * 64 + ones).filter(|granule| *granule < self.granules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_whole_when_each_is_marked() {
        let verified = Verified::new(130);
        assert_eq!(verified.first_unset(), Some(0));
        for granule in (0..130).rev() {
            assert!(!verified.is_whole());
            verified.set(granule);
            verified.set(granule);
        }
        assert!(verified.is_whole());
        assert_eq!(verified.first_unset(), None);
        verified.unset(64);
        verified.unset(64);
        assert!(!verified.is_whole());
        assert_eq!(verified.first_unset(), Some(64));
        verified.set_all();
        assert!(verified.is_whole());
    }
}
