"""What was measured, as lines and a table."""

import statistics
from collections import defaultdict

from report import aligned, figure, times

from .cases import NAMES, READS, WRITES

SUBJECTS = ("atelier", "juicefs", "squashfs", "restic", "dvc", "native")
PEERS = SUBJECTS[1:-1]


def titled(case: str) -> str:
    title, unit = (READS[case].title, READS[case].unit) if case in READS else WRITES[case]
    return f"{title}, {unit}"


def line(entry: dict) -> str:
    """One measurement."""
    start = f"{entry['case']:<16} {entry['subject']:<9}"
    if "error" in entry:
        return f"{start} failed: {entry['error']}"
    unit = READS[entry["case"]].unit if entry["case"] in READS else WRITES[entry["case"]][1]
    details = [f"{entry['seconds']:.1f} s"] if "seconds" in entry else []
    for name in ("first", "p50", "p99"):
        if f"{name}_ms" in entry:
            details.append(f"{name} {entry[f'{name}_ms']:.2f} ms")
    if entry.get("peak_mb"):
        details.append(f"{entry['peak_mb']:.0f} MB")
    return f"{start} {entry['rate']:>10.1f} {unit:<9} {', '.join(details)}"


def medians(measured: list[dict], name: str) -> dict:
    """The median of a value of each (case, subject) that has one."""
    values = defaultdict(list)
    for entry in measured:
        if entry.get(name):
            values[entry["case"], entry["subject"]].append(entry[name])
    return {key: statistics.median(found) for key, found in values.items()}


def table(measured: list[dict]) -> str:
    """Medians and ratios as a Markdown table."""
    rates = medians(measured, "rate")
    columns = [name for name in SUBJECTS if any(subject == name for _, subject in rates)]
    rows = [["", *columns, "to native", "to best peer", "to reach"]]
    for case in NAMES:
        found = {subject: rates.get((case, subject), 0.0) for subject in columns}
        if not any(found.values()):
            continue
        ours, native = found.get("atelier", 0.0), found.get("native", 0.0)
        best = max((found.get(peer, 0.0) for peer in PEERS), default=0.0)
        if case == "space":
            ratios = ["", "", ""]
        else:
            ratios = [times(ours, native), times(ours, best), goal(case, found)]
        rows.append([titled(case), *(shown(found[subject]) for subject in columns), *ratios])
    peaks = medians(measured, "peak_mb")
    if peaks:
        most = {name: 0.0 for name in columns}
        for (_, subject), peak in peaks.items():
            most[subject] = max(most.get(subject, 0.0), peak)
        rows.append(["most memory of the program, MB", *map(shown, most.values()), "", "", ""])
    return aligned(rows)


def shown(number: float) -> str:
    return f"{number:.2f}" if 0 < number < 10 else figure(number)


def goal(case: str, found: dict) -> str:
    """How much is reached of what is to be reached."""
    ours, native, restic = (found.get(name, 0.0) for name in ("atelier", "native", "restic"))
    if case in READS:
        wanted = READS[case].goal
        return f"{ours / native:.2f} of {wanted:g} x native" if wanted and native and ours else ""
    if case == "ingest" and ours:
        parts = [f"{ours / native:.2f} of 1 x cp"] if native else []
        parts += [f"{ours / restic:.1f} of 5 x restic"] if restic else []
        return ", ".join(parts)
    return ""
