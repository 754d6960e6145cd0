//! A reader who reads in equal steps, forwards or backwards.

use std::collections::VecDeque;
use std::ops::Range;

use super::Plan;

/// How many steps are asked for ahead at most: as many requests are under way at once.
const MOST_STEPS: u64 = 32;

/// The most bytes that they bring.
const MOST_BYTES: u64 = 8 << 20;

/// Someone who reads in equal steps.
#[derive(Debug)]
pub(super) struct Stride {
    /// Where the last read began.
    at: u64,
    /// From one read to the next, which may be before it.
    step: i64,
    /// How many steps are asked for ahead of the reader.
    depth: u64,
    /// How many of them were.
    asked: u64,
}

impl Stride {
    /// Who made `read` and the three reads before it in equal steps: three alone come about by
    /// chance where many read here and there.
    pub(super) fn find(before: &VecDeque<Range<u64>>, read: &Range<u64>) -> Option<Self> {
        let was_read = |place| before.iter().any(|other| Some(other.start) == place);
        let steps = before.iter().rev().filter_map(|last| distance(last.start, read.start));
        let step = steps.filter(|step| *step != 0).find(|step| {
            (2..=3).all(|back| {
                let far = step.checked_mul(-back);
                far.is_some_and(|far| was_read(read.start.checked_add_signed(far)))
            })
        })?;
        Some(Self { at: read.start, step, depth: 2, asked: 0 })
    }

    /// Whether `read` is the next one of this reader, or one is left out before it.
    pub(super) fn continues_with(&self, read: &Range<u64>) -> bool {
        (1..=2).any(|steps| self.place(steps) == Some(read.start))
    }

    /// Notes the next read; what to ask for now. More steps are asked for only when the reader
    /// has to wait.
    pub(super) fn advance(
        &mut self,
        read: &Range<u64>,
        stalled: bool,
        room: u64,
        size: u64,
    ) -> Plan {
        while self.at != read.start
            && let Some(next) = self.place(1)
        {
            self.at = next;
            self.asked = self.asked.saturating_sub(1);
        }
        if stalled {
            self.depth = (self.depth * 2).min(MOST_STEPS);
        }
        let len = read.end - read.start;
        let most = (MOST_BYTES.min(room) / len.max(1)).min(self.depth);
        // Half of the steps at a time, so that steps that touch share a request.
        if self.asked > most / 2 {
            return Plan::default();
        }
        let places = (self.asked + 1..=most).filter_map(|steps| self.place(steps));
        let mut ranges: Vec<_> = places
            .filter(|start| *start < size)
            .map(|start| start..start.saturating_add(len).min(size))
            .collect();
        self.asked = self.asked.max(most);
        ranges.sort_unstable_by_key(|range| range.start);
        Plan { ranges: merged(ranges, len / 4), longest: MOST_BYTES, ..Plan::default() }
    }

    fn place(&self, steps: u64) -> Option<u64> {
        let far = self.step.checked_mul(i64::try_from(steps).ok()?)?;
        self.at.checked_add_signed(far)
    }
}

fn distance(from: u64, to: u64) -> Option<i64> {
    i64::try_from(i128::from(to) - i128::from(from)).ok()
}

/// Joins ranges between which there is less than `gap`.
fn merged(ranges: Vec<Range<u64>>, gap: u64) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(gap) => {
                last.end = last.end.max(range.end);
            }
            _ => joined.push(range),
        }
    }
    joined
}
