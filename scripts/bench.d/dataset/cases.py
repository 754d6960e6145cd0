"""The ways of reading and of taking in that are measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One way of reading."""

    title: str
    unit: str
    # What is read, below the root, and the words for `load`; `{seed}` differs from round to round.
    path: str
    load: tuple[str, ...]
    # Whether the caches are empty before, or hold all of it.
    cold: bool = True
    # How many processes share the work.
    processes: int = 1
    # What to reach: so many times native.
    goal: float | None = None
    # How many times --seconds it may take.
    patience: float = 1


def epoch(title: str, *, cold: bool, readers: int = 1, processes: int = 1) -> Case:
    """Every small file once, in shuffled order."""
    words = ("epoch", "--order", "shuffled", "--seed", "{seed}", "--readers", str(readers))
    goal = 1.0 if cold else 0.95
    return Case(title, "files/s", "small", words, cold, processes, goal)


def large(title: str, unit: str, *words: str, cold: bool = True, patience: float = 1) -> Case:
    return Case(title, unit, "large.bin", words, cold, patience=patience)


def random(size: str, block: int, cold: bool) -> Case:
    words = ("random", "--block", str(block), "--seed", "{seed}")
    return large(f"random {size}, {'cold' if cold else 'warm'}", "reads/s", *words, cold=cold)


READS = {
    "walk": Case("walk with attributes, warm", "entries/s", "small", ("walk",), False, goal=0.8),
    "walk-cold": Case("walk with attributes, cold", "entries/s", "small", ("walk",), goal=0.8),
    "cold": epoch("epoch, cold, 1 reader", cold=True),
    "cold-8": epoch("epoch, cold, 8 readers", cold=True, readers=8),
    "cold-2p": epoch("epoch, cold, 2 processes", cold=True, processes=2),
    "warm": epoch("epoch, warm, 1 reader", cold=False),
    "warm-8": epoch("epoch, warm, 8 readers", cold=False, readers=8),
    "warm-2p": epoch("epoch, warm, 2 processes", cold=False, processes=2),
    "sequential": large("one file in order, cold", "MB/s", "sequential", patience=3),
    "sequential-warm": large(
        "one file in order, warm", "MB/s", "sequential", cold=False, patience=3
    ),
    "random-4k": random("4 KiB", 4 << 10, True),
    "random-4k-warm": random("4 KiB", 4 << 10, False),
    "random-128k": random("128 KiB", 128 << 10, True),
    "random-128k-warm": random("128 KiB", 128 << 10, False),
    "loader": Case("image loader, cold", "images/s", "images", ("loader",)),
    "loader-warm": Case("image loader, warm", "images/s", "images", ("loader",), cold=False),
}

# What is written: how fast, and how much of the disk it takes.
WRITES = {
    "ingest": ("take in the small files", "MB/s"),
    "second": ("take in a version with 1 % changed", "MB/s"),
    "space": ("disk for 5 versions, to one copy", "x"),
}

NAMES = (*READS, *WRITES)
