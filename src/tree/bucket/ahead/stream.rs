//! A reader who reads in order, and the window ahead of it.

use std::ops::Range;

use super::Plan;

/// The least that is read ahead of who has just begun to read in order, and the most: as much as
/// was read, since two reads in order come about by chance where many read here and there.
const FIRST_WINDOW: (u64, u64) = (128 << 10, 4 << 20);

/// The furthest that is read ahead: enough for 500 MB/s over a line of 100 ms.
const LARGEST_WINDOW: u64 = 64 << 20;

/// The shortest and the longest request, in bytes. A request costs as much as 300 KiB on a fast
/// line, and there are four of them in a window.
const PART: (u64, u64) = (1 << 20, 16 << 20);

/// The kernel's requests overtake one another: a read comes so many lengths before or behind the
/// place where it is expected.
const OVERTAKES: u64 = 2;

/// The kernel's largest read, as a rule and where it is allowed more: what is asked for ends a
/// multiple of it behind a read, so that the reads that come lie each in one buffer.
const STEP: (u64, u64) = (1 << 20, 4 << 20);

/// So close behind a reader bytes may be asked for again, by the kernel's requests that were
/// overtaken and by readers who follow.
const NEAR: u64 = 4 << 20;

/// Someone who reads in order.
#[derive(Debug)]
pub(super) struct Stream {
    /// Where the next read is expected.
    next: u64,
    /// Up to where bytes were asked for.
    ahead: u64,
    /// How far ahead of the reader bytes are asked for.
    window: u64,
    /// What is before it was left behind.
    left: u64,
    /// A reader who has to wait before this place waits for what the window was before it grew.
    grown_at: u64,
}

impl Stream {
    /// Who begins with `read`, with what is asked for with it.
    pub(super) fn new(read: &Range<u64>, window: u64) -> Self {
        Self {
            next: read.end,
            ahead: read.end.max(window),
            window,
            left: read.start,
            grown_at: read.end,
        }
    }

    /// Who has read `before` and goes on with `read`: the more was read, the more will be.
    pub(super) fn after(before: &Range<u64>, read: &Range<u64>) -> Self {
        let window = (read.end - before.start).clamp(FIRST_WINDOW.0, FIRST_WINDOW.1);
        Self { next: read.start, ahead: read.end, window, left: before.start, grown_at: read.end }
    }

    /// Whether `read` may be the next one of this reader.
    pub(super) fn continues_with(&self, read: &Range<u64>) -> bool {
        self.next.abs_diff(read.start) <= (read.end - read.start).saturating_mul(OVERTAKES)
    }

    /// Notes the next read; what to ask for now. The window grows only when the reader has to wait
    /// for what was asked for since it grew last.
    pub(super) fn advance(
        &mut self,
        read: &Range<u64>,
        stalled: bool,
        room: u64,
        size: u64,
    ) -> Plan {
        self.next = self.next.max(read.end);
        self.ahead = self.ahead.max(self.next);
        if stalled && read.start >= self.grown_at {
            self.window = (self.window * 2).min(LARGEST_WINDOW);
            self.grown_at = self.ahead;
        }
        // Nobody takes more than what is left for all others, so that all get the same.
        let window = self.window.min(room);
        let longest = (window / 4).clamp(PART.0, PART.1);
        let end = self.next.saturating_add(window);
        let step = (read.end - read.start).clamp(STEP.0, STEP.1);
        let odd = end.saturating_sub(read.end) % step;
        let end = if window < step { end } else { end - odd }.min(size);
        let start = self.ahead;
        let worth = end == size || end.saturating_sub(start) >= longest.min(window);
        let left = self.leave();
        if start >= end || !worth {
            return Plan { left, ..Plan::default() };
        }
        self.ahead = end;
        Plan { ranges: vec![start..end], longest, left, ..Plan::default() }
    }

    /// What was left behind since the last time, and the piece before it, which wasn't wholly.
    fn leave(&mut self) -> Range<u64> {
        let reached = self.next.saturating_sub(NEAR);
        if reached < self.left.saturating_add(STEP.0) {
            return 0..0;
        }
        let left = std::mem::replace(&mut self.left, reached);
        left.saturating_sub(STEP.1)..reached
    }
}
