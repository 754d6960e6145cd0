"""What was measured, as lines, a table and JSON."""

import argparse
import json
import os
import platform
import statistics
from collections import defaultdict

from cases import CASES

PEERS = ("mountpoint", "s3fs", "rclone")
BASELINES = ("sdk", "sdk x32", "native")


def line(entry: dict) -> str:
    """One measurement."""
    start = f"{entry['latency']:>4.0f} ms  {entry['case']:<11} {entry['subject']:<11}"
    if "error" in entry:
        return f"{start} failed: {entry['error']}"
    more = [f"{entry['seconds']:.1f} s"]
    more += [f"{word[:-3]} {entry[word]:.1f} ms" for word in ("first_ms", "p50_ms", "p99_ms") if word in entry]
    if "fetched" in entry and entry.get("bytes") and entry["case"] != "walk":
        more.append(f"{entry['fetched'] / entry['bytes']:.2f} bytes a byte")
    if "peak_mb" in entry:
        more.append(f"{entry['peak_mb']:.0f} MB")
    return f"{start} {entry['rate']:>9.1f} {CASES[entry['case']].unit:<9} {', '.join(more)}"


def medians(measured: list[dict], value) -> dict:
    """The median of a value of each (latency, case, subject) that has one."""
    values = defaultdict(list)
    for entry in measured:
        if "error" not in entry and (found := value(entry)) is not None:
            values[entry["latency"], entry["case"], entry["subject"]].append(found)
    return {key: statistics.median(found) for key, found in values.items()}


def fetched(entry: dict) -> float | None:
    if entry["case"] == "walk" or "fetched" not in entry or not entry.get("bytes"):
        return None
    return entry["fetched"] / entry["bytes"]


def table(measured: list[dict]) -> str:
    """Medians and ratios as a Markdown table."""
    rates = medians(measured, lambda entry: entry["rate"])
    ratios = medians(measured, fetched)
    peaks = medians(measured, lambda entry: entry.get("peak_mb"))
    present = {subject for _, _, subject in rates}
    columns = [name for name in ("atelier", *PEERS, *BASELINES) if name in present]
    rows = [["", *columns, "to best peer", "to mountpoint"]]
    latencies = sorted({latency for latency, _, _ in rates})
    for latency in latencies:
        for case in CASES.values():
            name = next(key for key, value in CASES.items() if value is case)
            found = {
                subject: rates.get((latency, name, subject))
                # A local disk is measured once, at the first latency.
                or (subject == "native" and rates.get((latencies[0], name, subject)))
                for subject in columns
            }
            if not any(found.values()):
                continue
            best = max((found.get(peer) or 0 for peer in PEERS), default=0)
            ours = found.get("atelier")
            rows.append(
                [f"{case.title}, {case.unit}, {latency:.0f} ms"]
                + [figure(found[subject]) for subject in columns]
                + [times(ours, best), times(ours, found.get("mountpoint"))]
            )
    for latency in latencies:
        found = [ratios.get((latency, "random", subject)) for subject in columns]
        if any(found):
            title = f"bytes fetched a byte asked for at random, {latency:.0f} ms"
            rows.append([title, *(f"{ratio:.2f}" if ratio else "" for ratio in found), "", ""])
    if peaks:
        most = [
            max((peak for (_, _, name), peak in peaks.items() if name == subject), default=None)
            for subject in columns
        ]
        rows.append(["most memory of the program, MB", *map(figure, most), "", ""])
    return aligned(rows)


def figure(number: float | None) -> str:
    if not number:
        return ""
    return f"{number:,.0f}" if number >= 20 else f"{number:.1f}"


def times(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f} x" if ours and theirs else ""


def aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append(f"| {' | '.join(cells)} |")
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    return "\n".join([lines[0], f"| {' | '.join(rule)} |", *lines[1:]])


def as_json(measured: list[dict], options: argparse.Namespace) -> str:
    """Every measurement, and what they were measured on."""
    machine = {"kernel": platform.release(), "cpus": os.cpu_count()}
    asked = {name: str(value) for name, value in vars(options).items() if value is not None}
    return json.dumps({"machine": machine, "options": asked, "measured": measured}, indent=1)
