//! Metrics in Prometheus' text format, version 0.0.4.

use std::fmt::Write as _;

use super::About;
use crate::metrics::{Histogram, Metrics, Value};

/// How the format is named in HTTP.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes all metrics of a mount.
pub(super) fn render(about: &About, metrics: &Metrics) -> String {
    let mut text = String::with_capacity(16 << 10);
    head(&mut text, "mounted_since_seconds", "when the project was mounted", "gauge");
    // Writing to a string doesn't fail, here and below.
    let _ = writeln!(
        text,
        "atelier_mounted_since_seconds{{project=\"{}\",mount_point=\"{}\"}} {}",
        escaped(&about.project),
        escaped(&about.mount_point),
        about.since.as_second(),
    );
    for sample in metrics.samples() {
        let name = sample.name;
        match sample.value {
            Value::Total(number) => {
                head(&mut text, name, sample.help, "counter");
                let _ = writeln!(text, "atelier_{name} {number}");
            }
            Value::Gauge(number) => {
                head(&mut text, name, sample.help, "gauge");
                let _ = writeln!(text, "atelier_{name} {number}");
            }
            Value::Times(times) => {
                head(&mut text, name, sample.help, "histogram");
                histogram(&mut text, name, times);
            }
        }
    }
    text
}

fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(text, "# HELP atelier_{name} {help}\n# TYPE atelier_{name} {kind}");
}

fn histogram(text: &mut String, name: &str, times: &Histogram) {
    let (below, count) = times.cumulative();
    for (bound, count) in below {
        let bound = bound.as_secs_f64();
        let _ = writeln!(text, "atelier_{name}_bucket{{le=\"{bound}\"}} {count}");
    }
    let _ = writeln!(text, "atelier_{name}_bucket{{le=\"+Inf\"}} {count}");
    let _ = writeln!(text, "atelier_{name}_sum {}", times.sum().as_secs_f64());
    let _ = writeln!(text, "atelier_{name}_count {count}");
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_metric_has_help_type_and_value() {
        let metrics = Metrics::default();
        metrics.requests.add(5);
        metrics.first_byte.note(Duration::from_millis(1));
        metrics.first_byte.note(Duration::from_hours(1 << 20));
        let text = render(&super::super::tests::about(), &metrics);
        assert!(text.contains("\natelier_s3_requests_total 5\n"), "{text}");
        assert!(text.contains("# TYPE atelier_s3_first_byte_seconds histogram\n"), "{text}");
        assert!(text.contains("_first_byte_seconds_bucket{le=\"0.000064\"} 0\n"), "{text}");
        assert!(text.contains("_first_byte_seconds_bucket{le=\"0.001024\"} 1\n"), "{text}");
        assert!(text.contains("_first_byte_seconds_bucket{le=\"+Inf\"} 2\n"), "{text}");
        assert!(text.contains("_first_byte_seconds_count 2\n"), "{text}");
        assert!(text.contains(r#"mount_point="/mnt/my \"cats\"\\"} 0"#), "{text}");
        let types = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
        assert_eq!(types, metrics.samples().len() + 1);
    }
}
