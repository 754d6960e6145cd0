//! How far a capture is, on a terminal.

use std::sync::atomic::Ordering;

use indicatif::{ProgressBar, ProgressStyle};

use crate::snapshot::{Progress, Total};

/// While it isn't known how much there is.
const OPEN: &str = "{spinner} {bytes}, {bytes_per_sec}, {wide_msg}";

/// Once that is known.
const BOUNDED: &str =
    "[{bar:10}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} to go, {wide_msg}";

/// When there won't be more.
const INTERRUPTED: &str =
    "{spinner} interrupted: what was read by now is stored, for the next time";

/// A line on standard error, if that is a terminal.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::no_length();
        bar.set_style(style(OPEN));
        Self(bar)
    }

    /// Whether anybody sees it.
    pub(super) fn is_seen(&self) -> bool {
        !self.0.is_hidden()
    }

    pub(super) fn show(&self, progress: &Progress) {
        if progress.is_cancelled() {
            self.0.set_style(style(INTERRUPTED));
        }
        let total = progress.total.get().filter(|total| total.bytes > 0);
        if let Some(total) = total
            && self.0.length().is_none()
        {
            self.0.set_length(total.bytes);
            self.0.set_style(style(BOUNDED));
        }
        self.0.set_message(counts(progress, total));
        self.0.set_position(progress.done());
        self.0.tick();
    }

    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// How many entries are done, and how much of what they hold was stored before.
fn counts(progress: &Progress, total: Option<&Total>) -> String {
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let entries = count(&progress.entries);
    let entries = match total {
        Some(Total { entries: all @ 1.., .. }) => format!("{entries} of {all} entries"),
        _ => format!("{entries} entries"),
    };
    let all = count(&progress.bytes) + count(&progress.unchanged);
    let known = (count(&progress.reused) * 100).checked_div(all).unwrap_or(0).min(100);
    format!("{entries}, {known}% stored before")
}

fn style(template: &str) -> ProgressStyle {
    // The templates are ours, and right.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_right() {
        for template in [OPEN, BOUNDED, INTERRUPTED] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }

    #[test]
    fn what_is_done_is_counted() {
        let progress = Progress::default();
        assert_eq!(counts(&progress, None), "0 entries, 0% stored before");
        progress.entries.store(3, Ordering::Relaxed);
        progress.bytes.store(100, Ordering::Relaxed);
        progress.unchanged.store(100, Ordering::Relaxed);
        progress.reused.store(150, Ordering::Relaxed);
        let total = Total { entries: 4, bytes: 300 };
        assert_eq!(counts(&progress, Some(&total)), "3 of 4 entries, 75% stored before");
        assert_eq!(progress.done(), 200);
    }
}
