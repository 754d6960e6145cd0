"""How the benches talk, run programs, and end."""

import json
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


class Failed(Exception):
    """What went wrong, and what can be done about it."""

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.hint = hint


def say(*words) -> None:
    print(*words, file=sys.stderr, flush=True)


def run(*command, **options) -> str:
    """What a program prints, or why it failed."""
    command = [str(word) for word in command]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise Failed(f"`{' '.join(command)}` failed with {done.returncode}: {' '.join(last)}")
    return done.stdout


def measure(program: Path, *words, timeout: float = 900, env=None) -> dict:
    """The line of JSON that a load prints."""
    try:
        return json.loads(run(program, *words, timeout=timeout, env=env).splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise Failed(f"{words[0]} didn't end within {timeout:.0f} s") from None
