"""The ways of reading that are measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One way of reading."""

    title: str
    unit: str
    # What is read, below the root of the bucket, and the words for `load`.
    path: str
    load: tuple[str, ...]
    # The same by the SDK alone: what it is called in the report, and the words for `sdk`.
    sdk: tuple[tuple[str, tuple[str, ...]], ...] = ()
    # What to reach: so many times another's rate, where the server is near and where it is far.
    near: tuple[float, str] | None = None
    far: tuple[float, str] | None = None
    # How many times --seconds it may take.
    patience: float = 1
    # Whether it is read once before, and then once more without the kernel's caches.
    again: bool = False


def by_sdk(*words: str, readers: int) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The SDK with as many requests under way as there are readers, and with many."""
    counts = {"sdk": readers, "sdk x32": 32}
    return tuple((name, (*words, "--in-flight", str(count))) for name, count in counts.items())


CASES = {
    "sequential": Case(
        "one file, 1 reader",
        "MB/s",
        "large.bin",
        ("sequential",),
        by_sdk("sequential", "large.bin", readers=4),
        near=(2, "mountpoint"),
        far=(3, "mountpoint"),
        patience=6,
    ),
    "readers": Case(
        "one file, 4 readers",
        "MB/s",
        "large.bin",
        ("sequential", "--readers", "4"),
        by_sdk("sequential", "large.bin", readers=4),
        patience=6,
    ),
    "random": Case(
        "random 128 KiB, 4 readers",
        "reads/s",
        "large.bin",
        ("random", "--readers", "4"),
        near=(5, "mountpoint"),
        far=(5, "mountpoint"),
    ),
    "shuffled": Case(
        "small files shuffled, 8 readers",
        "files/s",
        "small",
        ("epoch", "--readers", "8", "--order", "shuffled"),
        by_sdk("small", readers=8),
        near=(2, "peers"),
        far=(3, "peers"),
        # An epoch: what is fetched ahead in it comes to be read in it.
        patience=6,
    ),
    "ordered": Case(
        "small files in order, 1 reader",
        "files/s",
        "small",
        ("epoch",),
        by_sdk("small", readers=1),
        far=(15, "peers"),
    ),
    "walk": Case(
        "walk with attributes",
        "entries/s",
        "tree",
        ("walk",),
        (("sdk", ("list", "tree/")),),
        near=(3, "mountpoint"),
        far=(3, "mountpoint"),
        patience=2,
    ),
    "reread": Case(
        "one file again, caches dropped",
        "MB/s",
        "large.bin",
        ("sequential",),
        near=(0.9, "native"),
        far=(0.9, "native"),
        patience=6,
        again=True,
    ),
}
