"""Reads files as the libraries do that train models; run by `libraries.py` in a process of its own.

    reading.py make DIR LARGE          makes a file for each library, of some LARGE MB each
    reading.py upload DIR BUCKET       puts them into a bucket
    reading.py read LIBRARY PLACE      reads some of one, and tells how long it took and what it found

PLACE is a directory, or s3://BUCKET for the same through fsspec. The endpoint and the key are in the
environment.
"""

import hashlib
import json
import os
import sys
import time
import zipfile
from pathlib import Path

import numpy as np

FILES = {
    "parquet": "table.parquet",
    "duckdb": "table.parquet",
    "safetensors": "model.safetensors",
    "memmap": "array.npy",
    "zip": "files.zip",
    "h5py": "data.h5",
}
COLUMNS = 16
WIDTH = 1000  # numbers in a row of an array
MEMBER = 40_000  # bytes of a file in the archive


def make(place: Path, large: int) -> None:
    """Files of noise, which nothing can make smaller."""
    import h5py
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save_file

    noise = np.random.default_rng(7)
    place.mkdir(parents=True)
    rows = large * 1_000_000 // (8 * COLUMNS)
    columns = {f"c{n}": noise.standard_normal(rows) for n in range(COLUMNS - 1)}
    columns["id"] = np.arange(rows)
    pq.write_table(pa.table(columns), place / FILES["parquet"], row_group_size=rows // 10)
    tensors = {f"w{n}": noise.standard_normal((1000, large * 10)).astype("f4") for n in range(25)}
    save_file(tensors, place / FILES["safetensors"])
    array = noise.standard_normal((large * 125, WIDTH))
    np.save(place / FILES["memmap"], array)
    with h5py.File(place / FILES["h5py"], "w") as file:
        file.create_dataset("x", data=array, chunks=(50, WIDTH))
    with zipfile.ZipFile(place / FILES["zip"], "w") as archive:
        for n in range(large * 25):
            archive.writestr(f"d/{n}.bin", noise.bytes(MEMBER))


def s3():
    import s3fs

    return s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"])


class Mounted:
    """Files of a directory, as each library opens them best."""

    def __init__(self, place: str):
        self.path = lambda library: f"{place}/{FILES[library]}"
        self.open = self.path

    def tensors(self, names):
        from safetensors import safe_open

        with safe_open(self.path("safetensors"), "np") as file:
            return [file.get_tensor(name) for name in names]

    def array(self):
        return np.load(self.path("memmap"), mmap_mode="r")

    def sql(self, query):
        import duckdb

        return duckdb.sql(query.format(self.path("duckdb"))).fetchall()


class Remote:
    """The same through fsspec; what needs a file with a name is fetched as a whole."""

    def __init__(self, place: str):
        self.system = s3()
        self.path = lambda library: f"{place}/{FILES[library]}"

    def open(self, library):
        return self.system.open(self.path(library), "rb")

    def tensors(self, names):
        from safetensors.numpy import load

        all_of_them = load(self.system.cat_file(self.path("safetensors")))
        return [all_of_them[name] for name in names]

    def array(self):
        with self.open("memmap") as file:
            return np.load(file)

    def sql(self, query):
        import duckdb

        duckdb.register_filesystem(self.system)
        return duckdb.sql(query.format(self.path("duckdb"))).fetchall()


def parquet(files):
    """Two columns of some row groups, and one of all."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(files.open("parquet"))
    some = file.read_row_groups([2, 7], columns=["c3", "id"])
    return [some["c3"].to_numpy(), some["id"].to_numpy(), file.read(columns=["c9"])["c9"].to_numpy()]


def duckdb(files):
    """An aggregate over two columns."""
    query = "SELECT count(*), sum(id), max(c5) FROM '{}' WHERE id % 7 = 3"
    return [np.array(files.sql(query)[0], dtype="f8")]


def safetensors(files):
    """Three tensors of 25."""
    return files.tensors(["w3", "w11", "w20"])


def memmap(files):
    """A row here and there."""
    array = files.array()
    return [array[row] for row in np.random.default_rng(3).integers(0, len(array), 200)]


def zip(files):
    """A file here and there."""
    with zipfile.ZipFile(files.open("zip")) as archive:
        names = archive.namelist()
        picked = np.random.default_rng(5).integers(0, len(names), 100)
        return [np.frombuffer(archive.read(names[n]), "u1") for n in picked]


def h5py(files):
    """Some rows of a dataset, and one column of a part of it."""
    import h5py as library

    with library.File(files.open("h5py"), "r") as file:
        data = file["x"]
        picked = np.random.default_rng(9).integers(0, len(data) - 50, 20)
        return [data[n : n + 50] for n in picked] + [data[: len(data) // 10, 7]]


LIBRARIES = {read.__name__: read for read in (parquet, duckdb, safetensors, memmap, zip, h5py)}


def main(command: str, *words: str) -> None:
    if command == "make":
        make(Path(words[0]), int(words[1]))
    elif command == "upload":
        system = s3()
        system.makedirs(words[1], exist_ok=True)
        for file in Path(words[0]).iterdir():
            system.put_file(str(file), f"{words[1]}/{file.name}")
    else:
        library, place = words
        # What a library takes to be imported isn't what is measured.
        for name in ("h5py", "duckdb", "pyarrow.parquet", "safetensors.numpy", "s3fs"):
            __import__(name)
        start = time.monotonic()
        files = Remote(place) if place.startswith("s3://") else Mounted(place)
        found = [np.ascontiguousarray(array) for array in LIBRARIES[library](files)]
        seconds = time.monotonic() - start
        digest = hashlib.blake2b(b"".join(array.tobytes() for array in found)).hexdigest()
        print(json.dumps({"seconds": seconds, "found": digest}), flush=True)
        # DuckDB's threads don't bear that Python ends before them.
        os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
