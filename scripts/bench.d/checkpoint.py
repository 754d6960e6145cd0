"""Checkpoints of a kernel's variables: Atelier, dill, Kishu, and restic on the files.

usage: scripts/bench checkpoint [--atelier FILE] [--place DIR] [--rounds N] [--small] [--json FILE]

  --atelier FILE   the program to measure [default: one that is built in release mode]
  --place DIR      where everything is made [default: a temporary folder]
  --rounds N       how often each is measured; the median counts [default: 3]
  --small          a tenth of the data, to try the bench itself
  --json FILE      write all measurements there, too

Each subject saves, changes something, saves again and restores, in a process of its own:

  touched    an array of 64 MiB of which 20 KB change
  dicts      100,000 small dictionaries, one of which changes
  unchanged  arrays, a table and a model, 194 MB together, of which nothing changes

`held` is how long the notebook waits, `saved` until it is in the store, `bytes` what the second save
adds. restic saves the files that Atelier's kernel code writes.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import programs
from dataset import tools
from talk import REPO, Failed, measure, run, say

CASES = ("touched", "dicts", "unchanged")
LOAD = Path(__file__).with_name("checkpoint_load.py")
COLUMNS = ("held", "saved", "held again", "saved again", "bytes", "restore")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench checkpoint", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage, parser.description = argparse.SUPPRESS, __doc__
    parser.add_argument("--atelier")
    parser.add_argument("--place", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args(arguments)
    built = programs.build(wanted.atelier, None, ("atelier",))
    with tempfile.TemporaryDirectory(dir=wanted.place, prefix="atelier-bench-") as place:
        measured = list(measurements(wanted, built.atelier, Path(place)))
    if wanted.json:
        wanted.json.write_text(json.dumps(measured, indent=2) + "\n")
    print(table(measured))


def measurements(wanted, atelier: Path, place: Path):
    subjects = {"atelier": ours(), "dill": ours(), "kishu": kishu(), "restic": ours()}
    tools.restic()
    for case in CASES:
        for name, python in subjects.items():
            if python is None:
                continue
            for _ in range(wanted.rounds):
                folder = place / name
                folder.mkdir()
                try:
                    entry = one(wanted, atelier, folder, case, name, python)
                except Failed as failed:
                    entry = {"error": str(failed)}
                shutil.rmtree(folder)
                entry |= {"case": case, "subject": name}
                say(json.dumps(entry))
                yield entry


def one(wanted, atelier: Path, folder: Path, case: str, name: str, python: Path) -> dict:
    environment = dict(os.environ)
    if name == "atelier":
        home = tools.Home(atelier, folder / "home")
        home.make()
        environment |= home.environment()
    small = ["--small"] if wanted.small else []
    words = [LOAD, name, case, folder, atelier, *small]
    return measure(python, *words, env=environment | {"IPYTHONDIR": str(folder / "ipython")})


def ours() -> Path:
    """The environment of the tests, with dill."""
    python = programs.VENV / "python"
    try:
        run(python, "-c", "import dill")
    except Failed:
        say("installing dill")
        run(python, "-m", "pip", "install", "--quiet", "dill")
    return python


def kishu() -> Path | None:
    """An environment of its own, with what the cases need."""
    place = REPO / ".tools" / "kishu"
    python = place / "bin" / "python"
    if not python.exists():
        say("installing kishu")
        try:
            run(sys.executable, "-m", "venv", place)
            packages = ("kishu", "numpy", "pandas", "scikit-learn", "ipykernel")
            run(python, "-m", "pip", "install", "--quiet", *packages)
        except Failed as failed:
            shutil.rmtree(place, ignore_errors=True)
            say(f"kishu takes no part: {failed}")
            return None
    return python


def table(measured: list[dict]) -> str:
    rows = [["", "", *COLUMNS], ["---"] * (len(COLUMNS) + 2)]
    for case in CASES:
        for name in dict.fromkeys(entry["subject"] for entry in measured):
            found = [e for e in measured if (e["case"], e["subject"]) == (case, name)]
            good = [entry for entry in found if "error" not in entry]
            rows.append([case, name, *(shown(good, column) for column in COLUMNS)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def shown(entries: list[dict], column: str) -> str:
    values = [entry[column] for entry in entries if entry.get(column) is not None]
    if not values:
        return "" if entries else "failed"
    value = statistics.median(values)
    return f"{value / 1e6:.2f} MB" if column == "bytes" else f"{value * 1000:.1f} ms"
