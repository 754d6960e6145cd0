"""scripts/bench files: project storage as programs use it, against the disk that it lies on."""

import argparse
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import programs
from dataset.subjects import Subject
from dataset.tools import Home
from report import aligned, as_json, figure
from talk import Failed, say

from .cases import CASES
from .data import Data


class Disk(Subject):
    """The disk."""

    name = "native"

    @property
    def root(self) -> Path:
        return self.place


class Atelier(Subject):
    """`files/` of a project that lies on the same disk."""

    name = "atelier"

    def __init__(self, place: Path, program: Path, options: list[str]):
        super().__init__(place, place)
        self.home = Home(program, self.place / "home")
        self.options = options

    @property
    def root(self) -> Path:
        return self.point / "files"

    def environment(self) -> dict:
        return self.home.environment()

    def fill(self) -> None:
        self.home.make()

    def command(self) -> list:
        return [self.home.program, "mount", "--foreground", *self.options, self.point]


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench files",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Uses project storage and the disk below it as programs do, one after the\n"
        "other in several rounds, and prints the medians. Only root may empty the kernel's caches.",
        epilog=f"cases: {', '.join(CASES)}",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="less data, less time, one round")
    add("--only", type=lambda text: text.split(","), metavar="CASE,…", help="these cases")
    add("--rounds", type=int, metavar="N", help="how often each is measured [default: 3; quick: 1]")
    add(
        "--seconds",
        type=float,
        metavar="S",
        help="most time for a job of fio [default: 10; quick: 3]",
    )
    add("--json", type=Path, metavar="FILE", help="write every measurement there")
    add("--atelier", metavar="FILE", help="measure this program, and don't build one")
    add("--option", action="append", default=[], help="another option for `atelier mount`")
    options = parser.parse_args(words)
    if unknown := set(options.only or ()) - set(CASES):
        parser.error(f"--only: {', '.join(unknown)} isn't one of {', '.join(CASES)}")
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (3.0 if options.quick else 10.0)
    return options


def measure(case: str, subject: Subject, data: Data, number: int) -> dict:
    """One measurement in a directory of its own; a failure is a result too."""
    entry = {"round": number, "case": case, "subject": subject.name}
    place = subject.root / "bench"
    try:
        place.mkdir()
        if before := CASES[case].before:
            before(data, place)
        entry["rate"] = CASES[case].work(data, place)
    except (Failed, OSError) as error:
        hint = getattr(error, "hint", "")
        entry["error"] = f"{error} ({hint})" if hint else str(error)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    said = f"{entry['rate']:>10.1f} {CASES[case].unit}" if "rate" in entry else entry["error"]
    say(f"{case:<13} {subject.name:<8} {said}")
    return entry


def table(measured: list[dict]) -> str:
    """Medians and ratios as a Markdown table."""
    rates = defaultdict(list)
    for entry in measured:
        if "rate" in entry:
            rates[entry["case"], entry["subject"]].append(entry["rate"])
    rows = [["", "atelier", "native", "ratio", "to reach"]]
    for name, case in CASES.items():
        found = [statistics.median(rates.get((name, who), [0.0])) for who in ("atelier", "native")]
        if any(found):
            ratio = f"{found[0] / found[1]:.2f}" if all(found) else ""
            title = f"{case.title}, {case.unit}"
            rows.append([title, *map(figure, found), ratio, f"{case.goal:g}"])
    return aligned(rows)


def main(words: list[str]) -> None:
    options = arguments(words)
    built = programs.build(options.atelier, None, ("atelier",))
    # On a disk; /tmp may be in memory.
    place = Path(tempfile.mkdtemp(prefix="atelier-bench-", dir="/var/tmp"))
    subjects: list[Subject] = []
    measured: list[dict] = []
    start = time.monotonic()
    try:
        data = Data(place / "data", options.quick, options.seconds)
        subjects = [Atelier(place, built.atelier, options.option), Disk(place, place)]
        for subject in subjects:
            subject.prepare()
            subject.mount()
        for number in range(options.rounds):
            for case in options.only or CASES:
                # Nobody is always the first.
                for subject in subjects[:: 1 if number % 2 == 0 else -1]:
                    measured.append(measure(case, subject, data, number))
    finally:
        for subject in subjects:
            subject.unmount()
        shutil.rmtree(place, ignore_errors=True)
        if options.json:
            options.json.write_text(as_json(measured, options))
    print(table(measured))
    say(f"measured for {time.monotonic() - start:.0f} s")
