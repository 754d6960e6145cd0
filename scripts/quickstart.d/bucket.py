"""A SeaweedFS for the quickstart: bucket.py start|fill|stop DIR [SOURCE].

start  starts it on free ports unless it runs, and prints its S3 endpoint
fill   makes the bucket `warehouse` and copies SOURCE into it, once
stop   ends it
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

BUCKET = "warehouse"
DEADLINE = 60  # seconds for everything that is waited for here
PORTS = ("master", "volume", "filer", "s3")


def running(place: Path) -> int | None:
    """The process id, if that process is alive and serves this very place."""
    try:
        pid = int((place / "pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if f"-dir={place}/data".encode() in command else None


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ports(place: Path) -> dict[str, int]:
    """The ports of last time if they are still free: connections name the endpoint."""
    file = place / "ports.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    if not known or not all(map(free, known.values())):
        names = [name + kind for name in PORTS for kind in (".port", ".port.grpc")]
        known = {name: unused_port() for name in names}
        file.write_text(json.dumps(known))
    return known


def credentials(place: Path) -> dict[str, str]:
    """The key of this place; made at the first start, readable by its owner alone."""
    file = place / "identities.json"
    if not file.exists():
        key = {"accessKey": secrets.token_hex(10).upper(), "secretKey": secrets.token_hex(20)}
        user = {"name": "quickstart", "credentials": [key]}
        user["actions"] = ["Admin", "Read", "Write", "List", "Tagging"]
        private(file, json.dumps({"identities": [user]}))
        private(
            place / "credentials",
            f"[default]\naws_access_key_id = {key['accessKey']}\n"
            f"aws_secret_access_key = {key['secretKey']}\n",
        )
    return json.loads(file.read_text())["identities"][0]["credentials"][0]


def private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)


def endpoint(place: Path) -> str:
    return f"http://127.0.0.1:{json.loads((place / 'ports.json').read_text())['s3.port']}"


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True  # a refusal is an answer too
    except OSError:
        return False
    return True


def start(place: Path) -> None:
    process = None if running(place) else launch(place)
    until = time.monotonic() + DEADLINE
    while not answers(endpoint(place)):
        if time.monotonic() > until or (process and process.poll() is not None):
            sys.exit(f"error: SeaweedFS didn't start; its log is {place}/log")
        time.sleep(0.1)
    print(endpoint(place))


def launch(place: Path) -> subprocess.Popen:
    (place / "data").mkdir(parents=True, exist_ok=True)
    credentials(place)
    command = [Path(sys.executable).with_name("weed"), "server", f"-dir={place}/data"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
    command += [f"-s3.config={place}/identities.json"]
    command += ["-master.telemetry=false", "-master.volumeSizeLimitMB=256"]
    command += ["-volume.max=0", "-volume.preStopSeconds=0"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"]
    command += [f"-{name}={port}" for name, port in ports(place).items()]
    with open(place / "log", "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    (place / "pid").write_text(str(process.pid))
    return process


def fill(place: Path, source: Path) -> None:
    filled = place / "filled"
    if filled.exists():
        return
    from pyarrow import fs

    key = credentials(place)
    bucket = fs.S3FileSystem(
        access_key=key["accessKey"],
        secret_key=key["secretKey"],
        endpoint_override=endpoint(place),
        region="us-east-1",
        allow_bucket_creation=True,
    )
    until = time.monotonic() + DEADLINE
    while True:
        try:
            bucket.create_dir(BUCKET)
            fs.copy_files(str(source), BUCKET, fs.LocalFileSystem(), bucket)
            break
        except OSError:
            # Its parts find each other some seconds after it answers.
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
    filled.touch()


def stop(place: Path) -> None:
    # It waits for its own connections to end and would take a minute; what it has said that it
    # stored is in its files.
    until = time.monotonic() + 2
    while pid := running(place):
        os.kill(pid, signal.SIGTERM if time.monotonic() < until else signal.SIGKILL)
        time.sleep(0.1)
    if (place / "ports.json").exists():
        for port in json.loads((place / "ports.json").read_text()).values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["start", place]:
            start(Path(place))
        case ["fill", place, source]:
            fill(Path(place), Path(source))
        case ["stop", place]:
            stop(Path(place))
        case _:
            sys.exit(__doc__)
