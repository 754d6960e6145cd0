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


def run(*command, timeout: float | None = None, env: dict | None = None) -> str:
    """What a program prints, or why it failed."""
    command = [str(word) for word in command]
    pipe = subprocess.PIPE
    program = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env)
    try:
        out, err = program.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # Nobody waits for it: who waits for a file system ends only when that does.
        program.kill()
        raise Failed(f"`{' '.join(command)}` didn't end within {timeout:.0f} s") from None
    except BaseException:
        program.kill()
        raise
    if program.returncode:
        last = " ".join((err.strip() or out.strip()).splitlines()[-3:])
        raise Failed(f"`{' '.join(command)}` failed with {program.returncode}: {last}")
    return out


def measure(program: Path, *words, timeout: float = 900, env: dict | None = None) -> dict:
    """The line of JSON that a load prints."""
    return json.loads(run(program, *words, timeout=timeout, env=env).splitlines()[-1])
