"""A SeaweedFS with the data, the data as local files, and the proxy before it."""

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

from programs import VENV, Built
from talk import REPO, Failed, measure, run, say

BUCKET = "bench"
SEAWEED = REPO / "scripts" / "quickstart.d" / "bucket.py"


class Server:
    """The server of a place, which outlives this process if it shall be kept."""

    def __init__(self, place: Path, built: Built):
        self.place, self.load, self.sdk = place, built.load, built.sdk
        self.data = place / "native"
        self.endpoint = ""

    def start(self) -> None:
        """Starts it where it was left, and doesn't start it twice."""
        if not (VENV / "weed").exists():
            say("getting SeaweedFS")
            run(REPO / "scripts" / "setup")
        self.place.mkdir(parents=True, exist_ok=True)
        started = run(VENV / "python", SEAWEED, "start", self.place / "server")
        self.endpoint = started.split()[-1]

    def stop(self) -> None:
        run(VENV / "python", SEAWEED, "stop", self.place / "server")

    def fill(self, large: int, small: int, tree: int) -> None:
        """Makes and uploads the data, unless this place has it; its size is as it was made."""
        filled = self.place / "filled.json"
        if filled.exists():
            return
        say(f"making data: {large >> 20} MiB in one file, {small} small files, {tree} to walk")
        shutil.rmtree(self.data, ignore_errors=True)
        sizes = ("--large", large, "--small", small, "--tree", tree)
        made = measure(self.load, "make", self.data, *sizes)
        say("uploading it")
        words = (*self.bucket(self.endpoint), "upload", self.data)
        done = measure(self.sdk, *words, env=self.environment())
        say(f"{done['objects']} objects in {done['seconds']:.0f} s")
        filled.write_text(json.dumps(made))

    def bucket(self, endpoint: str) -> tuple[str, ...]:
        """The words that name the bucket to `sdk`."""
        return ("--endpoint", endpoint, "--bucket", BUCKET)

    def key(self) -> tuple[str, str]:
        """Its access key: the id and the secret."""
        identities = json.loads((self.place / "server" / "identities.json").read_text())
        key = identities["identities"][0]["credentials"][0]
        return key["accessKey"], key["secretKey"]

    def environment(self) -> dict:
        """An environment that leads the AWS tools here, and nowhere else."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "ATELIER_", "RCLONE_", "http", "HTTP"))
        }
        key_id, secret = self.key()
        return clean | {
            "AWS_ACCESS_KEY_ID": key_id,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def warm(self) -> None:
        """Brings its files into the page cache: the disk of the server isn't what is measured."""
        buffer = bytearray(1 << 20)
        for volume in (self.place / "server" / "data").rglob("*.dat"):
            with volume.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


class Proxy:
    """A way to the server on which a round trip takes a time, and that counts."""

    def __init__(self, server: Server, latency: float):
        to = server.endpoint.removeprefix("http://")
        command = [server.load, "proxy", "--to", to, "--latency", str(latency)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise Failed("the proxy doesn't start")
        ports = json.loads(line)
        self.endpoint, self.control = f"http://127.0.0.1:{ports['port']}", ports["control"]

    def received(self) -> int:
        """The bytes that have come from the server."""
        with socket.create_connection(("127.0.0.1", self.control)) as control:
            return json.loads(control.makefile().readline())["received"]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
