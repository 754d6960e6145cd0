//! Memory of keys, which the kernel neither swaps out nor puts into a core.
//!
//! The kernel locks whole pages and counts no locks (see `mlock(2)`), and many keys share a page of
//! the heap, so that the pages are counted here. A user may lock some megabytes only
//! (`RLIMIT_MEMLOCK`): what is above that works all the same, and may be swapped out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::{Deref, DerefMut, RangeInclusive};
use std::sync::{LazyLock, Mutex, Once, PoisonError};

use rustix::mm::Advice;
use zeroize::Zeroize;

/// How many are on each page that is held, by its number. Guards the calls as well, so that nobody
/// unlocks a page while somebody else comes to it.
static HELD: LazyLock<Mutex<HashMap<usize, usize>>> = LazyLock::new(Mutex::default);

/// A value on the heap that is kept out of swap and cores, and wiped when it is dropped.
pub struct Locked<T: Zeroize + ?Sized> {
    // In this order: `drop` wipes, then the pages are let go of, then the memory is.
    _hold: Hold,
    value: Box<T>,
}

impl<T: Zeroize + ?Sized> From<Box<T>> for Locked<T> {
    fn from(value: Box<T>) -> Self {
        Self { _hold: Hold::of(&*value), value }
    }
}

/// Copies them; the copy that they come from is for its owner to wipe.
impl From<&[u8]> for Locked<[u8]> {
    fn from(bytes: &[u8]) -> Self {
        Box::<[u8]>::from(bytes).into()
    }
}

/// Copies it; the copy that it comes from is for its owner to wipe.
impl From<&str> for Locked<str> {
    fn from(text: &str) -> Self {
        Box::<str>::from(text).into()
    }
}

impl<T: Zeroize + ?Sized> Clone for Locked<T>
where
    Box<T>: Clone,
{
    fn clone(&self) -> Self {
        self.value.clone().into()
    }
}

impl<T: Zeroize + ?Sized> Deref for Locked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Zeroize + ?Sized> DerefMut for Locked<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: Zeroize + ?Sized> Drop for Locked<T> {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

/// Keeps the pages of memory that somebody else owns; it has to be dropped before that memory is
/// given back.
pub struct Hold(Option<RangeInclusive<usize>>);

impl Hold {
    /// Holds the pages that a value is on.
    pub fn of<T: ?Sized>(value: &T) -> Self {
        let len = size_of_val(value);
        if len == 0 {
            return Self(None);
        }
        let start = std::ptr::from_ref(value).addr();
        let pages = start / page_size()..=(start + len - 1) / page_size();
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        for page in pages.clone() {
            let count = held.entry(page).or_insert(0);
            *count += 1;
            if *count == 1 {
                lock(page);
            }
        }
        Self(Some(pages))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        for page in self.0.take().into_iter().flatten() {
            if let Entry::Occupied(mut count) = held.entry(page) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                    unlock(page);
                }
            }
        }
    }
}

fn page_size() -> usize {
    rustix::param::page_size()
}

fn lock(page: usize) {
    let start = std::ptr::with_exposed_provenance_mut(page * page_size());
    // Both are tried, whatever comes of the first.
    // SAFETY: neither call changes what is in the page, nor whether it is there, whoever has it.
    #[allow(unsafe_code)]
    let locked = unsafe {
        rustix::mm::mlock(start, page_size()).and(rustix::mm::madvise(
            start,
            page_size(),
            Advice::LinuxDontDump,
        ))
    };
    if let Err(error) = locked {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            tracing::debug!(%error, "some keys can't be kept out of swap: `ulimit -l` is too low");
        });
    }
}

fn unlock(page: usize) {
    let start = std::ptr::with_exposed_provenance_mut(page * page_size());
    // SAFETY: as in `lock`; and an anonymous page is dumped by default, so that this is as before.
    #[allow(unsafe_code)]
    let unlocked = unsafe {
        rustix::mm::madvise(start, page_size(), Advice::LinuxDoDump)
            .and(rustix::mm::munlock(start, page_size()))
    };
    // One that couldn't be locked isn't, and what stays locked costs a page.
    let _ = unlocked;
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Whether the page at an address is locked and left out of cores, as `proc_pid_smaps(5)` has
    /// it.
    fn is_locked(at: usize) -> bool {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_here = false;
        for line in smaps.lines() {
            let first = line.split(' ').next().unwrap();
            if let Some((start, end)) = first.split_once('-') {
                let number = |text| usize::from_str_radix(text, 16).unwrap();
                is_here = (number(start)..number(end)).contains(&at);
            } else if is_here && let Some(flags) = line.strip_prefix("VmFlags:") {
                let has = |wanted| flags.split(' ').any(|flag| flag == wanted);
                assert_eq!(has("lo"), has("dd"), "{flags}");
                return has("lo");
            }
        }
        panic!("{at:x} is nowhere")
    }

    /// Pages of this test alone; only the first byte of each is held.
    fn own_pages() -> (Vec<u8>, usize) {
        let pages = vec![0; 8 * page_size()];
        let first = pages.as_ptr().addr().next_multiple_of(page_size()) - pages.as_ptr().addr();
        (pages, first)
    }

    #[test]
    fn a_page_is_locked_while_anything_on_it_is_held() {
        let (pages, first) = own_pages();
        let at = |page: usize, byte: usize| first + page * page_size() + byte;
        let address = |place: usize| pages.as_ptr().addr() + place;
        assert!(!is_locked(address(at(1, 0))));
        let one = Hold::of(&pages[at(1, 10)..at(1, 20)]);
        let two = Hold::of(&pages[at(1, 30)..at(3, 1)]);
        assert!((1..=3).all(|page| is_locked(address(at(page, 0)))));
        assert!(!is_locked(address(at(0, 0))) && !is_locked(address(at(4, 0))));
        drop(two);
        assert!(is_locked(address(at(1, 0))) && !is_locked(address(at(2, 0))));
        drop(one);
        assert!(!is_locked(address(at(1, 0))));
        drop(Hold::of(&pages[..0]));
    }

    #[test]
    fn a_key_and_its_copy_are_locked() {
        let key = Locked::<[u8]>::from(&b"key"[..]);
        let copy = key.clone();
        assert!(is_locked(key.as_ptr().addr()) && is_locked(copy.as_ptr().addr()));
        drop(key);
        assert!(is_locked(copy.as_ptr().addr()));
        assert_eq!(*copy, b"key"[..]);
        assert_eq!(&*Locked::from("text"), "text");
    }

    #[test]
    fn keys_that_come_and_go_on_many_threads_leave_nothing_locked_behind() {
        let (pages, first) = own_pages();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let pages = &pages;
                scope.spawn(move || {
                    for round in 0..500 {
                        let start = first + (thread * 97 + round * 31) % (4 * page_size());
                        let hold = Hold::of(&pages[start..start + 64]);
                        assert!(round % 50 != 0 || is_locked(pages[start..].as_ptr().addr()));
                        drop(hold);
                    }
                });
            }
        });
        let held = HELD.lock().unwrap();
        for page in 0..7 {
            let address = pages[first..].as_ptr().addr() + page * page_size();
            assert!(!held.contains_key(&(address / page_size())));
            assert!(!is_locked(address));
        }
    }
}
