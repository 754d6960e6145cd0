//! Numbers of a mount as people read them.

use std::io::Write as _;
use std::time::Duration;

use tabwriter::TabWriter;

use super::state::Mounted;
use crate::control::Report;

/// The share of blocks that needn't be fetched; `None` when none was asked for.
pub(super) fn hit_rate(report: &Report) -> Option<f64> {
    let hits = report.count("cache_memory_hits_total") + report.count("cache_disk_hits_total");
    share(hits, hits + report.count("cache_misses_total"))
}

/// Tells all of a mount, in lines.
pub(super) fn details(mounted: &Mounted) -> Vec<u8> {
    let mut table = TabWriter::new(Vec::new()).padding(2);
    for (name, value) in lines(mounted) {
        // Writing to memory doesn't fail.
        let _ = writeln!(table, "{name}:\t{value}");
    }
    let _ = table.flush();
    table.into_inner().unwrap_or_default()
}

fn lines(mounted: &Mounted) -> Vec<(&'static str, String)> {
    let state = format!("{}, process {}", mounted.state.word(), mounted.pid);
    let mut lines = vec![
        ("project", mounted.project.clone()),
        ("mounted on", mounted.mount_point.display().to_string()),
    ];
    let Some(report) = &mounted.report else {
        lines.push(("state", state));
        return lines;
    };
    let (options, count) = (&report.about.options, |name| report.count(name));
    let size = options.cache_size.parse().map_or_else(|_| options.cache_size.clone(), bytes);
    let memory = format!("{} of {}", bytes(count("cache_memory_bytes")), bytes(options.memory));
    let kernel = format!(
        "{} requests, {} refused; {} names, {} reads",
        count("fuse_answered_total"),
        count("fuse_refused_total"),
        count("fuse_lookups_total"),
        count("fuse_reads_total"),
    );
    lines.extend([
        ("state", format!("{state}, for {}", span(report.uptime_seconds))),
        ("home", report.about.home.clone()),
        ("memory", memory),
        ("disk", format!("{}, at most {size}", options.cache_dir)),
        ("believed for", format!("{:#}", options.metadata_ttl)),
        ("deadline", format!("{:#}", options.deadline)),
        ("kernel", kernel),
        ("reads", reads(report)),
        ("bucket", bucket(report)),
        ("blocks", blocks(report)),
        ("first byte", times(report, "s3_first_byte_seconds")),
        ("read time", times(report, "s3_read_seconds")),
    ]);
    lines.extend(options.metrics.map(|address| ("metrics", format!("http://{address}/metrics"))));
    lines
}

fn reads(report: &Report) -> String {
    let (reads, stalls) = (report.count("s3_reads_total"), report.count("s3_stalls_total"));
    let waited = share(stalls, reads)
        .map_or_else(String::new, |share| format!("; {stalls} had to wait, {}", percent(share)));
    let by_kernel = match report.count("fuse_passthrough_opens_total") {
        0 => String::new(),
        opens => format!("; {opens} opens that the kernel reads by itself don't count"),
    };
    let read = bytes(report.count("s3_read_bytes_total"));
    format!("{reads} of objects, {read}{waited}{by_kernel}")
}

fn bucket(report: &Report) -> String {
    let (asked, fetched) =
        (report.count("s3_read_bytes_total"), report.count("s3_fetched_bytes_total"));
    let times = share(fetched, asked)
        .map_or_else(String::new, |times| format!(", {times:.2} times what was read"));
    format!(
        "{} fetched{times}; {} requests, {} again, {} beside a slow one, {} slowed down, {} failed",
        bytes(fetched),
        report.count("s3_requests_total"),
        report.count("s3_retries_total"),
        report.count("s3_hedged_total"),
        report.count("s3_throttled_total"),
        report.count("s3_failures_total"),
    )
}

fn blocks(report: &Report) -> String {
    let [memory, disk, misses] =
        ["cache_memory_hits_total", "cache_disk_hits_total", "cache_misses_total"]
            .map(|name| report.count(name));
    let of_all = |count| {
        let share = share(count, memory + disk + misses);
        share.map_or_else(String::new, |share| format!(" ({})", percent(share)))
    };
    format!(
        "{memory}{} in memory, {disk}{} on disk, {misses}{} fetched, {} damaged",
        of_all(memory),
        of_all(disk),
        of_all(misses),
        report.count("cache_damaged_total"),
    )
}

fn times(report: &Report, name: &str) -> String {
    let at = |quantile| report.quantile(name, quantile).map(duration);
    match (at("p50"), at("p90"), at("p99")) {
        (Some(half), Some(most), Some(nearly_all)) => {
            format!("half within {half}, 90 % {most}, 99 % {nearly_all}")
        }
        _ => "none yet".to_owned(),
    }
}

#[allow(clippy::cast_precision_loss)] // Nobody reads sixteen digits, here and below.
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// A share of one as hundredths.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A number of bytes, with three digits that count.
#[allow(clippy::cast_precision_loss)]
pub(super) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 100.0 { 0 } else { usize::from(value < 10.0) + 1 };
    format!("{value:.digits$} {}", units[unit])
}

/// A time that something lasts already.
pub(super) fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn duration(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1000.0;
    if millis >= 10_000.0 { format!("{:.1} s", millis / 1000.0) } else { format!("{millis:.1} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let sizes = [0, 999, 1024, 10 << 20, 150 << 20, 3 << 40].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.00 KiB", "10.0 MiB", "150 MiB", "3.00 TiB"]);
        let spans = [5, 65, 3700, 90_000].map(span);
        assert_eq!(spans, ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!(percent(0.934), "93.4 %");
        assert_eq!(duration(Duration::from_micros(1500)), "1.5 ms");
    }
}
