"""The variables of a kernel, into files and back.

This text runs inside the kernel: `atelier checkpoint --kernel` sends it there, the IPython extension
imports it. It needs Python 3.9, IPython and cloudpickle, and leaves no name behind.

A directory that only its user can enter holds the state:

- `variables/NAME.pkl`: a variable, as a plain pickle of protocol 5 that `pickle.load` reads.
- `shared/NAME.pkl`: variables that share objects, as one pickle of a dictionary of them, named after
  the first; from it they come back still sharing.
- `state.json`: what there is, of which type and size, and what was left out and why.

A pickle holds the memory of each array from 64 KiB on in one piece that begins on a page (4096 bytes):
before it an unused byte string fills the gap, which a reader pushes and pops. So equal arrays give
equal pages, whatever comes before them, and `restore` maps them instead of reading them: it hands the
unpickler the stream without these pieces, which `buffers` in `state.json` lists, and the pieces as
private mappings. A variable that stayed the same is compared with its file and not written again.
"""

import gc
import importlib
import io
import json
import mmap
import os
import pickle
import re
import struct
import sys
import time
import types

PAGE = 4096
#: How much is compared with what a file holds at a time, in bytes.
BLOCK = 256 << 10
#: The longest reason that is told, in characters.
REASON = 200

#: What IPython and the frontends keep among the variables.
HIDDEN = re.compile(r"_+|_i+|_i?\d+|_[ido]h|_exit_code|__\w+__|In|Out|get_ipython|exit|quit")

CODE = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
CONSTANTS = (int, float, complex, str, bytes, type(None))
CONTAINERS = (str, bytes, bytearray, list, tuple, dict, set, frozenset)


class LeftOut(Exception):
    """A variable can't be pickled at all."""


class Stream:
    """What a pickler writes, kept as references until it is compared with a file."""

    def __init__(self):
        self.parts, self.len, self.buffers = [], 0, []

    def write(self, data):
        if type(data) is pickle.PickleBuffer:
            self._write_buffer(data)
        else:
            # A long bytes object is never changed, a bytearray could be.
            self._append(data if type(data) is bytes else bytes(data))

    def _write_buffer(self, buffer):
        view = buffer.raw()
        header = header_len(view.nbytes, view.readonly)
        # The pickler wrote the header last, after the end of a frame.
        last = self.parts.pop()
        self.len -= len(last)
        self._append(last[:-header])
        gap = -(self.len + header) % PAGE
        if gap:
            # The filler takes six bytes at least: BINBYTES, its length, POP.
            gap += PAGE if gap < 6 else 0
            self._append(b"B" + struct.pack("<I", gap - 6) + bytes(gap - 6) + b"0")
        self._append(last[-header:])
        self.buffers.append([self.len, view.nbytes, view.readonly])
        self._append(view)

    def _append(self, data):
        if not len(data):
            return
        self.parts.append(data)
        self.len += len(data)

    def settle(self, path):
        """Makes the file hold the stream, writing only what differs."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(path, flags, 0o644)
        except PermissionError:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            present = os.fstat(fd)
            # A file that was mapped by `restore` is read-only and must never change.
            if present.st_mode & 0o200:
                self._update(fd, present.st_size)
                return
            if self._is_in(fd, present.st_size):
                return
        finally:
            os.close(fd)
        draft = path + ".draft"
        fd = os.open(draft, flags | os.O_TRUNC, 0o644)
        try:
            self._update(fd, 0)
        finally:
            os.close(fd)
        os.replace(draft, path)

    def _update(self, fd, present):
        for offset, block, differs in self._blocks(fd, present):
            if differs:
                while block:
                    written = os.pwrite(fd, block, offset)
                    block, offset = block[written:], offset + written
        if present > self.len:
            os.ftruncate(fd, self.len)

    def _is_in(self, fd, present):
        return present == self.len and not any(d for _, _, d in self._blocks(fd, present))

    def _blocks(self, fd, present):
        """The stream in blocks, and whether the file has something else there."""
        scratch, offset = bytearray(BLOCK), 0
        window = memoryview(scratch)
        for part in self.parts:
            view = memoryview(part)
            for at in range(0, len(view), BLOCK):
                block = view[at : at + BLOCK]
                here, size = offset + at, len(block)
                if here + size > present:
                    yield here, block, True
                    continue
                read = os.preadv(fd, [window[:size]], here)
                same = scratch == block if size == BLOCK else scratch[:size] == block
                yield here, block, read != size or not same
            offset += len(view)


def header_len(size, readonly):
    """How many bytes the pickler writes before a buffer: BINBYTES, or BINBYTES8 and BYTEARRAY8."""
    return 5 if readonly and size <= 0xFFFFFFFF else 9


def pickler_class():
    """Made when it is needed: only who saves needs cloudpickle."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):
        """Puts a tombstone in place of what can't be pickled."""

        def __init__(self, stream, namespace):
            super().__init__(stream, protocol=5)
            self.namespace, self.left_out, self.root = namespace, [], None
            self.cells = {}

        def reducer_override(self, obj):
            kind = type(obj)
            try:
                if issubclass(kind, type) or kind is types.FunctionType:
                    return super().reducer_override(obj)
                if kind is types.BuiltinFunctionType and type(obj.__self__) is types.ModuleType:
                    return NotImplemented
                if kind is types.ModuleType and obj.__name__ in sys.modules:
                    return importlib.import_module, (obj.__name__,)
                if isinstance(obj, io.IOBase) and not isinstance(obj, (io.BytesIO, io.StringIO)):
                    raise TypeError(f"cannot pickle '{kind.__name__}': it is a file")
                reduce = self.dispatch_table.get(kind)
                return reduce(obj) if reduce else obj.__reduce_ex__(5)
            except Exception as error:
                if obj is self.root:
                    raise LeftOut(reason(error)) from None
                self.left_out.append(f"{type_name(obj)}: {reason(error)}")
                stone = {"left_out": type_name(obj), "reason": reason(error)}
                return types.SimpleNamespace, (), stone

        def _function_getnewargs(self, func):
            # Functions that share a variable of the function around them share it again.
            *made, closure = super()._function_getnewargs(func)
            if closure:
                own = map(id, func.__closure__)
                closure = tuple(self.cells.setdefault(key, new) for key, new in zip(own, closure))
            return (*made, closure)

        def _dynamic_function_reduce(self, func):
            make, arguments, (attributes, slots), *rest = super()._dynamic_function_reduce(func)
            if func.__globals__ is self.namespace:
                # A function carries the code and the constants that it uses. Its data is among the
                # variables, and would be in the file of every function that reads it.
                used = slots["__globals__"].items()
                slots["__globals__"] = {name: value for name, value in used if is_code(value)}
            # A copy of the attributes: the dictionary itself would seem to be shared by whoever
            # carries the function.
            return make, arguments, (dict(attributes), slots), *rest

    return Pickler


def is_code(value):
    return isinstance(value, CODE) or (
        isinstance(value, CONSTANTS) and sys.getsizeof(value) <= PAGE
    )


def has_identity(obj):
    """Whether it matters that two variables have this object in common.

    What is hashed by value, such as text, tuples and dtypes, can be there twice; code, too.
    """
    kind = type(obj)
    if issubclass(kind, CODE) or kind is pickle.PickleBuffer:
        return False
    return kind.__hash__ is None or kind.__hash__ is object.__hash__


def reason(error):
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:REASON]


def type_name(value):
    kind = type(value)
    module = kind.__module__
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"


def shape_of(value):
    """The lengths of an array or a table along its axes, or of a container."""
    try:
        shape = (len(value),) if isinstance(value, CONTAINERS) else getattr(value, "shape", None)
    except Exception:
        return None
    # Where it would have to be computed first, as it is for lazy tables, it stays unknown.
    known = isinstance(shape, tuple) and all(isinstance(n, int) for n in shape)
    return list(shape) if known else None


def excluded(shell):
    """Names that the user doesn't want saved; kept with the shell, not among the variables."""
    if not hasattr(shell, "atelier_excluded"):
        shell.atelier_excluded = set()
    return shell.atelier_excluded


def variables_of(shell):
    """The user's own variables by name."""
    hidden, nothing = shell.user_ns_hidden, object()
    return {
        name: value
        for name, value in list(shell.user_ns.items())
        if isinstance(name, str)
        and not HIDDEN.fullmatch(name)
        and hidden.get(name, nothing) is not value
    }


def cell_number(shell):
    """The number of the cell that runs, or else of the last one that ran.

    Of the two, `execution_count` tells one in older versions of IPython and another in newer ones.
    """
    return max(0, len(shell.history_manager.input_hist_parsed) - 1)


class Capture:
    """Writes the variables of a shell into a directory."""

    def __init__(self, shell, directory, execution=None):
        self.shell, self.directory, self.pickler = shell, directory, pickler_class()
        self.execution = execution or {"count": cell_number(shell)}
        self.found, self.files = {}, {}
        self.memos, self.owners, self.group = [], {}, {}

    def run(self):
        # Nothing here is garbage before the end, and looking for it takes longer than all the rest.
        collects = gc.isenabled()
        gc.disable()
        try:
            return self.take()
        finally:
            if collects:
                gc.enable()

    def take(self):
        state = os.path.join(self.directory, "state.json")
        for folder in ("variables", "shared"):
            os.makedirs(os.path.join(self.directory, folder), exist_ok=True)
        # Whatever ends this early leaves no state rather than a wrong one.
        remove(state)
        values = variables_of(self.shell)
        for name, value in values.items():
            self.found[name] = {"name": name, "type": type_name(value), **self.keep(name, value)}
        self.keep_shared(values)
        self.sweep()
        found = {
            "format": 1,
            "python": sys.version.split()[0],
            "pid": os.getpid(),
            "execution": self.execution,
            "excluded": sorted(excluded(self.shell)),
            "variables": list(self.found.values()),
            "files": self.files,
        }
        with open(state + ".draft", "w", encoding="utf-8") as file:
            json.dump(found, file)
        os.replace(state + ".draft", state)
        return found

    def keep(self, name, value):
        if name in excluded(self.shell):
            return {"left_out": "excluded"}
        if isinstance(value, str) and value in getattr(self.shell, "atelier_secrets", ()):
            return {"left_out": "it is a secret"}
        if not name.isidentifier() or len(name.encode()) > 240:
            return {"left_out": "its name can't be that of a file"}
        if type(value) is types.ModuleType and value.__name__ in sys.modules:
            return {"import": value.__name__}
        try:
            stream, pickler = self.pickle(value)
            self.write(f"variables/{name}.pkl", stream)
        except Exception as error:
            return {"left_out": reason(error)}
        self.note(name, pickler.memo.copy())
        kept = {"size": stream.len, "shape": shape_of(value)}
        return {**kept, "parts_left_out": pickler.left_out} if pickler.left_out else kept

    def pickle(self, value):
        stream = Stream()
        pickler = self.pickler(stream, self.shell.user_ns)
        pickler.root = value
        pickler.dump(value)
        return stream, pickler

    def write(self, path, stream):
        stream.settle(os.path.join(self.directory, path))
        self.files[path] = {"size": stream.len, "buffers": stream.buffers}

    def note(self, name, memo):
        """Joins the variable to those that have an object of it."""
        # Objects that live only while they are pickled have to stay, or others get their ids.
        self.memos.append(memo)
        self.group[name] = {name}
        for key in self.owners.keys() & memo.keys():
            other = self.owners[key]
            if self.group[other] is not self.group[name] and has_identity(memo[key][1]):
                self.group[other] |= self.group[name]
                for member in self.group[name]:
                    self.group[member] = self.group[other]
        self.owners.update(dict.fromkeys(memo, name))

    def keep_shared(self, values):
        for group in {id(group): group for group in self.group.values()}.values():
            if len(group) < 2:
                continue
            members = [name for name in values if name in group]
            path = f"shared/{members[0]}.pkl"
            try:
                self.write(path, self.pickle({name: values[name] for name in members})[0])
            except Exception:
                # Each is saved by itself; together they are nested too deep.
                continue
            for name in members:
                self.found[name]["shared"] = path

    def sweep(self):
        for folder in ("variables", "shared"):
            for name in os.listdir(os.path.join(self.directory, folder)):
                if f"{folder}/{name}" not in self.files:
                    remove(os.path.join(self.directory, folder, name))


def remove(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


class Restore:
    """Gives a shell the variables that a directory holds."""

    def __init__(self, shell, directory):
        self.shell, self.directory = shell, directory
        self.values, self.failed, self.shared = {}, {}, {}

    def run(self):
        with open(os.path.join(self.directory, "state.json"), encoding="utf-8") as file:
            state = json.load(file)
        if state["format"] != 1:
            raise ValueError(f"these variables are of format {state['format']}, not 1")
        self.files = state["files"]
        for variable in state["variables"]:
            name = variable["name"]
            try:
                if "import" in variable:
                    self.values[name] = importlib.import_module(variable["import"])
                elif "left_out" not in variable:
                    self.values[name] = self.load_one(name, variable.get("shared"))
            except Exception as error:
                self.failed[name] = f"{type(error).__name__}: {reason(error)}"
        # Only now does anything change, and all of it at once.
        namespace, known = self.shell.user_ns, {v["name"] for v in state["variables"]}
        for name in variables_of(self.shell):
            if name not in known and name not in excluded(self.shell):
                del namespace[name]
        namespace.update(self.values)
        excluded(self.shell).update(state["excluded"])
        left_out = {v["name"]: v["left_out"] for v in state["variables"] if "left_out" in v}
        return {"restored": len(self.values), "failed": self.failed, "left_out": left_out}

    def load_one(self, name, shared):
        if shared and shared not in self.shared:
            try:
                self.shared[shared] = self.load(shared)
            except Exception:
                # One of them can't come back, but the others can by themselves.
                self.shared[shared] = {}
        together = self.shared.get(shared, {})
        return together[name] if name in together else self.load(f"variables/{name}.pkl")

    def load(self, path):
        full, buffers = os.path.join(self.directory, path), self.files[path]["buffers"]
        with open(full, "rb") as file:
            if not buffers:
                return unpickler(file, None, self.shell.user_ns).load()
            # What is mapped must not be written to any more: `settle` heeds the mode.
            os.fchmod(file.fileno(), 0o444)
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        skeleton, taken, at = [], [], 0
        for offset, size, readonly in buffers:
            skeleton.append(mapped[at : offset - header_len(size, readonly)])
            skeleton.append(b"\x97\x98" if readonly else b"\x97")  # NEXT_BUFFER, READONLY_BUFFER
            taken.append(mapped[offset : offset + size])
            at = offset + size
        skeleton.append(mapped[at:])
        return unpickler(io.BytesIO(b"".join(skeleton)), taken, self.shell.user_ns).load()


def unpickler(file, buffers, namespace):
    class Unpickler(pickle.Unpickler):
        """Binds functions of the notebook to its variables, as they were."""

        def find_class(self, module, name):
            found = super().find_class(module, name)
            if module == "cloudpickle.cloudpickle":
                if name == "_make_function":
                    return lambda code, known, *rest: found(
                        code, namespace if known.get("__name__") == "__main__" else known, *rest
                    )
                if name == "_function_setstate":
                    return lambda func, state: found(func, without_globals(func, state, namespace))
            return found

    return Unpickler(file, buffers=buffers)


def without_globals(func, state, namespace):
    if func.__globals__ is namespace:
        state[1]["__globals__"] = {}
    return state


class Answer:
    """What is told to who asked from outside: JSON as the representation of an object."""

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return json.dumps(self.value)


def answer(what, directory, expires):
    """Captures or restores for somebody who waits until `expires`, in seconds since 1970."""
    if time.time() > expires:
        return Answer({"expired": True})
    from IPython import get_ipython

    try:
        done = {"capture": Capture, "restore": Restore}[what](get_ipython(), directory).run()
    except ModuleNotFoundError as error:
        return Answer({"missing": error.name, "python": sys.executable})
    except Exception as error:
        return Answer({"failed": f"{type(error).__name__}: {reason(error)}"})
    return Answer(done if what == "restore" else {"captured": len(done["variables"])})
