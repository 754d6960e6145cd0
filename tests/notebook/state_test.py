"""What `src/notebook/python/state.py` promises, in a shell of IPython without a kernel."""

import hashlib
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

os.environ["IPYTHONDIR"] = tempfile.mkdtemp()
from IPython.core.interactiveshell import InteractiveShell

SOURCE = Path(__file__).parents[2] / "src/notebook/python/state.py"
spec = importlib.util.spec_from_file_location("state", SOURCE)
state = importlib.util.module_from_spec(spec)
spec.loader.exec_module(state)


class Buffer:
    """Something with memory that pickle takes out of band, as arrays have it."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return bytearray, (pickle.PickleBuffer(self.data),)


class StateTest(unittest.TestCase):
    def setUp(self):
        self.shell = InteractiveShell.instance()
        self.shell.reset()
        state.excluded(self.shell).clear()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = folder.name

    def cell(self, text):
        self.shell.run_cell(text, silent=True).raise_error()

    def value(self, expression):
        return eval(expression, self.shell.user_ns)

    def capture(self):
        found = state.Capture(self.shell, self.dir).run()
        return {variable["name"]: variable for variable in found["variables"]}

    def restore(self):
        return state.Restore(self.shell, self.dir).run()

    def again(self):
        """Captures, forgets, restores."""
        captured = self.capture()
        self.shell.reset()
        restored = self.restore()
        self.assertEqual(restored["failed"], {})
        return captured

    def plain(self, name, check="True"):
        """Loads a variable with nothing but pickle, in another process."""
        path = os.path.join(self.dir, "variables", name + ".pkl")
        program = f"import pickle; v = pickle.load(open({path!r}, 'rb')); print({check})"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.strip()

    def stamps(self):
        files = Path(self.dir).glob("*/*.pkl")
        return {file.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in files}

    def test_values_come_back_equal(self):
        self.cell(
            "import numpy as np, pandas as pd\n"
            "x = np.arange(100000.).reshape(100, 1000)\n"
            "fixed = np.arange(100000); fixed.flags.writeable = False\n"
            "table = pd.DataFrame({'n': range(20000), 't': ['a'] * 20000})\n"
            "text, nothing, many = 'ä' * 100000, None, [{'i': i} for i in range(1000)]\n"
        )
        before = {name: self.value(name) for name in ("x", "fixed", "table", "text", "many")}
        self.again()
        import numpy as np

        self.assertTrue(np.array_equal(self.value("x"), before["x"]))
        self.assertTrue(self.value("x.flags.writeable") and not self.value("fixed.flags.writeable"))
        self.assertTrue(self.value("table").equals(before["table"]))
        self.assertEqual(self.value("(text, nothing, many)"), (before["text"], None, before["many"]))
        self.assertEqual(self.value("np.sum(fixed)"), before["fixed"].sum())

    def test_what_can_not_be_pickled_is_named_and_nothing_else_is_lost(self):
        self.cell(
            "import threading, sqlite3, socket\n"
            "gen, lock, db = (i for i in [1]), threading.Lock(), sqlite3.connect(':memory:')\n"
            "file, sock, n = open('/dev/null'), socket.socket(), 1\n"
            "mixed = {'lock': lock, 'n': 2}\n"
            "deep = []\n"
            "for _ in range(100000): deep = [deep]\n"
        )
        captured = self.capture()
        left_out = {name for name, variable in captured.items() if "left_out" in variable}
        self.assertEqual(left_out, {"gen", "lock", "db", "file", "sock", "deep"})
        self.assertIn("generator", captured["gen"]["left_out"])
        self.assertIn("lock", captured["mixed"]["parts_left_out"][0])
        connection = self.value("db")
        restored = self.restore()
        self.assertEqual(set(restored["left_out"]), left_out)
        self.assertIs(self.value("db"), connection, "what can't come back stays")
        self.assertEqual(self.value("mixed['n']"), 2)
        self.assertIn("lock", self.value("mixed['lock'].left_out"))
        self.value("sock").close()

    def test_a_value_whose_code_fails_is_left_out(self):
        self.cell(
            "class Bad:\n  def __reduce__(self): raise ValueError('no\\nway')\n"
            "class Worse:\n  def __getattr__(self, name): raise KeyError(name)\n"
            "bad, worse, n, pair = Bad(), Worse(), 1, [Bad(), 1]\n"
        )
        captured = self.capture()
        self.assertEqual(captured["bad"]["left_out"], "no")
        self.assertIn("parts_left_out", captured["pair"])
        self.assertEqual(captured["n"]["size"], len(pickle.dumps(1, 5)))

    def test_what_variables_share_they_share_again(self):
        self.cell(
            "a = [1]; b = {'a': a}; c = [2]\n"
            "def counter():\n"
            "    n = 0\n"
            "    def up():\n        nonlocal n; n += 1; return n\n"
            "    return up, lambda: n\n"
            "up, now = counter()\n"
            "one, two = 'the same text', 'the same text'\n"
        )
        captured = self.again()
        self.assertTrue(self.value("b['a'] is a"))
        self.assertEqual((self.value("up()"), self.value("now()")), (1, 1))
        self.assertEqual(captured["a"]["shared"], "shared/a.pkl")
        self.assertFalse({"c", "one", "two", "counter"} & {n for n in captured if "shared" in captured[n]})

    def test_functions_and_classes_of_cells_live_in_the_notebook_again(self):
        self.cell(
            "k, big = 3, list(range(100000))\n"
            "import math\n"
            "def helper(v): return v * k\n"
            "def uses(v): return helper(v) + len(big)\n"
            "class Point:\n    def __init__(self, x): self.x = x\n    def norm(self): return math.sqrt(self.x) * k\n"
            "p, square = Point(4), lambda v: v * v\n"
        )
        captured = self.again()
        self.assertTrue(self.value("isinstance(p, Point) and p.norm() == 6 and square(3) == 9"))
        self.assertEqual(self.value("uses(2)"), 100006)
        self.cell("k = 10")
        self.assertEqual(self.value("(helper(2), p.norm())"), (20, 20))
        self.assertLess(captured["uses"]["size"], 2000, "a function doesn't carry data")
        self.assertEqual(self.plain("p", "v.norm()"), "6.0")
        self.assertEqual(self.plain("helper", "v(2)"), "6")

    def test_each_variable_is_a_plain_pickle_with_arrays_on_pages(self):
        self.cell("import numpy as np\npair = [np.ones(50000), 'x', np.zeros((300, 300))]; few = np.ones(3)")
        self.capture()
        self.assertEqual(self.plain("pair", "(v[0].sum(), v[1], v[2].shape)"), "(np.float64(50000.0), 'x', (300, 300))")
        self.assertEqual(self.plain("few", "v.tolist()"), "[1.0, 1.0, 1.0]")
        listed = json.loads(Path(self.dir, "state.json").read_text())["files"]["variables/pair.pkl"]
        self.assertEqual([offset % 4096 for offset, _, _ in listed["buffers"]], [0, 0])
        self.assertEqual([size for _, size, _ in listed["buffers"]], [400000, 720000])

    def test_the_format_stays_what_it_is(self):
        """Other bytes would be stored anew in every checkpoint."""
        stream = state.Stream()
        pickle.Pickler(stream, 5).dump([1, Buffer(bytearray(b"w" * 65536)), Buffer(b"r" * 65536)])
        path = os.path.join(self.dir, "golden")
        stream.settle(path)
        written = Path(path).read_bytes()
        self.assertEqual(stream.buffers, [[4096, 65536, False], [73728, 65536, True]])
        self.assertEqual(
            hashlib.sha256(written).hexdigest(),
            "692ed629961f012c5c3c6b8574a10006374ef5f5312ee5b6ab74115bfb6e9924",
        )
        self.assertEqual(pickle.loads(written), [1, bytearray(b"w" * 65536), bytearray(b"r" * 65536)])

    def test_what_stays_the_same_is_not_written_again(self):
        self.cell("import numpy as np\nx, y, t = np.zeros(1 << 20), list(range(1000)), 'text'")
        self.capture()
        before = self.stamps()
        self.capture()
        self.assertEqual(self.stamps(), before)
        self.cell("x[5000:7500] = 1")
        self.capture()
        changed = {name for name, stamp in self.stamps().items() if stamp != before[name]}
        self.assertEqual(changed, {"x.pkl"})
        self.assertEqual(self.plain("x", "v.sum()"), "2500.0")
        self.cell("x, y = x[:10], 'short'; del t")
        self.capture()
        self.assertEqual(self.plain("x", "v.shape"), "(10,)")
        self.assertEqual(self.plain("y", "v"), "short")
        self.assertFalse(Path(self.dir, "variables/t.pkl").exists())

    def test_a_restored_array_never_changes_with_its_file(self):
        self.cell("import numpy as np\nx = np.zeros(1 << 18)")
        self.capture()
        self.restore()
        self.cell("kept = x; x = np.ones(1 << 18)")
        self.capture()
        self.assertEqual(self.value("kept.sum()"), 0)
        self.assertEqual(self.plain("x", "v.sum()"), str(1 << 18) + ".0")
        self.assertEqual(self.plain("kept", "v.sum()"), "0.0")

    def test_names_that_were_made_since_are_gone_and_those_of_ipython_stay(self):
        self.cell("a = 1; _own = 2; __dunder__ = 3")
        captured = self.capture()
        self.assertEqual(set(captured), {"a", "_own"})
        names = set(self.shell.user_ns)
        self.cell("later = 1; a = 5")
        self.restore()
        self.assertEqual((self.value("a"), set(self.shell.user_ns)), (1, names))

    def test_excluded_variables_are_neither_saved_nor_touched(self):
        self.cell("a, big = 1, 2\ndef f(): return big")
        state.excluded(self.shell).add("big")
        self.assertEqual(self.capture()["big"]["left_out"], "excluded")
        self.cell("big = 3")
        self.restore()
        self.assertEqual(self.value("(a, big, f())"), (1, 3, 3))

    def test_one_that_can_not_come_back_is_named_and_the_others_do(self):
        self.cell("import json\na = 1\nclass C: pass\nc = [C()]")
        self.capture()
        path = Path(self.dir, "variables/c.pkl")
        path.write_bytes(path.read_bytes()[:-3])
        self.shell.reset()
        restored = self.restore()
        self.assertEqual(list(restored["failed"]), ["c"])
        self.assertEqual(self.value("a"), 1)

    def test_modules_are_imported_again(self):
        self.cell("import json as j, os.path\nfrom json import dumps")
        captured = self.again()
        self.assertEqual(captured["j"]["import"], "json")
        self.assertEqual(self.value("j.dumps is dumps and os.path.join('a', 'b')"), "a/b")


if __name__ == "__main__":
    unittest.main()
