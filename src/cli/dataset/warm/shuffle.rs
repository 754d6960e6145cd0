//! The order of Python's `random.shuffle`, which loaders of training data take.
//!
//! It is the Mersenne Twister MT19937 of Matsumoto and Nishimura (ACM TOMACS 8(1), 1998), seeded
//! as `Modules/_randommodule.c` of the reference implementation does, and the
//! shuffle of its `Lib/random.py`.

/// How many words the state has.
const WORDS: usize = 624;

/// How far the word lies that is mixed in.
const MIDDLE: usize = 397;

/// Puts items into the order that `random.Random(seed).shuffle` gives them in Python 3. There are
/// fewer than 2^32.
pub(super) fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut twister = Twister::new(seed);
    for last in (1..items.len()).rev() {
        items.swap(last, twister.below(last + 1));
    }
}

struct Twister {
    words: [u32; WORDS],
    next: usize,
}

impl Twister {
    /// `init_by_array` with the seed's words, the least first.
    fn new(seed: u64) -> Self {
        let mut words = [19_650_218_u32; WORDS];
        for at in 1..WORDS {
            words[at] = mixed(words[at - 1]).wrapping_mul(1_812_433_253).wrapping_add(word(at));
        }
        let [a, b, c, d, high @ ..] = seed.to_le_bytes();
        let key = [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(high)];
        let key = if key[1] == 0 { &key[..1] } else { &key };
        let mut at = 1;
        for (round, key_at) in (0..key.len()).cycle().take(WORDS).enumerate() {
            let before = if round == 0 { words[0] } else { words[at - 1] };
            words[at] = (words[at] ^ mixed(before).wrapping_mul(1_664_525))
                .wrapping_add(key[key_at])
                .wrapping_add(word(key_at));
            at = following(&mut words, at);
        }
        for _ in 1..WORDS {
            words[at] = (words[at] ^ mixed(words[at - 1]).wrapping_mul(1_566_083_941))
                .wrapping_sub(word(at));
            at = following(&mut words, at);
        }
        words[0] = 1 << 31;
        Self { words, next: WORDS }
    }

    /// A number below `bound`, as `_randbelow_with_getrandbits` draws it.
    fn below(&mut self, bound: usize) -> usize {
        let unused = u32::try_from(bound).unwrap_or(u32::MAX).leading_zeros();
        loop {
            let drawn = (self.draw() >> unused) as usize;
            if drawn < bound {
                return drawn;
            }
        }
    }

    fn draw(&mut self) -> u32 {
        if self.next == WORDS {
            self.twist();
        }
        let mut drawn = self.words[self.next];
        self.next += 1;
        drawn ^= drawn >> 11;
        drawn ^= (drawn << 7) & 0x9d2c_5680;
        drawn ^= (drawn << 15) & 0xefc6_0000;
        drawn ^ (drawn >> 18)
    }

    fn twist(&mut self) {
        for at in 0..WORDS {
            let (here, after) = (self.words[at], self.words[(at + 1) % WORDS]);
            let joined = (here & (1 << 31)) | (after & !(1 << 31));
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.words[at] = self.words[(at + MIDDLE) % WORDS] ^ (joined >> 1) ^ odd;
        }
        self.next = 0;
    }
}

fn mixed(word: u32) -> u32 {
    word ^ (word >> 30)
}

/// The place behind one; the first word follows the last, which it repeats.
fn following(words: &mut [u32; WORDS], at: usize) -> usize {
    if at + 1 < WORDS {
        return at + 1;
    }
    words[0] = words[WORDS - 1];
    1
}

/// A place, as the arithmetic has it.
fn word(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_order_is_that_of_the_real_python() {
        let program = "import random, sys\n\
            for seed in map(int, sys.argv[1:]):\n\
            \x20   for length in (0, 1, 2, 3, 10, 1000, 65537):\n\
            \x20       items = list(range(length))\n\
            \x20       random.Random(seed).shuffle(items)\n\
            \x20       print(*items)\n";
        let seeds = [0, 1, 42, 0xffff_ffff, 0x1_0000_0000, u64::MAX];
        let words = seeds.map(|seed| seed.to_string());
        let output = Command::new("python3").args(["-c", program]).args(words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let printed = String::from_utf8(output.stdout).unwrap();
        let mut lines = printed.lines();
        for seed in seeds {
            for length in [0, 1, 2, 3, 10, 1000, 65_537] {
                let mut items: Vec<u32> = (0..length).collect();
                shuffle(&mut items, seed);
                let expected = lines.next().unwrap();
                let expected: Vec<u32> =
                    expected.split_whitespace().map(|word| word.parse().unwrap()).collect();
                assert!(items == expected, "{length} items by seed {seed}");
            }
        }
    }
}
