"""What is read: each shows the data at `self.root`, with caches that are empty or kept."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from talk import Failed, run, say

from . import tools

PATIENCE = 30  # seconds for a mount to come and to go


class Subject:
    """Something that shows the data; this one is the file system that it was made on."""

    name = "native"

    def __init__(self, place: Path, data: Path):
        self.place, self.data = place / self.name, data
        self.point = self.place / "mount"
        self.process: subprocess.Popen | None = None
        # The cases whose files are in the kernel's cache.
        self.warmed: set[str] = set()

    @property
    def root(self) -> Path:
        return self.data

    def prepare(self) -> None:
        """Takes the data in, unless this place has it."""
        filled = self.place / "filled"
        if not filled.exists():
            shutil.rmtree(self.place, ignore_errors=True)
            self.point.mkdir(parents=True)
            say(f"{self.name} takes the data in")
            self.fill()
            filled.touch()

    def fill(self) -> None:
        """It is there already."""

    def command(self) -> list:
        """What mounts and stays in the foreground."""
        return []

    def environment(self) -> dict:
        return {}

    def mount(self) -> None:
        if not self.command() or os.path.ismount(self.point):
            return
        with (self.place / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in self.command()],
                env=os.environ | self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + PATIENCE
        while not (os.path.ismount(self.point) and self.root.is_dir()):
            if self.process.poll() is not None or time.monotonic() > until:
                self.unmount()
                raise Failed(f"{self.name} doesn't mount", f"its log is {self.place}/log")
            time.sleep(0.05)

    def peak(self) -> float:
        """The most memory that its processes have had resident, in MB."""
        pids, peak = [self.process.pid] if self.process else [], 0.0
        for pid in pids:
            process = Path(f"/proc/{pid}")
            try:
                for children in process.glob("task/*/children"):
                    pids += map(int, children.read_text().split())
                status = (process / "status").read_text().splitlines()
            except FileNotFoundError:
                continue
            peak += sum(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
        return peak * 1024 / 1e6

    def unmount(self) -> None:
        """Ends it, by force where it doesn't end by itself."""
        self.warmed.clear()
        if self.process:
            self.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + PATIENCE
        while os.path.ismount(self.point) and time.monotonic() < until:
            if subprocess.run(["umount", self.point], capture_output=True).returncode:
                time.sleep(0.1)
        if os.path.ismount(self.point):
            subprocess.run(["umount", "-l", self.point], capture_output=True)
        if self.process:
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None


class Atelier(Subject):
    name = "atelier"

    def __init__(self, place: Path, data: Path, program: Path, options: list[str]):
        super().__init__(place, data)
        self.home = tools.Home(program, self.place / "home")
        self.options = options

    @property
    def root(self) -> Path:
        return self.point / "datasets" / "bench"

    def environment(self) -> dict:
        return self.home.environment()

    def fill(self) -> None:
        self.home.make()
        self.home.run("dataset", "create", "bench", self.data)

    def command(self) -> list:
        cache = ["--cache-dir", self.place / "cache"]
        return [self.home.program, "mount", "--foreground", *cache, *self.options, self.point]


class JuiceFS(Subject):
    """A volume whose metadata is in SQLite and whose blocks are local files."""

    name = "juicefs"

    @property
    def root(self) -> Path:
        return self.point

    def fill(self) -> None:
        tools.format_juicefs(self.place)
        self.mount()
        try:
            run("cp", "-r", "--preserve=timestamps", f"{self.data}/.", self.point, timeout=1800)
        finally:
            self.unmount()

    def command(self) -> list:
        caches = ["--cache-dir", self.place / "cache"]
        meta = tools.juicefs_meta(self.place)
        return [tools.juicefs(), "mount", "--no-usage-report", *caches, meta, self.point]


class SquashFS(Subject):
    """An image that the kernel reads by itself."""

    name = "squashfs"

    @property
    def root(self) -> Path:
        return self.point

    def fill(self) -> None:
        tools.make_squashfs(self.data, self.place / "image")

    def mount(self) -> None:
        if not os.path.ismount(self.point):
            run("mount", "-o", "loop,ro", "-t", "squashfs", self.place / "image", self.point)
