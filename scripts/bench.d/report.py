"""What was measured, as lines, a table and JSON."""

import argparse
import itertools
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
    details = [f"{entry['seconds']:.1f} s"]
    for name in ("first", "p50", "p99"):
        if f"{name}_ms" in entry:
            details.append(f"{name} {entry[f'{name}_ms']:.1f} ms")
    if ratio := fetched(entry):
        details.append(f"{ratio:.2f} bytes a byte")
    if "peak_mb" in entry:
        details.append(f"{entry['peak_mb']:.0f} MB")
    return f"{start} {entry['rate']:>9.1f} {CASES[entry['case']].unit:<9} {', '.join(details)}"


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
    present = {subject for _, _, subject in rates}
    columns = [name for name in ("atelier", *PEERS, *BASELINES) if name in present]
    latencies = sorted({latency for latency, _, _ in rates})
    rows = [["", *columns, "to best peer", "to mountpoint", "to reach"]]
    for latency, (name, case) in itertools.product(latencies, CASES.items()):
        found = {
            # A local disk is measured once, at the first latency.
            subject: rates.get((latencies[0] if subject == "native" else latency, name, subject), 0)
            for subject in columns
        }
        if not any(rate for subject, rate in found.items() if subject != "native"):
            continue
        found["peers"] = max(found.get(peer, 0) for peer in PEERS)
        ours, goal = found.get("atelier", 0), case.far if latency else case.near
        rows.append(
            [f"{case.title}, {case.unit}, {latency:.0f} ms"]
            + [figure(found[subject]) for subject in columns]
            + [times(ours, found["peers"]), times(ours, found.get("mountpoint", 0))]
            + [reached(ours, found.get(goal[1], 0), *goal) if goal else ""]
        )
    return aligned(rows + more(measured, columns, latencies))


def more(measured: list[dict], columns: list[str], latencies: list[float]) -> list[list[str]]:
    """The rows below: bytes that were fetched, and memory."""
    rows = []
    ratios = medians(measured, fetched)
    for latency in latencies:
        found = [ratios.get((latency, "random", subject)) for subject in columns]
        if any(found):
            cells = [f"{ratio:.2f}" if ratio else "" for ratio in found]
            title = f"random, bytes fetched a byte asked for, {latency:.0f} ms"
            rows.append([title, *cells, "", "", "at most 1.3"])
    peaks = medians(measured, lambda entry: entry.get("peak_mb"))
    most = {name: 0.0 for name in columns}
    for (_, _, name), peak in peaks.items():
        most[name] = max(most[name], peak)
    if peaks:
        rows.append(["most memory of the program, MB", *map(figure, most.values()), "", "", ""])
    return rows


def reached(ours: float, theirs: float, goal: float, whose: str) -> str:
    """How much of a goal is reached, such as `1.4 of 2 x mountpoint`."""
    whose = "best peer" if whose == "peers" else whose
    return f"{ours / theirs:.1f} of {goal:g} x {whose}" if ours and theirs else ""


def figure(number: float) -> str:
    if not number:
        return ""
    return f"{number:,.0f}" if number >= 20 else f"{number:.1f}"


def times(ours: float, theirs: float) -> str:
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
