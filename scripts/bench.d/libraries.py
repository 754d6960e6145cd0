"""scripts/bench libraries: what Python libraries read of a bucket, through a mount and by fsspec."""

import argparse
import itertools
import json
import shutil
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import programs
from report import aligned
from server import BUCKET, Proxy, Server
from subjects import Atelier
from talk import REPO, Failed, measure, run, say

PYTHON = REPO / ".venv-s3" / "bin" / "python"
READING = Path(__file__).with_name("reading.py")
LIBRARIES = ("parquet", "duckdb", "safetensors", "memmap", "zip", "h5py")
SUBJECTS = ("atelier", "fsspec")


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench libraries",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Reads parts of files of a bucket of a SeaweedFS of its own with Python libraries:\n"
        "through Atelier's mount, and with s3fs of fsspec; each time with empty caches. Tells the\n"
        "time, the bytes that came from the server, and whether the answers are those of a disk.",
        epilog=f"libraries: {', '.join(LIBRARIES)}",
    )

    def names(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[float]:
        return [float(word) for word in names(text)]

    add = parser.add_argument
    add("--quick", action="store_true", help="less data, one round")
    add("--only", type=names, default=LIBRARIES, metavar="LIBRARY,…", help="these libraries")
    add(
        "--latency",
        type=numbers,
        default=[0.0, 20.0],
        metavar="MS,…",
        help="what a round trip to the server costs [default: 0,20]",
    )
    add("--rounds", type=int, metavar="N", help="how often each is read [default: 3; quick: 1]")
    add("--json", type=Path, metavar="FILE", help="write every measurement there")
    add("--atelier", metavar="FILE", help="measure this program, and don't build one")
    add("--programs", metavar="DIR", help="the built program `load` is there")
    add("--option", action="append", default=[], help="another option for `atelier mount`")
    options = parser.parse_args(words)
    if unknown := set(options.only) - set(LIBRARIES):
        parser.error(f"--only: {', '.join(unknown)} isn't one of {', '.join(LIBRARIES)}")
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


class Bench:
    """One run."""

    def __init__(self, options: argparse.Namespace, place: Path, built: programs.Built):
        self.options, self.place, self.built = options, place, built
        self.server = Server(place, built)
        self.data = place / "data"
        self.measured: list[dict] = []

    def run(self) -> None:
        if not PYTHON.exists():
            raise Failed(f"{PYTHON} isn't there", "scripts/setup makes it")
        self.server.start()
        say("making data")
        run(PYTHON, READING, "make", self.data, 32 if self.options.quick else 128)
        self.python(self.server.endpoint, "upload", self.data, BUCKET)
        expected = {name: self.read(name, self.data)["found"] for name in self.options.only}
        rounds = range(self.options.rounds)
        for number, latency in itertools.product(rounds, self.options.latency):
            proxy = Proxy(self.server, latency)
            try:
                for name, subject in itertools.product(self.options.only, SUBJECTS):
                    found = self.one(name, subject, proxy)
                    found["right"] = found.pop("found") == expected[name]
                    entry = {"round": number, "latency": latency, "library": name, **found}
                    self.measured.append(entry | {"subject": subject})
                    say(line(self.measured[-1]))
            finally:
                proxy.stop()

    def one(self, library: str, subject: str, proxy: Proxy) -> dict:
        """Reads once with empty caches, and counts what came from the server."""
        if subject == "fsspec":
            before = proxy.received()
            found = self.read(library, f"s3://{BUCKET}", proxy.endpoint)
            return {**found, "fetched": proxy.received() - before}
        atelier = Atelier(self.place, self.server, self.built.atelier, self.options.option)
        try:
            atelier.mount(proxy.endpoint)
            before = proxy.received()
            found = self.read(library, atelier.root)
            return {**found, "fetched": proxy.received() - before}
        finally:
            atelier.unmount()

    def read(self, library: str, place: str | Path, endpoint: str = "") -> dict:
        return self.python(endpoint, "read", library, place)

    def python(self, endpoint: str, *words) -> dict:
        env = self.server.environment() | {"AWS_ENDPOINT_URL": endpoint}
        if words[0] == "read":
            return measure(PYTHON, READING, *words, env=env)
        run(PYTHON, READING, *words, env=env)
        return {}


def line(entry: dict) -> str:
    """One measurement."""
    return (
        f"{entry['latency']:>4.0f} ms  {entry['library']:<12} {entry['subject']:<8}"
        f" {entry['seconds']:>7.2f} s {entry['fetched'] / 1e6:>7.1f} MB"
        f"  {'right' if entry['right'] else 'WRONG'}"
    )


def table(measured: list[dict]) -> str:
    """Medians as a Markdown table."""
    values = defaultdict(list)
    for entry in measured:
        values[entry["latency"], entry["library"], entry["subject"]].append(entry)
    titles = ("mount, s", "fsspec, s", "times as fast", "mount, MB", "fsspec, MB", "answers")
    rows = [["", *titles]]
    for latency, library in dict.fromkeys((latency, name) for latency, name, _ in values):
        both = [values[latency, library, subject] for subject in SUBJECTS]
        seconds, fetched = (
            [statistics.median(entry[key] for entry in entries) for entries in both]
            for key in ("seconds", "fetched")
        )
        right = all(entry["right"] for entries in both for entry in entries)
        rows.append(
            [f"{library}, {latency:.0f} ms"]
            + [f"{value:.2f}" for value in seconds]
            + [f"{seconds[1] / seconds[0]:.1f}"]
            + [f"{value / 1e6:.1f}" for value in fetched]
            + ["right" if right else "WRONG"]
        )
    return aligned(rows)


def main(words: list[str]) -> None:
    options = arguments(words)
    built = programs.build(options.atelier, options.programs, ("atelier", "load"))
    # On a disk; /tmp may be in memory.
    place = Path(tempfile.mkdtemp(prefix="atelier-bench-", dir="/var/tmp"))
    bench = Bench(options, place, built)
    try:
        bench.run()
    finally:
        bench.server.stop()
        shutil.rmtree(place, ignore_errors=True)
        if options.json:
            options.json.write_text(json.dumps(bench.measured, indent=1))
    print(table(bench.measured))
