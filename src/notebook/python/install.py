"""Installs the IPython extension into the environment of the Python that runs this.

The argument is JSON: the version, and the text of each module. It becomes a wheel, so that pip knows
of it and can remove it.
"""

import base64
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile

NAME = "atelier_notebook"
METADATA = """Metadata-Version: 2.1
Name: atelier-notebook
Version: {version}
Summary: Checkpoints and secrets of Atelier in notebooks
Requires-Python: >=3.9
Requires-Dist: cloudpickle>=2.2
Requires-Dist: ipython
"""
WHEEL = "Wheel-Version: 1.0\nGenerator: atelier\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def wheel(folder, version, modules):
    about = f"{NAME}-{version}.dist-info"
    files = {f"atelier/{name}": text for name, text in modules.items()}
    files[f"{about}/METADATA"] = METADATA.format(version=version)
    files[f"{about}/WHEEL"] = WHEEL
    record = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record.append(f"{name},sha256={digest.decode()},{len(text.encode())}\n")
    files[f"{about}/RECORD"] = "".join([*record, f"{about}/RECORD,,\n"])
    path = os.path.join(folder, f"{NAME}-{version}-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def installer():
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if shutil.which("uv"):
        return ["uv", "pip", "install", "--quiet", "--python", sys.executable]
    sys.exit(f"neither pip nor uv is there for {sys.executable}")


def main(wanted):
    with tempfile.TemporaryDirectory() as folder:
        path = wheel(folder, wanted["version"], wanted["modules"])
        # The same version again replaces what is there.
        subprocess.run([*installer(), "--force-reinstall", "--no-deps", path], check=True)
        if not importlib.util.find_spec("cloudpickle"):
            subprocess.run([*installer(), "cloudpickle>=2.2"], check=True)
    print(sys.executable)


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
