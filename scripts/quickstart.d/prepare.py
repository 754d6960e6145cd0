"""Gathers the quickstart's input from installed packages: prepare.py DIR.

samples/  tables and photographs that scikit-learn ships
sources/  the source trees of pandas and jedi, more than 5,000 files
tables/   the handwritten digits of samples/ as Parquet
"""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet


def package(name: str) -> Path:
    return Path(find_spec(name).origin).parent


def main(place: Path) -> None:
    if place.exists():
        return
    # Under another name until it is complete, so that an interrupted run starts over.
    draft = place.with_name(place.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    samples, tables = draft / "samples", draft / "tables"
    for folder in samples, tables:
        folder.mkdir(parents=True)

    shipped = package("sklearn") / "datasets"
    for pattern in "data/*.csv", "data/*.csv.gz", "images/*.jpg", "images/README.txt":
        for file in shipped.glob(pattern):
            shutil.copy(file, samples)
    compiled = shutil.ignore_patterns("__pycache__", "*.so")
    for name in "pandas", "jedi":
        shutil.copytree(package(name), draft / "sources" / name, ignore=compiled)

    pixels = [f"p{row}{column}" for row in range(8) for column in range(8)]
    digits = pandas.read_csv(
        samples / "digits.csv.gz", header=None, names=[*pixels, "digit"], dtype="uint8"
    )
    table = pyarrow.Table.from_pandas(digits, preserve_index=False)
    pyarrow.parquet.write_table(table, tables / "digits.parquet", row_group_size=500)
    draft.rename(place)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
