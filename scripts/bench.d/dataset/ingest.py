"""What takes a directory in, version after version, into a store that begins empty."""

import os
import random
import shutil
import time
from pathlib import Path

from talk import run

from . import tools
from .subjects import JuiceFS


class Ingest:
    """Copies a directory for each version: what costs nothing but the disk."""

    name = "native"
    # How many versions it takes in; those that write all of it each time take the first alone.
    versions = 5

    def __init__(self, place: Path):
        self.place = place / "ingest" / self.name

    def begin(self) -> None:
        self.end()
        self.place.mkdir(parents=True)

    def ready(self, source: Path) -> None:
        """What has to be done before, and isn't measured."""

    def take(self, source: Path, version: int) -> None:
        run("cp", "-r", source, self.place / str(version))

    def stored(self) -> list[Path]:
        """What holds the versions."""
        return [self.place]

    def end(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)


class Atelier(Ingest):
    name = "atelier"

    def __init__(self, place: Path, program: Path):
        super().__init__(place)
        self.home = tools.Home(program, self.place)

    def begin(self) -> None:
        super().begin()
        self.home.make()

    def take(self, source: Path, version: int) -> None:
        self.home.run("dataset", "create", "taken-in", source)


class JuiceFSCopy(Ingest):
    """Copies a directory into a volume for each version."""

    name = "juicefs"
    versions = 1

    def __init__(self, place: Path):
        super().__init__(place)
        self.volume = JuiceFS(self.place.parent, self.place)

    def begin(self) -> None:
        super().begin()
        self.volume.point.mkdir()
        tools.format_juicefs(self.place)
        self.volume.mount()

    def take(self, source: Path, version: int) -> None:
        run("cp", "-r", source, self.volume.point / str(version), timeout=1800)

    def stored(self) -> list[Path]:
        return [self.place / "blocks", self.place / "meta.db"]

    def end(self) -> None:
        self.volume.unmount()
        super().end()


class SquashFSImage(Ingest):
    """Makes an image for each version."""

    name = "squashfs"
    versions = 1

    def take(self, source: Path, version: int) -> None:
        tools.make_squashfs(source, self.place / str(version))


class Restic(Ingest):
    name = "restic"

    def begin(self) -> None:
        super().begin()
        self.call("init")

    def take(self, source: Path, version: int) -> None:
        self.call("backup", "--quiet", source)

    def call(self, *words) -> None:
        places = ["--repo", self.place / "repository", "--cache-dir", self.place / "cache"]
        run(tools.restic(), *places, *words, env=os.environ | {"RESTIC_PASSWORD": "bench"})

    def stored(self) -> list[Path]:
        return [self.place / "repository"]


class DVC(Ingest):
    """Keeps versions of a directory of its work tree, of which it is not told what changed."""

    name = "dvc"

    def begin(self) -> None:
        super().begin()
        self.call("init", "--no-scm")
        self.call("config", "core.analytics", "false")

    def ready(self, source: Path) -> None:
        self.place.joinpath("data").mkdir(exist_ok=True)
        words = ("--update", "--preserve=timestamps", f"{source}/.", self.place / "data")
        run("cp", "-r", *words)

    def take(self, source: Path, version: int) -> None:
        self.call("add", "--quiet", "data")

    def call(self, *words) -> None:
        run(tools.dvc(), "--cd", self.place, *words, timeout=1800)

    def stored(self) -> list[Path]:
        return [self.place / ".dvc"]


class Source:
    """The directory that is taken in, and what it is in each version."""

    CHANGED = 100  # one in so many files changes from a version to the next

    def __init__(self, data: Path, place: Path):
        self.original, self.path = data / "small", place / "ingest" / "source"

    def begin(self) -> None:
        """Makes the first version."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        run("cp", "-r", "--preserve=timestamps", self.original, self.path)
        self.files = sorted(path for path in self.path.rglob("*") if path.is_file())

    def change(self, version: int) -> None:
        """Makes a version of the one before: other files each time, of the same lengths."""
        bytes_of = random.Random(version)
        for path in self.files[version :: self.CHANGED]:
            path.write_bytes(bytes_of.randbytes(path.stat().st_size))

    def len(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    def end(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def timed(ingest: Ingest, source: Path, version: int) -> float:
    """The seconds until a version is taken in and on the disk."""
    ingest.ready(source)
    os.sync()
    start = time.monotonic()
    ingest.take(source, version)
    os.sync()
    return time.monotonic() - start
