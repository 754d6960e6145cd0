"""Checkpoints and secrets of Atelier in a notebook: `%load_ext atelier`."""

import argparse
import contextvars
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class
from IPython.display import display

from . import state
from .installed import PROGRAM

#: A value shorter than this is no secret, and would be found everywhere.
SHORTEST = 4
#: What a kernel sends that people see.
SHOWN = {"stream", "display_data", "update_display_data", "execute_result", "error", "execute_reply"}


class Line:
    """A line of text that can become another one where it was shown."""

    def __init__(self, text):
        self.text = text
        self.handle = display(self, display_id=True)

    def __repr__(self):
        return self.text

    def become(self, text):
        self.text = text
        if self.handle:
            self.handle.update(self)


class Failed(Exception):
    """A command of Atelier failed, and said why."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(f"{message}\n{self.format_usage().strip()}")


def words(name, line, *options):
    """What was typed after a magic."""
    parser = Parser(prog=f"%{name}", add_help=False)
    for names, settings in options:
        parser.add_argument(*names, **settings)
    try:
        typed = shlex.split(line)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return parser.parse_args(typed)


def flag(*names):
    return names, {"action": "store_true"}


def command(*arguments):
    program = shutil.which("atelier") or PROGRAM
    return [program, *arguments]


def run(*arguments):
    """Runs a command to its end and returns what it printed."""
    done = subprocess.run(command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return outcome(done.returncode, done.stdout, done.stderr)


def outcome(code, printed, said):
    if code != 0:
        raise Failed(said.strip() or f"atelier ended with exit code {code}")
    return printed, said.strip()


def mounted_at(path):
    """The project that is mounted around a path, and the path below it."""
    found = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            kind, source = after.split()[:2]
            point = unescaped(before.split()[4])
            if kind == "fuse.atelier" and (path == point or path.startswith(point + "/")):
                # Inside a project's mount its datasets and checkpoints have mounts of their own.
                if not found or len(point) < len(found[1]):
                    found = unescaped(source), point
    return found and (found[0], os.path.relpath(path, found[1]))


def unescaped(field):
    for code in ("040", "011", "012", "134"):
        field = field.replace("\\" + code, chr(int(code, 8)))
    return field


@magics_class
class Atelier(Magics):
    """The magics."""

    def __init__(self, shell):
        super().__init__(shell)
        self.saving, self.again, self.trouble, self.auto = None, False, None, False
        self.secrets = set()

    # What is where.

    def kernel(self):
        """A name for this kernel that whoever attaches from outside knows, too."""
        try:
            from ipykernel.connect import get_connection_file

            stem = os.path.basename(get_connection_file()).rpartition(".")[0]
            return stem[len("kernel-") :] if stem.startswith("kernel-") else stem
        except (ImportError, RuntimeError):
            return f"pid-{os.getpid()}"

    def directory(self):
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        path = os.path.join(cache, "atelier", "kernels", self.kernel())
        os.makedirs(path, 0o700, exist_ok=True)
        return path

    def notebook(self):
        """The notebook that runs in this kernel, where the frontend tells it."""
        for path in (os.environ.get("JPY_SESSION_NAME"), self.shell.user_ns.get("__vsc_ipynb_file__")):
            if path and path.endswith(".ipynb") and os.path.exists(path):
                return os.path.abspath(path)
        return None

    def project(self):
        """Options that name the project whose mount the notebook is in."""
        found = mounted_at(os.path.dirname(self.notebook() or "") or os.getcwd())
        return ["--project", found[0]] if found else []

    def execution(self):
        parent = getattr(getattr(self.shell, "kernel", None), "get_parent", dict)()
        cell = parent.get("metadata", {}).get("cellId")
        count = state.cell_number(self.shell)
        return {"count": count, "cell": cell} if cell else {"count": count}

    # Saving.

    def take(self):
        """Writes the variables, and returns the lock that keeps them as they are."""
        directory = self.directory()
        lock = os.open(os.path.join(directory, "lock"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state.Capture(self.shell, directory, self.execution()).run()
        except BaseException:
            os.close(lock)
            raise
        return directory, lock

    def start(self, line, name=None, notebook=None, after=False):
        """Has a checkpoint saved in the background."""
        directory, lock = self.take()
        arguments = ["--json", *self.project(), "checkpoint", "create", "--state", directory]
        notebook = notebook or self.notebook()
        if notebook and os.path.isabs(notebook):
            found = mounted_at(notebook)
            notebook = found and found[1]
        arguments += ["--notebook", notebook] if notebook else []
        arguments += ["--name", name] if name else []
        arguments += ["--after-cell"] if after else []
        try:
            # It goes on when the kernel ends, and has the lock until it ends itself.
            process = subprocess.Popen(
                command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                pass_fds=(lock,),
            )
        finally:
            os.close(lock)
        self.trouble = None
        context = contextvars.copy_context()
        self.saving = threading.Thread(target=context.run, args=(self.finish, process, line))
        self.saving.start()

    def finish(self, process, line):
        printed, said = process.communicate()
        try:
            outcome(process.returncode, printed, said)
            if line:
                line.become(said.strip())
        except Failed as failed:
            self.trouble = str(failed)
            if line:
                line.become(self.trouble)
        self.saving = None
        if self.again and self.auto:
            # Back on the thread that runs cells, when it has nothing else to do.
            self.shell.kernel.io_loop.add_callback(self.after_cell)

    def wait(self):
        saving = self.saving
        if saving:
            saving.join()

    def after_cell(self, result=None):
        if self.trouble:
            print(f"the last checkpoint failed: {self.trouble}", file=sys.stderr)
            self.trouble = None
        self.again = bool(self.saving)
        if not self.saving and self.auto:
            try:
                self.start(None, after=True)
            except Exception as error:
                print(f"no checkpoint was saved: {state.reason(error)}", file=sys.stderr)

    @line_magic
    def checkpoint(self, line):
        """Save this notebook, its variables and the project's files.

        %checkpoint [NAME] [--wait] [--notebook PATH]
            Goes on in the background, once the variables are written; NAME pins the checkpoint.
        %checkpoint --auto [off]
            Saves after each cell, also one that failed. What isn't done when the next cell ends is
            done after it.
        """
        wanted = words(
            "checkpoint",
            line,
            (("name",), {"nargs": "?"}),
            flag("--wait"),
            flag("--auto"),
            (("--notebook",), {"metavar": "PATH"}),
        )
        if wanted.auto:
            return self.set_auto(wanted.name != "off")
        self.wait()
        self.start(Line("saving a checkpoint…"), wanted.name, wanted.notebook)
        if wanted.wait:
            self.wait()
            if self.trouble:
                raise UsageError("no checkpoint was saved")

    def set_auto(self, on):
        if on != self.auto:
            events = self.shell.events
            (events.register if on else events.unregister)("post_run_cell", self.after_cell)
            self.auto = on
        print("a checkpoint is saved after each cell" if on else "cells are not saved any more")

    @line_magic
    def restore(self, line):
        """Put the variables of a checkpoint back.

        %restore [ID] [--all | --files] [--trust]
            ID is a number, a pinned name or `latest`, which is meant if nothing is said. --files puts
            the project's files back instead, --all both; then load the notebook again, for it is one
            of the files. --trust loads what another user saved.
        """
        wanted = words(
            "restore",
            line,
            (("id",), {"nargs": "?", "default": "latest"}),
            flag("--all"),
            flag("--files"),
            flag("--trust"),
        )
        self.wait()
        directory, lock = self.take()
        try:
            parts = ["--files"] if wanted.files else [] if wanted.all else ["--variables"]
            arguments = [*self.project(), "checkpoint", "apply", wanted.id, "--state", directory]
            _, said = run(*arguments, *parts, *(["--trust"] if wanted.trust else []))
            print(said)
            if not wanted.files:
                tell(state.Restore(self.shell, directory).run())
        except Failed as failed:
            raise UsageError(str(failed)) from None
        finally:
            os.close(lock)

    @line_magic
    def checkpoints(self, line):
        """List the project's checkpoints."""
        words("checkpoints", line)
        self.wait()
        try:
            print(run(*self.project(), "checkpoint", "list")[0], end="")
        except Failed as failed:
            raise UsageError(str(failed)) from None

    @line_magic
    def state_exclude(self, line):
        """Leave variables out of checkpoints.

        %state_exclude [NAME…]           leaves these out, too, and lists all that are
        %state_exclude --remove NAME…    saves these again
        """
        names = (("names",), {"nargs": "*"})
        wanted = words("state_exclude", line, names, flag("--remove"))
        excluded = state.excluded(self.shell)
        (excluded.difference_update if wanted.remove else excluded.update)(wanted.names)
        print("left out of checkpoints:", ", ".join(sorted(excluded)) or "nothing")

    # Secrets.

    @line_magic
    def secrets(self, line):
        """Put secrets into the environment of this kernel.

        %secrets [NAME] [--no-mask]
            NAME is an environment file, `project` if nothing is said. Only names are printed. In what
            cells show from now on, the values are replaced by ***, unless --no-mask says otherwise.
        """
        wanted = words("secrets", line, (("name",), {"nargs": "?"}), flag("--no-mask"))
        named = ["--env", wanted.name] if wanted.name else []
        try:
            values = json.loads(run(*self.project(), "env", "--format", "json", *named)[0])
        except Failed as failed:
            raise UsageError(str(failed)) from None
        if not wanted.no_mask:
            self.mask(values.values())
        os.environ.update(values)
        # A variable that is one of them stays out of checkpoints.
        known = getattr(self.shell, "atelier_secrets", set())
        self.shell.atelier_secrets = known | set(values.values())
        print("in the environment:", ", ".join(sorted(values)) or "nothing")

    def mask(self, values):
        session = getattr(getattr(self.shell, "kernel", None), "session", None)
        if session is None:
            print("outside a notebook, values that cells print are shown", file=sys.stderr)
            return
        if not self.secrets:
            plain = session.send

            def send(stream, message, content=None, *rest, **options):
                kind = message if isinstance(message, str) else message["header"]["msg_type"]
                if kind in SHOWN:
                    if isinstance(message, str):
                        content = self.masked(content)
                    else:
                        message = {**message, "content": self.masked(message["content"])}
                return plain(stream, message, content, *rest, **options)

            session.send = send
        for value in values:
            # As it is, and as it is written in quotes.
            self.secrets.update(text for text in (value, repr(value)[1:-1]) if len(text) >= SHORTEST)

    def masked(self, shown):
        if isinstance(shown, str):
            for secret in sorted(self.secrets, key=len, reverse=True):
                shown = shown.replace(secret, "***")
            return shown
        if isinstance(shown, dict):
            return {key: self.masked(value) for key, value in shown.items()}
        if isinstance(shown, (list, tuple)):
            return [self.masked(value) for value in shown]
        return shown


def tell(done):
    """Says what a restore did."""
    print(f"{done['restored']} variables are back")
    if done["left_out"]:
        print("the checkpoint doesn't have:", ", ".join(sorted(done["left_out"])))
    for name, why in sorted(done["failed"].items()):
        print(f"not restored: {name}: {why}", file=sys.stderr)


def load_ipython_extension(shell):
    """Called by `%load_ext atelier`."""
    shell.register_magics(Atelier(shell))
