"""What is measured: each mounts the bucket, with caches that are empty or kept."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import programs
from server import BUCKET, Server
from talk import Failed, run

PATIENCE = 30  # seconds for a mount to come and to go


class Subject:
    """A program that mounts the bucket at `self.root`."""

    name = ""
    # A cache that only pays for reading twice is left out where everything is read once.
    cache_costs = False

    def __init__(self, place: Path, server: Server):
        self.place, self.server = place / self.name, server
        self.point, self.cache = self.place / "mount", self.place / "cache"
        self.process: subprocess.Popen | None = None
        self.point.mkdir(parents=True, exist_ok=True)

    @property
    def root(self) -> Path:
        return self.point

    def command(self, endpoint: str, cached: bool) -> list:
        """What mounts and stays in the foreground."""
        raise NotImplementedError

    def mount(self, endpoint: str, cached: bool = False) -> None:
        """Mounts with empty caches."""
        shutil.rmtree(self.cache, ignore_errors=True)
        self.cache.mkdir()
        self.prepare(endpoint)
        with (self.place / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in self.command(endpoint, cached)],
                env=self.server.environment() | self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + PATIENCE
        while not os.path.ismount(self.point):
            if self.process.poll() is not None or time.monotonic() > until:
                self.unmount()
                raise Failed(f"{self.name} doesn't mount", f"its log is {self.place}/log")
            time.sleep(0.05)

    def prepare(self, endpoint: str) -> None:
        """What has to be there before it mounts."""

    def environment(self) -> dict:
        return {}

    def peak(self) -> float:
        """The most memory that it has had resident, in MB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
        return 0.0

    def unmount(self) -> None:
        """Ends it, by force where it doesn't end by itself; its caches stay."""
        helper = shutil.which("fusermount3") or "fusermount"
        unmount = ["umount"] if os.getuid() == 0 else [helper, "-u"]
        until = time.monotonic() + PATIENCE
        while os.path.ismount(self.point) and time.monotonic() < until:
            if subprocess.run([*unmount, self.point], capture_output=True).returncode:
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

    def __init__(self, place: Path, server: Server, program: Path, options: list[str]):
        super().__init__(place, server)
        self.program, self.options = program, options
        self.home = self.place / "home"

    @property
    def root(self) -> Path:
        return self.point / "s3" / BUCKET

    def environment(self) -> dict:
        return {
            "ATELIER_HOME": str(self.home),
            "ATELIER_USER": "bench",
            "ATELIER_PROJECT": "bench/bench Team/bench",
            "XDG_CACHE_HOME": str(self.place / "xdg"),
            "SOPS_AGE_KEY_FILE": str(self.home / "age-keys.txt"),
        }

    def prepare(self, endpoint: str) -> None:
        """A new home with the connection, since the endpoint is part of it."""
        shutil.rmtree(self.home, ignore_errors=True)
        connect = ["s3", "connect", BUCKET, "--bucket", BUCKET, "--path-style", "--no-test"]
        connect += ["--endpoint", endpoint, "--region", "us-east-1"]
        project = ["project", "create", "bench/bench Team/bench"]
        env = self.server.environment() | self.environment()
        for words in (["init"], ["org", "create", "bench"], project, connect):
            run(self.program, *words, env=env)

    def command(self, endpoint: str, cached: bool) -> list:
        caches = ["--cache-dir", self.cache]
        return [self.program, "mount", "--foreground", *caches, *self.options, self.point]


class Mountpoint(Subject):
    name = "mountpoint"
    cache_costs = True

    def command(self, endpoint: str, cached: bool) -> list:
        options = ["--endpoint-url", endpoint, "--region", "us-east-1", "--force-path-style"]
        options += ["--read-only", "--foreground"]
        if cached:
            options += ["--cache", self.cache]
        return [programs.mountpoint(), BUCKET, self.point, *options]


class S3fs(Subject):
    name = "s3fs"

    def prepare(self, endpoint: str) -> None:
        password = self.place / "password"
        password.touch(mode=0o600)
        password.write_text(":".join(self.server.key()))

    def command(self, endpoint: str, cached: bool) -> list:
        options = f"url={endpoint},use_path_request_style,passwd_file={self.place}/password"
        options += f",ro,use_cache={self.cache}"
        return [programs.s3fs(), BUCKET, self.point, "-f", "-o", options]


class Rclone(Subject):
    name = "rclone"

    def prepare(self, endpoint: str) -> None:
        key_id, secret = self.server.key()
        (self.place / "config").write_text(
            f"[s3]\ntype = s3\nprovider = Other\nforce_path_style = true\nregion = us-east-1\n"
            f"endpoint = {endpoint}\naccess_key_id = {key_id}\nsecret_access_key = {secret}\n"
        )

    def command(self, endpoint: str, cached: bool) -> list:
        options = ["--config", self.place / "config", "--cache-dir", self.cache]
        options += ["--vfs-cache-mode", "full", "--read-only"]
        return [programs.rclone(), "mount", f"s3:{BUCKET}", self.point, *options]
