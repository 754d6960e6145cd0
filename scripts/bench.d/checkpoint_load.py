"""One subject saves and restores one namespace: checkpoint_load.py SUBJECT CASE DIR ATELIER [--small].

Prints a line of JSON; times are in seconds.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell

STATE = Path(__file__).resolve().parents[2] / "src/notebook/python/state.py"

MAKE = {
    "touched": "x = rng.random(8 * MIB)",
    "dicts": "many = [{'id': i, 'name': f'name {i}', 'score': i / 7} for i in range(THOUSAND * 100)]",
    "unchanged": (
        "arrays = {f'a{i}': rng.random(2 * MIB) for i in range(10)}\n"
        "table = pd.DataFrame(rng.random((THOUSAND * 100, 20)))\n"
        "model = LinearRegression().fit(table, table[0])\n"
        "rest = rng.random(MIB)"
    ),
}
CHANGE = {
    "touched": "x[5000:7500] = 1.0",
    "dicts": "many[500]['score'] = -1.0",
    "unchanged": "other = 1",
}
CHECK = {
    "touched": "(x[5000], x.shape)",
    "dicts": "(many[500]['score'], len(many))",
    "unchanged": "(float(arrays['a3'].sum()), table.shape, float(rest[0]))",
}


def timed(work, *arguments):
    began = time.perf_counter()
    found = work(*arguments)
    return time.perf_counter() - began, found


def size(*places):
    """The length of all files there, in bytes."""
    files = (file for place in places for file in Path(place).rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files)


class Subject:
    """Something that saves and restores the variables of a shell."""

    restores = True

    def held(self):
        """How long the notebook is held up for a save."""
        return timed(self.hold)[0]

    def save(self):
        """What is still to be done then."""


class Atelier(Subject):
    def __init__(self, shell, folder, program):
        spec = importlib.util.spec_from_file_location("state", STATE)
        self.state = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.state)
        self.shell, self.folder, self.program = shell, folder, program
        self.dir = folder / "state"
        self.dir.mkdir()

    def hold(self):
        self.state.Capture(self.shell, str(self.dir)).run()

    def save(self):
        subprocess.run(
            [self.program, "checkpoint", "create", "--state", self.dir],
            check=True,
            stderr=subprocess.DEVNULL,
        )

    def stored(self):
        return size(self.folder / "home/store")

    def restore(self):
        self.state.Restore(self.shell, str(self.dir)).run()


class Restic(Atelier):
    def __init__(self, shell, folder, program):
        super().__init__(shell, folder, program)
        self.run("init")

    def run(self, *words):
        command = ["restic", "--quiet", "--repo", self.folder / "repository", *words]
        environment = os.environ | {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(self.folder / "cache")}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)

    def save(self):
        self.run("backup", self.dir)

    def stored(self):
        return size(self.folder / "repository")

    def restore(self):
        self.run("restore", "latest", "--target", self.folder / "back")


class Dill(Subject):
    def __init__(self, shell, folder, program):
        import dill

        self.dill, self.shell, self.folder, self.count = dill, shell, folder / "saved", 0
        self.folder.mkdir()

    def own(self):
        hidden = self.shell.user_ns_hidden
        names = self.shell.user_ns
        return {n: v for n, v in names.items() if n not in hidden and not n.startswith("_")}

    def hold(self):
        self.count += 1
        with open(self.folder / str(self.count), "wb") as file:
            self.dill.dump(self.own(), file)

    def stored(self):
        return size(self.folder)

    def restore(self):
        with open(self.folder / str(self.count), "rb") as file:
            self.shell.user_ns.update(self.dill.load(file))


class Kishu(Subject):
    """Saves after each cell, in hooks; it restores only what its hooks saw change."""

    restores = False

    def __init__(self, shell, folder, program):
        os.environ["KISHU_PATH_ROOT"] = str(folder)
        from kishu.jupyterint import KishuForJupyter
        from kishu.notebook_id import NotebookId

        notebook = folder / "bench.ipynb"
        notebook.write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
        self.shell, self.database = shell, folder / "bench.kishudb"
        self.kishu = KishuForJupyter(NotebookId("bench", notebook, "none"), shell)
        # There is no frontend that could save the notebook.
        self.kishu.save_notebook = lambda: None
        self.spent = 0.0
        for name in ("pre_run_cell", "post_run_cell"):
            setattr(self.kishu, name, self.timing(getattr(self.kishu, name)))
        self.kishu.install_kishu_hooks()

    def timing(self, hook):
        def timed_hook(*arguments):
            took, found = timed(hook, *arguments)
            self.spent += took
            return found

        return timed_hook

    def held(self):
        """How long the cells since the last time were held up."""
        spent, self.spent = self.spent, 0.0
        return spent

    def stored(self):
        return self.database.stat().st_size



def main(subject, case, folder, program, small):
    shell = InteractiveShell.instance()
    cell = lambda text: shell.run_cell(text).raise_error()
    subjects = {"atelier": Atelier, "restic": Restic, "dill": Dill, "kishu": Kishu}
    cell("import numpy as np, pandas as pd\nfrom sklearn.linear_model import LinearRegression")
    cell("rng = np.random.default_rng(1)")
    one = subjects[subject](shell, Path(folder), program)
    sizes = {"MIB": "104858" if small else "1048576", "THOUSAND": "100" if small else "1000"}
    text = MAKE[case]
    for name, number in sizes.items():
        text = text.replace(name, number)
    cell(text)
    found = {"held": one.held(), "saved": timed(one.save)[0]}
    before = one.stored()
    cell(CHANGE[case])
    expected = eval(CHECK[case], shell.user_ns)
    found |= {"held again": one.held(), "saved again": timed(one.save)[0]}
    found["bytes"] = one.stored() - before
    if one.restores:
        for name in ("x", "many", "arrays", "table", "rest", "model"):
            shell.user_ns.pop(name, None)
        found["restore"] = timed(one.restore)[0]
    if one.restores and subject != "restic" and eval(CHECK[case], shell.user_ns) != expected:
        raise SystemExit("what came back isn't what was saved")
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:5], "--small" in sys.argv)
