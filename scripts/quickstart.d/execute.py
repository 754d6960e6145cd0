"""Executes a notebook where it lies and saves it with its output: execute.py NOTEBOOK."""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config


def main(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as scratch:
        # The kernel's history and sockets belong to this run, not to the user's home.
        os.environ.update(IPYTHONDIR=scratch, JUPYTER_RUNTIME_DIR=scratch)
        # As a Jupyter server tells a kernel which notebook it runs.
        os.environ["JPY_SESSION_NAME"] = str(path.absolute())
        NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=600,
            # Sockets in that folder, where no other user of the machine can listen.
            config=Config(KernelManager={"transport": "ipc", "ip": f"{scratch}/kernel"}),
            resources={"metadata": {"path": str(path.parent)}},
        ).execute()
    draft = path.with_name(f".{path.name}.draft")
    nbformat.write(notebook, draft)
    draft.replace(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    print(f"{len(code)} cells executed")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except CellExecutionError as error:
        sys.exit(str(error))
