"""What programs do with project storage, and how fast they were."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import programs
from dataset.tools import from_debian
from talk import Failed, run

from .data import Data


@dataclass(frozen=True)
class Case:
    """One way of using files: `work` is given the data and an empty directory, and tells a rate."""

    title: str
    unit: str
    # What to reach: so many times native.
    goal: float
    work: Callable[[Data, Path], float]
    # What has to be there before, measured by nobody.
    before: Callable[[Data, Path], None] | None = None


def fio(*words: str, unit: str) -> Callable[[Data, Path], float]:
    """A job of fio on one file, told in `bw_bytes` or `iops`."""

    def work(data: Data, place: Path) -> float:
        program = from_debian("fio", "fio")
        size = f"--size={data.large}"
        output = run(
            program, "--name=bench", f"--filename={place}/large", size, "--ioengine=psync",
            "--output-format=json", f"--runtime={data.seconds}", *words,
            # What most programs don't ask for, and what a file system may not pass on.
            "--fadvise_hint=0", "--invalidate=0",
            timeout=data.seconds * 4 + 300,
        )  # fmt: skip
        job = json.loads(output[output.index("{") :])["jobs"][0]
        side = job["read" if "read" in words[0] else "write"]
        return side["bw_bytes"] / 1e6 if unit == "bw" else side["iops"]

    return work


def written(data: Data, place: Path) -> None:
    """A large file, of which the kernel has nothing in its cache."""
    block = os.urandom(1 << 20)
    with (place / "large").open("wb") as file:
        for _ in range(data.large >> 20):
            file.write(block)
        os.fsync(file.fileno())
    cold()


def cold() -> None:
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        raise Failed("only root may drop the kernel's caches") from None


def timed(work: Callable[[], object], number: int) -> float:
    start = time.perf_counter()
    work()
    return number / (time.perf_counter() - start)


def untar(data: Data, place: Path) -> float:
    return timed(lambda: run("tar", "-C", place, "-xf", data.archive), data.files)


def untarred(data: Data, place: Path) -> None:
    untar(data, place)
    # Longer than something counts as just made anywhere.
    time.sleep(3)


def clone(data: Data, place: Path) -> float:
    words = ("git", "clone", "--quiet", f"file://{data.repository}", place / "clone")
    return timed(lambda: run(*words), data.files)


def cloned(data: Data, place: Path) -> None:
    clone(data, place)
    time.sleep(3)


def status(_data: Data, place: Path) -> float:
    """The first run refreshes the index; what is measured are those that follow."""
    words = ("git", "-C", place / "clone", "status", "--porcelain")
    run(*words)
    return timed(lambda: [run(*words) for _ in range(5)], 5)


def pip(data: Data, place: Path) -> float:
    words = (
        programs.VENV / "python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
        "--disable-pip-version-check", "--target", place / "site", data.wheel,
    )  # fmt: skip
    # Each module is compiled, too.
    return timed(lambda: run(*words), data.modules * 2)


def npm(data: Data, place: Path) -> float:
    """As npm does: each package is unpacked beside its place, then renamed."""
    program = Path(__file__).with_name("unpack.py")
    words = (sys.executable, program, data.packages, place / "modules")
    return timed(lambda: run(*words), data.files)


def find(data: Data, place: Path) -> float:
    """Names and attributes of everything, as the kernel has them after the first time."""
    words = ("find", place, "-printf", "%s %p\\n")
    run(*words)
    return timed(lambda: [run(*words) for _ in range(5)], data.files * 5)


def read(data: Data, place: Path) -> float:
    return timed(lambda: run("tar", "-C", place, "-cf", "/dev/zero", "."), data.files)


def remove(data: Data, place: Path) -> float:
    return timed(lambda: run("rm", "-rf", *place.iterdir()), data.files)


def sequential(title: str, *words: str, before=None) -> Case:
    return Case(title, "MB/s", 0.9, fio(*words, "--bs=1M", unit="bw"), before)


def random(title: str, *words: str, before=None) -> Case:
    return Case(title, "I/Os/s", 0.9, fio(*words, "--bs=4k", unit="iops"), before)


def tree(title: str, work, before=None, unit: str = "files/s") -> Case:
    return Case(title, unit, 0.3, work, before)


DURABLE = "--end_fsync=1"
CASES = {
    "read": sequential("sequential read, cold", "--rw=read", before=written),
    "write": sequential("sequential write and fsync", "--rw=write", DURABLE),
    "random-read": random("random read of 4 KiB, cold", "--rw=randread", before=written),
    "random-write": random("random write of 4 KiB and fsync", "--rw=randwrite", DURABLE),
    "clone": tree("git clone", clone),
    "status": tree("git status, warm", status, cloned, "runs/s"),
    "untar": tree("untar", untar),
    "find": tree("find with attributes, warm", find, untarred),
    "small": tree("read small files with tar, warm", read, untarred),
    "pip": tree("pip install", pip),
    "npm": tree("unpack packages as npm does", npm),
    "remove": tree("rm -rf", remove, untarred),
}
