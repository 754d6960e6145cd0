"""The data that programs put into project storage, made once, on the disk."""

import io
import os
import random
import tarfile
import zipfile
from pathlib import Path

from talk import run, say

# A module that compiles, as long as most are.
MODULE = "def f{n}(x):\n    return [x + {n}, x * {n}, x - {n}]\n\n\n" * 60


class Data:
    """Archives, a repository, a wheel, and how much there is of each."""

    def __init__(self, place: Path, quick: bool, seconds: float):
        self.seconds = int(seconds)
        self.large = (128 if quick else 1024) << 20
        self.files = 1000 if quick else 10_000
        self.modules = 200 if quick else 1500
        self.archive = place / "files.tar"
        self.repository = place / "repository"
        self.wheel = place / "bench-1.0-py3-none-any.whl"
        self.packages = place / "packages"
        place.mkdir(parents=True)
        say(f"making data: {self.files} small files")
        self._random = random.Random(7)
        tree = place / "tree"
        self._fill(tree)
        run("tar", "-C", tree, "-cf", self.archive, ".")
        self._commit(tree)
        self._pack()
        self._zip()

    def _fill(self, tree: Path) -> None:
        """Files of 1 to 16 KiB in directories of 50."""
        for number in range(self.files):
            folder = tree / f"d{number // 1000}" / f"e{number // 50 % 20}"
            if number % 50 == 0:
                folder.mkdir(parents=True)
            (folder / f"file-{number}.txt").write_bytes(self._bytes())

    def _bytes(self) -> bytes:
        return self._random.randbytes(self._random.randint(512, 8192)).hex().encode()

    def _commit(self, tree: Path) -> None:
        git = ("git", "-C", tree, "-c", "user.name=bench", "-c", "user.email=bench@localhost")
        run(*git, "init", "--quiet")
        run(*git, "add", ".")
        run(*git, "commit", "--quiet", "-m", "files")
        run("git", "clone", "--quiet", "--bare", tree, self.repository)

    def _pack(self) -> None:
        """Packages of ten files each."""
        self.packages.mkdir()
        for number in range(self.files // 10):
            with tarfile.open(self.packages / f"package-{number}.tgz", "w:gz") as archive:
                for name in range(10):
                    entry = tarfile.TarInfo(f"lib/file-{name}.js")
                    content = self._bytes()
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))

    def _zip(self) -> None:
        about = "bench-1.0.dist-info"
        with zipfile.ZipFile(self.wheel, "w", zipfile.ZIP_DEFLATED) as wheel:
            for number in range(self.modules):
                module = MODULE.replace("{n}", str(number))
                wheel.writestr(f"bench/part{number // 50}/module{number}.py", module)
            named = "Metadata-Version: 2.1\nName: bench\nVersion: 1.0\n"
            wheel.writestr(f"{about}/METADATA", named)
            tag = "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            wheel.writestr(f"{about}/WHEEL", tag)
            wheel.writestr(f"{about}/RECORD", "")
        os.sync()
