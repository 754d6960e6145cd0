"""Unpacks many small packages as npm does: into a directory beside, which then gets its name."""

import sys
import tarfile
from pathlib import Path

if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    for archive in sorted(source.iterdir()):
        name = archive.name.removesuffix(".tgz")
        beside = target / f".{name}-unpacked"
        with tarfile.open(archive) as tar:
            tar.extractall(beside, filter="data")
        beside.rename(target / name)
