#!/usr/bin/env python3
"""Reads images as a loader of training data does: worker processes, shuffled, decoded.

usage: loader.py make DIR --count N      makes JPEG files of 15 to 65 KB
       loader.py read DIR [--workers N] [--seed S] [--seconds S] [--batch N]

It is shaped as the loader of PyTorch: each worker takes lists of indices from a queue of its own,
two lists ahead, and the batches are taken in order. Prints one line of JSON.
"""

import argparse
import json
import multiprocessing
import random
import time
from pathlib import Path

from PIL import Image

AHEAD = 2  # batches that a worker may be ahead, as PyTorch's `prefetch_factor` has it


def make(place: Path, count: int) -> None:
    """Makes photographs of nothing: coarse shapes and fine grain, the same each time."""
    for number in range(count):
        draw = random.Random(number)
        size = (draw.randrange(256, 512), draw.randrange(256, 512))
        channels = []
        for _ in range(3):
            shapes = Image.frombytes("L", (8, 8), draw.randbytes(64))
            grain = Image.frombytes("L", (64, 64), draw.randbytes(4096))
            shapes, grain = (layer.resize(size, Image.Resampling.BICUBIC) for layer in (shapes, grain))
            channels.append(Image.blend(shapes, grain, 0.25))
        path = place / f"{number % 20:02}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.merge("RGB", channels).save(path, quality=92)


def decode(path: Path) -> int:
    """Opens and decodes an image to what a model takes; how many bytes that are."""
    with Image.open(path) as image:
        return len(image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR).tobytes())


def work(paths: list[Path], asked, answered) -> None:
    """A worker: batches of indices in, how much they were out, until `None` comes."""
    for number, batch in iter(asked.get, None):
        answered.put((number, sum(decode(paths[index]) for index in batch)))


def read(place: Path, workers: int, seed: int, seconds: float, batch: int) -> dict:
    paths = sorted(path for path in place.rglob("*.jpg"))
    order = list(range(len(paths)))
    random.Random(seed).shuffle(order)
    batches = [order[at : at + batch] for at in range(0, len(order), batch)]
    context = multiprocessing.get_context("fork")
    answered, queues = context.Queue(), [context.Queue() for _ in range(workers)]
    processes = [
        context.Process(target=work, args=(paths, queue, answered), daemon=True) for queue in queues
    ]
    for process in processes:
        process.start()
    start = time.monotonic()
    sent = taken = images = size = 0
    while taken < len(batches) and time.monotonic() - start < seconds:
        while sent < min(len(batches), taken + workers * AHEAD):
            queues[sent % workers].put((sent, batches[sent]))
            sent += 1
        number, decoded = answered.get(timeout=60)
        images, size, taken = images + len(batches[number]), size + decoded, taken + 1
    elapsed = time.monotonic() - start
    for process in processes:
        process.terminate()
    return {"images": images, "decoded": size, "seconds": elapsed, "rate": images / elapsed}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("make", "read"))
    parser.add_argument("place", type=Path)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    if options.command == "make":
        make(options.place, options.count)
    else:
        asked = options.workers, options.seed, options.seconds, options.batch
        print(json.dumps(read(options.place, *asked)))
