"""scripts/bench dataset: many small files and a large one, as programs that train models read."""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import programs
from report import as_json
from talk import Failed, measure, run, say

from . import ingest, report, subjects, tools
from .cases import NAMES, READS, WRITES, Case

LOADER = Path(__file__).resolve().parents[1] / "loader.py"
EPILOG = f"""cases: {", ".join(NAMES)}
subjects: {", ".join(report.SUBJECTS)}

What isn't there and can't be installed is named and left out. Only root may drop the kernel's
caches and mount images.

One case of ours, again and again on data that stay:
  scripts/bench dataset --place ~/bench --prepare
  scripts/bench dataset --place ~/bench --only cold,warm --subjects atelier,native
"""


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench dataset",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Reads a tree of small files and a large file as a dataset of Atelier and as\n"
        "others show them, takes trees in, in several rounds, and prints the medians.",
        epilog=EPILOG,
    )

    def names(text: str) -> list[str]:
        return text.split(",")

    add = parser.add_argument
    add("--quick", action="store_true", help="less data, less time, one round")
    add("--only", type=names, metavar="CASE,…", help="these cases")
    add("--subjects", type=names, metavar="NAME,…", help="these subjects")
    add("--rounds", type=int, metavar="N", help="how often each is measured [default: 3; quick: 1]")
    add(
        "--seconds",
        type=float,
        metavar="S",
        help="most time for a reading; the whole large file has three times that [default: 10; "
        "quick: 4]",
    )
    add("--json", type=Path, metavar="FILE", help="write every measurement there")
    add("--place", type=Path, metavar="DIR", help="use and keep the data and what holds it in DIR")
    add("--prepare", action="store_true", help="make what --place keeps, measure nothing")
    add("--atelier", metavar="FILE", help="measure this program, and don't build one")
    add("--programs", metavar="DIR", help="the built program `load` is there")
    add("--option", action="append", default=[], help="another option for `atelier mount`")
    options = parser.parse_args(words)
    for name, known in (("only", NAMES), ("subjects", report.SUBJECTS)):
        if unknown := set(getattr(options, name) or ()) - set(known):
            parser.error(f"--{name}: {', '.join(unknown)} isn't one of {', '.join(known)}")
    if options.prepare and not options.place:
        parser.error("--prepare needs --place")
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (4.0 if options.quick else 10.0)
    return options


class Bench:
    """One run."""

    def __init__(self, options: argparse.Namespace, place: Path, built: programs.Built):
        self.options, self.place, self.built = options, place, built
        self.data = place / "data"
        self.cases = options.only or list(NAMES)
        self.subjects: dict[str, subjects.Subject] = {}
        self.measured: list[dict] = []

    def run(self) -> None:
        self.fill()
        taking_part = self.taking_part()
        reads = [case for case in self.cases if case in READS]
        if reads or self.options.prepare:
            self.open(taking_part)
        if self.options.prepare:
            return
        for number in range(self.options.rounds):
            for case in reads:
                for name in rotated(list(self.subjects), number):
                    self.note(number, case, name, lambda: self.read(case, name, number))
            if set(self.cases) & set(WRITES):
                self.ingest(number, rotated(taking_part, number))

    def note(self, number: int, case: str, subject: str, measured) -> None:
        """Keeps and tells one measurement; a failure is a result too."""
        try:
            found = measured()
        except (Failed, OSError) as error:
            found = {"error": str(error)}
        entry = {"round": number, "case": case, "subject": subject, **found}
        self.measured.append(entry)
        say(report.line(entry))

    def fill(self) -> None:
        """Makes the data, unless this place has it."""
        few = self.options.quick
        sizes = {"large": (256 if few else 2048) << 20, "small": 4000 if few else 20_000}
        images, filled = 500 if few else 3000, self.place / "data.json"
        made = {**sizes, "images": images}
        if filled.exists():
            if json.loads(filled.read_text()) == made:
                return
            raise Failed(f"{self.place} has data of another size", "choose another --place")
        say(f"making data: {sizes['small']} small files, {images} images, one large file")
        shutil.rmtree(self.data, ignore_errors=True)
        words = ("--large", sizes["large"], "--small", sizes["small"], "--dirs", "100")
        measure(self.built.load, "make", self.data, *words)
        run(programs.VENV / "python", LOADER, "make", self.data / "images", "--count", images)
        filled.write_text(json.dumps(made))

    def taking_part(self) -> list[str]:
        """Those that take part, installed."""
        wanted = self.options.subjects or list(report.SUBJECTS)
        needed = {
            "juicefs": tools.juicefs,
            "squashfs": lambda: tools.loop_devices(self.place),
            "restic": tools.restic,
            "dvc": tools.dvc,
        }
        reads_only = not (set(self.cases) & set(WRITES))
        for name in [name for name in wanted if name in needed]:
            if reads_only and name in ("restic", "dvc"):
                continue
            try:
                needed[name]()
            except (Failed, OSError) as error:
                say(f"{name} is left out: {error}")
                wanted.remove(name)
        return wanted

    def open(self, names: list[str]) -> None:
        """Takes the data in where it isn't yet."""
        made = {
            "atelier": lambda: subjects.Atelier(
                self.place, self.data, self.built.atelier, self.options.option
            ),
            "juicefs": lambda: subjects.JuiceFS(self.place, self.data),
            "squashfs": lambda: subjects.SquashFS(self.place, self.data),
            "native": lambda: subjects.Subject(self.place, self.data),
        }
        for name in names:
            if name in made:
                subject = made[name]()
                # What an earlier run left mounted has to go first.
                subject.unmount()
                self.subjects[name] = subject
                subject.prepare()

    def read(self, name: str, subject: str, number: int) -> dict:
        case, shown = READS[name], self.subjects[subject]
        if case.cold:
            shown.unmount()
            drop_caches()
            shown.mount()
            drop_caches()
        else:
            shown.mount()
            if case.path not in shown.warmed:
                run("tar", "-C", shown.root, "-cf", "/dev/zero", case.path, timeout=600)
                shown.warmed.add(case.path)
        return self.load(case, shown.root / case.path, number) | {"peak_mb": shown.peak()}

    def load(self, case: Case, path: Path, number: int) -> dict:
        limit = self.options.seconds * case.patience
        command, *words = (word.format(seed=number + 1) for word in case.load)
        if command == "loader":
            program = [programs.VENV / "python", LOADER, "read", path, "--seed", number + 1]
        else:
            program = [self.built.load, command, path, *words]
        program += ["--seconds", limit]
        if case.processes == 1:
            return measure(*program, timeout=limit * 2 + 120)
        return together(
            [*program, "--part", part, "--parts", case.processes] for part in range(case.processes)
        )

    def ingest(self, number: int, names: list[str]) -> None:
        """Takes versions in, one subject after the other for each."""
        made = {
            "atelier": lambda: ingest.Atelier(self.place, self.built.atelier),
            "juicefs": lambda: ingest.JuiceFSCopy(self.place),
            "squashfs": lambda: ingest.SquashFSImage(self.place),
            "restic": lambda: ingest.Restic(self.place),
            "dvc": lambda: ingest.DVC(self.place),
            "native": lambda: ingest.Ingest(self.place),
        }
        taking = [made[name]() for name in names]
        source = ingest.Source(self.data, self.place)
        # The disk that versions take is the same each time.
        counts = "space" in self.cases and number == 0
        versions = 5 if counts else 2 if "second" in self.cases else 1
        try:
            source.begin()
            len_in_mb = source.len() / 1e6
            for subject in taking:
                subject.begin()
            for version in range(1, versions + 1):
                if version > 1:
                    source.change(version)
                case = {1: "ingest", 2: "second"}.get(version)
                for subject in (each for each in taking if version <= each.versions):
                    if case in self.cases:
                        take = lambda: rate(len_in_mb, subject, source.path, version)  # noqa: E731
                        self.note(number, case, subject.name, take)
                    else:
                        subject.ready(source.path)
                        subject.take(source.path, version)
            if counts:
                os.sync()
                one = tools.allocated(source.path)
                for subject in (each for each in taking if each.versions == versions):
                    used = {"rate": tools.allocated(*subject.stored()) / one}
                    self.note(number, "space", subject.name, lambda: used)
        finally:
            for subject in taking:
                subject.end()
            source.end()

    def stop(self) -> None:
        for subject in self.subjects.values():
            subject.unmount()


def rotated(names: list[str], number: int) -> list[str]:
    """Nobody is always the first."""
    first = number % len(names) if names else 0
    return names[first:] + names[:first]


def rate(megabytes: float, subject: ingest.Ingest, source: Path, version: int) -> dict:
    seconds = ingest.timed(subject, source, version)
    return {"seconds": seconds, "rate": megabytes / seconds}


def together(programs_: list[list]) -> dict:
    """What several processes read together, each a part of the files."""
    running = [
        subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)
        for words in programs_
    ]
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise Failed("a process that reads failed")
    found = [json.loads(line) for line in printed]
    seconds = max(each["seconds"] for each in found)
    files = sum(each["files"] for each in found)
    slowest = {name: max(each[name] for each in found) for name in ("p50_ms", "p99_ms")}
    return {"files": files, "seconds": seconds, "rate": files / seconds, **slowest}


def drop_caches() -> None:
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        raise Failed("only root may drop the kernel's caches") from None


def main(words: list[str]) -> None:
    options = arguments(words)
    built = programs.build(options.atelier, options.programs, ("atelier", "load"))
    if options.place:
        place = options.place.resolve()
        place.mkdir(parents=True, exist_ok=True)
    else:
        # On a disk; /tmp may be in memory.
        place = Path(tempfile.mkdtemp(prefix="atelier-bench-", dir="/var/tmp"))
    bench = Bench(options, place, built)
    start = time.monotonic()
    try:
        bench.run()
    finally:
        bench.stop()
        if not options.place:
            shutil.rmtree(place, ignore_errors=True)
        if options.json:
            options.json.write_text(as_json(bench.measured, options))
    if not options.prepare:
        print(report.table(bench.measured))
        say(f"measured for {time.monotonic() - start:.0f} s")
