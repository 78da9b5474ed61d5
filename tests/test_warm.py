"""Warm kernels: nothing but imports before the fork, everything ends when it should, nothing passes from one student to the next, and every limit holds and is said in plain words."""
import ast
import ctypes
import functools
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest

from mlops_course.grading import kernels, warm
from mlops_course.grading.judge import judge_submission, reference
from mlops_course.grading.kernels import WarmDied
from mlops_course.grading.labs import BEGIN, END, code_cell, lab_from_notebook, new_lab, public_set
from mlops_course.grading.verify import submission

PACKAGE, SUBREAPER, LIBRARIES = Path(warm.__file__).parents[1], 36, ("json", "numpy")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux")


def value(kernel, code, timeout=30):
    """What the last expression of `code` shows, as a Python value."""
    outputs = kernel.run(code, timeout)
    results = [o for o in outputs if o["msg_type"] == "execute_result"]
    assert results, outputs
    return ast.literal_eval(results[-1]["data"]["text/plain"])


@contextmanager
def kernel(imports=LIBRARIES, **limits):
    made = kernels.start(imports=imports, limits=limits)
    try:
        yield made
    finally:
        made.stop()


def until(true, seconds=3):
    deadline = time.monotonic() + seconds
    while not (result := true()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return result


def called(process, text):
    try:
        return text in " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return False


def below(pid):
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def served_by(imports=LIBRARIES):
    """The process that forks kernels for `imports`: the first in its own process namespace."""
    started = kernels._warm[kernels._python("python3"), imports].process
    return psutil.Process(started.pid).children()[0]


@pytest.fixture(scope="module", autouse=True)
def own_warm_processes():
    kernels._close_all()
    yield
    kernels._close_all()


@pytest.fixture
def orphans():
    """Says which processes that were started since are still there. They become our children when their parent dies, so that none can hide."""
    assert ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0) == 0
    before = set(below(os.getpid()))

    def alive():
        found = []
        for process in set(below(os.getpid())) - before:
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(process.pid, os.WNOHANG)
                else:
                    found.append(process)
            except (ChildProcessError, psutil.NoSuchProcess):
                pass
        return found

    yield alive
    ctypes.CDLL(None).prctl(SUBREAPER, 0, 0, 0, 0)


def grader(source, package=PACKAGE, **options):
    """A grader of its own: a process that runs `source` with this package."""
    begin = "import json, sys, time\nsys.modules['rfc3987_syntax'] = None\nfrom mlops_course.grading import kernels\n"
    return subprocess.Popen([sys.executable, "-c", begin + source], env={**os.environ, "PYTHONPATH": str(package.parent)}, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


# Never an operation before the fork

def test_the_warm_module_touches_nothing_that_it_imports():
    """What was asked for is imported by name, and the result is thrown away: no function of torch or TensorFlow can be called."""
    tree = ast.parse(Path(warm.__file__).read_text())
    imported = {a.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names} | {n.module.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    assert imported - set(sys.stdlib_module_names) == {"IPython", "traitlets"}
    words = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name)] + [n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    assert not set(words) & {"torch", "tensorflow", "tf", "keras", "onnxruntime", "importlib", "import_module", "import_string", "eval", "exec"}
    thrown_away = [n for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call) and ast.unparse(n.value.func) == "__import__"]
    assert words.count("__import__") == len(thrown_away) == 1
    # of modules that are already there, numpy's generator alone is used, in the copy
    used = [n for n in ast.walk(tree) if isinstance(n, ast.Subscript) and ast.unparse(n.value) == "sys.modules" and isinstance(n.ctx, ast.Load)]
    assert [ast.unparse(n) for n in used] == ["sys.modules['numpy.random']"]


def test_the_warm_process_has_one_thread_and_shares_nothing():
    with kernel():
        process = served_by()
        maps = [line.split() for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines()]
        assert process.num_threads() == 1
        assert [m for m in maps if m[1][1] == "w" and m[1].endswith("s")] == []
        files = sorted(os.readlink(f"/proc/{process.pid}/fd/{fd}").partition(":")[0] for fd in os.listdir(f"/proc/{process.pid}/fd"))
        # standard files; listener, owner, and the leash of the kernel; its own namespace; the kernel
        allowed = {"/dev/null": 3, "socket": 3, "pid": 1, "anon_inode": 1}
        assert {f: files.count(f) for f in files} == allowed
    assert until(lambda: len(os.listdir(f"/proc/{process.pid}/fd")) == 3 + 2 + 1)


UNFIT = {"starts_a_thread": ("import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()", "thread"),
         "shares_memory": ("import mmap\nshared = mmap.mmap(-1, 4096)", "share"),
         "shares_a_file": ("import mmap, tempfile\nf = tempfile.TemporaryFile(); f.truncate(4096)\nshared = mmap.mmap(f.fileno(), 4096)", "share"),
         "leaves_a_child": ("import os, time\nif os.fork() == 0:\n    time.sleep(1000)\n    os._exit(0)", "process")}

_ASK = """
kernel = kernels.start(imports=("json", {module!r}, "decimal"))
shown = [o["data"]["text/plain"] for o in kernel.run("import {module}, sys; {module}.__name__, 'decimal' in sys.modules") if "data" in o]
print(json.dumps([kernels.left_out(), shown]))
"""


@pytest.mark.parametrize("name", UNFIT)
def test_a_module_that_cannot_be_copied_is_left_to_the_kernels(name, tmp_path):
    source, word = UNFIT[name]
    shutil.copytree(PACKAGE, package := tmp_path / "mlops_course", ignore=shutil.ignore_patterns("__pycache__"))
    (package / f"{name}.py").write_text(source)
    run = grader(_ASK.format(module=f"mlops_course.{name}"), package)
    left_out, shown = json.loads(run.communicate(timeout=60)[0])
    assert run.returncode == 0
    assert shown == [f"('mlops_course.{name}', True)"]  # the kernel imports it, and has the others
    assert list(left_out) == [f"mlops_course.{name}"] and word in left_out[f"mlops_course.{name}"]


def test_a_module_that_is_not_there_is_no_reason_to_stop():
    with kernel(("json", "no_such_module")) as k:
        assert [o["ename"] for o in k.run("import no_such_module")] == ["ModuleNotFoundError"]
        assert value(k, "import sys; 'json' in sys.modules")


# Lifetimes

_DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.environ.clear()
        os.execve('/bin/sleep', ['sleep', '1000'], {})
    os._exit(0)
os.wait()
"""
_RUNNING = f"""
made = [kernels.start(imports=("json",)) for i in range(3)]
for kernel in made: kernel.run({_DAEMON!r})
for kernel in made: kernel.execute_cell_input("import time\\nwhile True: time.sleep(0.01)")
print("running", flush=True)
sys.stdin.readline()
"""


def running(orphans, then="time.sleep(1000)"):
    run = grader(_RUNNING + then)
    assert run.stdout.readline() == "running\n"
    started = orphans()
    assert sum(p.name() == "sleep" for p in started) == 3 and len(started) >= 1 + 2 + 3 + 3
    return run


def test_a_killed_grader_takes_everything_with_it(orphans):
    run = running(orphans)
    run.kill()
    run.wait()
    assert until(lambda: not orphans()), orphans()


@pytest.mark.parametrize("end", ["sys.exit(0)", "raise ValueError", "kernels._close_all(); time.sleep(1000)"])
def test_the_last_user_closes_the_door(orphans, end):
    run = running(orphans, end)
    print(file=run.stdin, flush=True)
    if "sleep" in end:
        assert until(lambda: [p.pid for p in orphans()] == [run.pid], 5), orphans()
        run.kill()
    run.wait(10)
    assert until(lambda: not orphans()), orphans()


@pytest.mark.parametrize("which", [0, 1], ids=["starter", "server"])
def test_a_killed_warm_process_is_nobodys_fault(orphans, which):
    imports = ("json", "string")
    first = kernels.start(imports=imports)
    first.run(_DAEMON)
    started = orphans()
    [psutil.Process(kernels._warm[kernels._python("python3"), imports].process.pid), served_by(imports)][which].kill()
    assert until(lambda: not [p for p in orphans() if p in started]), orphans()
    with pytest.raises(WarmDied):
        first.run("1", 20)
    first.stop()
    with kernel(imports) as again:
        assert value(again, "1 + 1") == 2


def test_a_warm_process_that_dies_under_a_cell_is_no_verdict():
    lab, answers = limited_lab(), {"a": "import time\ndef a(): time.sleep(60)", "b": "b = 8"}
    values, result = public_set(lab), []
    ref = reference(lab, values)

    def judge():
        try:
            result.append(judge_submission(lab, submission(lab, answers), values, ref))
        except BaseException as e:
            result.append(e)

    thread = threading.Thread(target=judge)
    thread.start()
    wanted = kernels._warm[next(reversed(kernels._warm))].process.pid
    time.sleep(1)
    os.kill(wanted, signal.SIGKILL)
    thread.join(20)
    assert isinstance(result[0], WarmDied), result
    assert earned(judge_submission(lab, submission(lab, {**answers, "a": "def a(): return 7"}), values, ref)) == {"a": 1, "b": 1}


def test_a_warm_process_that_is_killed_while_it_starts_is_started_again(orphans):
    def kill():
        assert until(lambda: [p.kill() for p in orphans() if called(p, "grading.warm")][:1])
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with kernel(("json", "textwrap")) as k:
            assert value(k, "1 + 1") == 2
    finally:
        killer.join()


# State never passes

DIGEST = r'''
def _digest():
    import builtins, hashlib, importlib, inspect, json, os, signal, sys, types
    import IPython, numpy
    told = {}
    def code_of(f):
        f = getattr(f, "_implementation", f)  # of numpy's functions
        c = getattr(f, "__code__", None)
        if c is None: return [type(f).__name__, getattr(f, "__module__", ""), getattr(f, "__qualname__", "")]
        return [type(f).__name__, f.__module__, f.__qualname__, hashlib.sha256(c.co_code).hexdigest(), c.co_names, len(c.co_consts), len(f.__defaults__ or ())]
    for name in sorted(n for n in sys.modules if n.partition(".")[0] in ("builtins", "json", "numpy", "IPython", "random", "os", "math", "pickle")):
        module = sys.modules[name]
        if not isinstance(module, types.ModuleType): told[name] = repr(type(module)); continue
        for key, thing in sorted(vars(module).items()):
            if name == "builtins" and key in ("_", "__IPYTHON__"): continue
            if isinstance(thing, type):
                told[name, key] = [thing.__module__, thing.__qualname__, [(k, code_of(v)) for k, v in sorted(vars(thing).items()) if callable(v)]]
            elif callable(thing): told[name, key] = code_of(thing)
            elif isinstance(thing, (int, str, float, tuple)): told[name, key] = repr(thing)
    functions = len(told)
    told["modules"] = sorted(sys.modules)
    told["environment"] = sorted(os.environ.items())
    told["path"] = sys.path
    told["hooks"] = [repr(type(h)) for h in (sys.excepthook, sys.displayhook, *sys.meta_path)], sys.gettrace() is None, sys.getprofile() is None, sys.getrecursionlimit(), sys.getswitchinterval()
    told["files"] = [[(w[0], sorted(w[1]), sorted(w[2])) for w in sorted(os.walk(f))] for f in ("/tmp", "/dev/shm", "/student", os.getcwd())]
    told["open"] = sorted(os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}"))
    told["process"] = os.getcwd(), os.umask(0o22), os.getpid(), os.nice(0), len(os.listdir("/proc/self/task")), [p for p in os.listdir("/proc") if p.isdigit()], os.uname().nodename
    told["signals"] = [str(signal.getsignal(s)) for s in sorted(signal.valid_signals()) if s != signal.SIGINT]
    told["mask"] = str(signal.pthread_sigmask(signal.SIG_BLOCK, []))
    told["timers"] = signal.getitimer(signal.ITIMER_REAL)
    shell = get_ipython()
    told["shell"] = sorted(k for k in shell.user_ns if not k.startswith("_i") and k != "_digest"), len(shell.input_transformers_cleanup), len(shell.ast_transformers), [len(v) for v in shell.events.callbacks.values()], shell.ast_node_interactivity
    return functions, {str(k): hashlib.sha256(repr(v).encode()).hexdigest()[:12] for k, v in told.items()}
import json as _json
print(_json.dumps(_digest()))
'''

POISON = r'''
import builtins, json, os, random, signal, sys, mmap
import IPython, numpy
open("/tmp/left", "w").write("x"); open("/dev/shm/left", "w").write("x"); open("left.txt", "w").write("x"); os.makedirs("/tmp/deep/er")
numpy.mean = lambda *a, **k: 1.0
numpy.linalg.norm._implementation.__code__ = (lambda *a, **k: 0).__code__
numpy.testing.assert_allclose = numpy.allclose = lambda *a, **k: True
numpy.random.seed(0); random.seed(0)
numpy.ndarray = list
json.dumps.__defaults__ = None
json.encoder.JSONEncoder.encode = lambda self, o: "{}"
builtins.sum = builtins.len = lambda *a: 7
builtins.extra = 1
os.environ["PYTHONPATH"] = "/tmp"; os.environ.pop("HOME"); os.environ["PATH"] = ""
sys.path.insert(0, "/tmp"); sys.modules["mine"] = sys; sys.modules.pop("decimal", None)
sys.excepthook = print; sys.setrecursionlimit(50_000); sys.setswitchinterval(1)
IPython.core.interactiveshell.InteractiveShell.run_cell = None
get_ipython().input_transformers_cleanup.append(lambda lines: [])
get_ipython().events.register("post_run_cell", lambda *a: None)
get_ipython().user_ns["left"] = 1
for s in (signal.SIGUSR1, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD): signal.signal(s, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); signal.setitimer(signal.ITIMER_REAL, 500)
os.umask(0o77); os.nice(5); os.chdir("/tmp")
for i in range(50): os.open("/dev/null", os.O_RDONLY)
m = mmap.mmap(-1, 1 << 20); m.write(b"left")
if os.fork() == 0:
    os.setsid()
    while True: signal.pause()
open("/student/work/poisoned", "w").write("yes")
'''


def digest(k):
    said = [o["text"] for o in k.run(DIGEST) if o["msg_type"] == "stream" and o["name"] == "stdout"]
    functions, told = json.loads("".join(said))
    assert functions > 5_000
    return told


def test_nothing_of_a_student_reaches_the_next(tmp_path):
    imports = ("json", "numpy", "numpy.testing", "random", "decimal", "pickle")
    with kernel(imports) as clean:
        before = digest(clean)
    with kernel(imports) as poisoned, kernel(imports) as beside:
        poisoned.execute_cell_input(POISON)
        assert until(lambda: poisoned.copy_out("poisoned", tmp_path), 10), poisoned.run("1")  # to its last line
        assert len(below(served_by(imports).pid)) >= 3  # both kernels, and the poisoned one's daemon
        assert changed(before, digest(beside)) == []
        with kernel(imports) as during:
            assert changed(before, digest(during)) == []
    with kernel(imports) as after:
        assert changed(before, digest(after)) == []


def changed(a, b): return sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))


@pytest.mark.parametrize("line", ["numpy.mean = max", "numpy.linalg.norm._implementation.__code__ = (lambda *a: 0).__code__", "os.environ['X'] = '1'", "sys.path.append('/x')", "open('/dev/shm/x', 'w')", "os.umask(0)", "os.chdir('/')",
                                  "signal.signal(10, signal.SIG_IGN)", "keep = os.open('/dev/null', 0)", "sys.modules['x'] = os", "builtins.sum = max"])
def test_the_digest_sees(line):
    with kernel() as k:
        before = digest(k)
        k.run(f"import builtins, numpy, os, signal, sys\n{line}\nNone")
        assert changed(before, digest(k))


def test_kernels_draw_different_numbers():
    draw = "import numpy, random; [float(numpy.random.rand()), float(numpy.random.default_rng().random()), random.random(), int.from_bytes(__import__('os').urandom(4), 'big')]"
    drawn = []
    for _ in range(3):
        with kernel(("numpy", "random")) as k:
            drawn.append(value(k, draw))
    assert [len(set(column)) for column in zip(*drawn)] == [3] * 4


# One warm process for each interpreter and imports

def test_one_warm_process_for_each_kind_and_lent_ones_are_used():
    kernels._close_all()
    with kernel(("json",)), kernel(("json",)), kernel(("json", "decimal")):
        assert len(kernels._warm) == 2
        assert len([p for p in below(os.getpid()) if p.ppid() == os.getpid() and called(p, "grading.warm")]) == 2
        lent = json.dumps([[list(key), address] for key, address in kernels.lend().items()])
        run = grader(f"kernels.borrow({{(k[0], tuple(k[1])): a for k, a in json.loads({lent!r})}})\nkernel = kernels.start(imports=('json',))\n"
                     "import psutil\nprint(json.dumps([len(kernels._warm), len(psutil.Process().children()), kernel.run('1 + 1')[-1]['data']['text/plain']]))")
        assert json.loads(run.communicate(timeout=30)[0]) == [0, 0, "2"]
    with kernel(("json",)) as k:  # the borrower's end has closed nothing
        assert value(k, "1 + 1") == 2 and len(kernels._warm) == 2


# Limits

LIMITS = {"cell_seconds": 4, "total_seconds": 60, "memory_bytes": 300_000_000, "processes": 40, "file_bytes": 40_000_000, "cpu_seconds": 100, "output_bytes": 200_000}


def limited_notebook(**limits):
    nb = new_lab("00_limits", [code_cell("seed: int = 1  # a number", "parameters"), code_cell("from mlops_course.lab import show"),
                               code_cell(f"{BEGIN}\ndef a(): return 6 + seed\n{END}", hole="a"), code_cell("show(a())", "check", check="a", points=1, needs=["a"], kind="int"),
                               code_cell(f"{BEGIN}\nb = 8\n{END}", hole="b"), code_cell("show(b)", "check", check="b", points=1, needs=["b"], kind="int")])
    nb.metadata.mlops_course.limits = {**LIMITS, **limits}
    return nb


@functools.cache
def limited_lab(**limits): return lab_from_notebook(limited_notebook(**limits))


def earned(judgement): return {v.check: v.earned for v in judgement.verdicts}


def judged(answer, **limits):
    lab = limited_lab(**limits)
    return judge_submission(lab, submission(lab, {"a": answer, "b": "b = 8"}), public_set(lab), reference(lab, public_set(lab)))


WHILE = "    import time\n    end = time.monotonic() + 3\n    while time.monotonic() < end: time.sleep(0.05)\n    return 7"
OVER = {
    "memory of one process": ({}, "it used more than 300 MB of memory", "def a():\n    x = bytearray(500_000_000)\n    return 7"),
    "memory of numpy": ({}, "it used more than 300 MB of memory", "def a():\n    import numpy\n    numpy.ones(80_000_000)\n    return 7"),
    "memory of children": ({}, "it used more than 300 MB of memory", "def a():\n    import os\n    for i in range(5):\n        if os.fork() == 0:\n            x = b'x' * 90_000_000\n            import time; time.sleep(60)\n" + WHILE),
    "memory mapped and shared": ({}, "it used more than 300 MB of memory", "def a():\n    import mmap\n    m = mmap.mmap(-1, 500_000_000)\n    for i in range(0, 500_000_000, 4096): m[i] = 1\n" + WHILE),
    "files in /dev/shm": ({}, "it wrote more than 40 MB of files", "def a():\n    for i in range(9): open(f'/dev/shm/{i}', 'wb').write(b'x' * 10_000_000)\n    return 7"),
    "files in the work folder": ({}, "it wrote more than 40 MB of files", "def a():\n    for i in range(9): open(f'{i}', 'wb').write(b'x' * 10_000_000)\n    return 7"),
    "one large file": ({}, "it wrote more than 40 MB of files", "def a():\n    open('/tmp/x', 'wb').write(b'x' * 50_000_000)\n    return 7"),
    "many files": ({}, "it wrote more than 40 MB of files", "def a():\n    for i in range(30_000): open(f'/tmp/{i}', 'w').close()\n    return 7"),
    "processes": ({}, "it started more than 40 processes and threads", "def a():\n    import os, time\n    for i in range(60):\n        if os.fork() == 0: time.sleep(60)\n" + WHILE),
    "threads": ({}, "it started more than 40 processes and threads", "def a():\n    import threading, time\n    for i in range(60): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n" + WHILE),
    "CPU time": ({"cpu_seconds": 1, "cell_seconds": 15}, "it used more than 1 s of CPU time", "def a():\n    while True: pass"),
    "CPU time of children": ({"cpu_seconds": 1, "cell_seconds": 15}, "it used more than 1 s of CPU time", "def a():\n    import os, time\n    for i in range(3):\n        if os.fork() == 0:\n            while True: pass\n    time.sleep(20)"),
    "CPU time of short-lived children": ({"cpu_seconds": 1, "cell_seconds": 20}, "it used more than 1 s of CPU time", "def a():\n    import os, time\n    while True:\n        if (pid := os.fork()) == 0:\n            end = time.process_time() + 0.2\n            while time.process_time() < end: pass\n            os._exit(0)\n        os.waitpid(pid, 0)"),
    "time of a cell": ({"cell_seconds": 1}, "stopped after 1 s", "def a():\n    import time; time.sleep(60)"),
    "time of a cell that will not be interrupted": ({"cell_seconds": 1}, "stopped after 1 s", "def a():\n    import time\n    while True:\n        try: time.sleep(60)\n        except BaseException: pass"),
    "output": ({}, "it put out more than 0.2 MB", "def a():\n    while True: print('x' * 999)"),
    "output in one line": ({}, "it put out more than 0.2 MB", "def a():\n    print('x' * 5_000_000)\n    return 7"),
    "ends itself": ({}, "the code ended its own kernel", "def a():\n    import os; os._exit(0)"),
    "ends by a signal": ({}, "the code ended its own kernel", "def a():\n    import ctypes; ctypes.string_at(0)"),
}


@pytest.mark.parametrize("name", OVER)
def test_a_limit_holds_and_is_said(name):
    limits, reason, answer = OVER[name]
    judgement = judged(answer, **limits)
    a, b = judgement.verdicts
    assert reason in a.reason and a.earned == 0, a
    assert b.earned == 1, b  # the other answer earns what it should


def test_the_time_of_a_submission_ends():
    """Each cell ends in time, all together do not."""
    start = time.monotonic()
    a, b = judged("import time; time.sleep(1.5)\ndef a():\n    time.sleep(1.5)\n    return 7\nclass B: pass", cell_seconds=3, total_seconds=2).verdicts
    assert time.monotonic() - start < 15 and a.earned == b.earned == 0
    assert {v.status for v in (a, b)} <= {"timeout", "not reached"} and all(v.reason for v in (a, b)), (a, b)


# Sixty kernels

def test_sixty_kernels_leave_nothing():
    def pss(pid): return int(next(line.split()[1] for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")))
    def mounts(pid): return len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
    def state():
        gc.collect()
        process = served_by()
        assert until(lambda: not process.children())
        return {"warm files": len(os.listdir(f"/proc/{process.pid}/fd")), "warm mounts": mounts(process.pid), "own files": len(os.listdir("/proc/self/fd")), "own mounts": mounts("self"), "own threads": threading.active_count(),
                "folders": sorted(p.name for p in Path(tempfile.gettempdir()).glob("warm-*")) if own_tmp else [], "children": len(below(os.getpid()))}, pss(process.pid)
    own_tmp = tempfile.gettempdir() != "/tmp"  # other graders of this machine write there too
    for _ in range(5):
        with kernel() as k:
            k.run("1")
    before, memory = state()
    for i in range(60):
        with kernel() as k:
            k.run(f"import numpy; x = numpy.ones(1_000_000); open('x', 'w').write('x'); {i}")
    after, grown = state()
    assert after == before
    assert grown - memory < 1000  # kB


def test_a_grader_leaves_no_folder(tmp_path):
    run = grader(f"""
import os, tempfile
tempfile.tempdir = {str(tmp_path)!r}
for imports in (("json",), ("json", "decimal"), ("json",)):
    kernel = kernels.start(imports=imports)
    kernel.run("1")
    kernel.stop()
assert len(os.listdir(tempfile.tempdir)) == 2""")
    run.communicate(timeout=30)
    assert run.returncode == 0 and os.listdir(tmp_path) == []


# As a plain user

# in a private set of mounts, interpreters below somebody's closed home become reachable; then all privilege goes
_PLAIN = """
import os, sys
from pathlib import Path
from mlops_course.grading import sandbox
uid, folder = int(sys.argv[1]), sys.argv[2]
sandbox.unshare(sandbox.NEWNS)
sandbox.mount("none", "/", flags=0x4000 | 0x40000)
prefixes = {str(Path(p).resolve()) for p in (sys.prefix, sys.base_prefix, *sys.argv[3:])}
closed = {}
for prefix in prefixes:
    for parent in reversed(Path(prefix).parents):
        if not parent.stat().st_mode & 1: closed.setdefault(str(parent), []).append((prefix, os.open(prefix, os.O_PATH)))
        if not parent.stat().st_mode & 1: break
for parent, below in closed.items():
    sandbox.mount("tmpfs", parent, "tmpfs", 0, "mode=755")
    for prefix, fd in below:
        os.makedirs(prefix)
        sandbox.mount(f"/proc/self/fd/{fd}", prefix, flags=0x1000 | 0x4000)
        os.close(fd)
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
os.chdir(folder)
os.execve(sys.executable, [sys.executable, "-c", sys.stdin.read()], {"PATH": os.environ["PATH"], "HOME": folder, "TMPDIR": folder, "PYTHONPATH": os.environ["PYTHONPATH"], "PYTHONDONTWRITEBYTECODE": "1"})
"""

_SMOKE = """
import json, os
from mlops_course.grading import kernels
from mlops_course.grading.judge import judge_submission, reference
from mlops_course.grading.labs import public_set, lab_from_notebook
from mlops_course.grading.verify import submission
import nbformat
try: kernel = kernels.start(imports=("json",))
except kernels.sandbox.NoSandbox as e: raise SystemExit(f"no sandbox: {e}")
def said(code): return kernel.run(code)[-1]
told = {"uid": os.getuid(), "pid": said("import os, socket, ctypes; os.getpid()"), "seen": said("sorted(os.listdir('/'))"), "user": said("os.getuid(), len(os.listdir('/proc/self/task'))"),
        "capabilities": said("' '.join(l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs')))"), "write": said("open('/usr/x', 'w')"), "above": said(f"os.listdir({os.getcwd()!r})"),
        "network": said("socket.create_connection(('192.0.2.1', 80), timeout=2)"), "mount": said("ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None)")}
kernel.stop()
lab = lab_from_notebook(nbformat.read("lab.ipynb", 4))
values = public_set(lab)
ref = reference(lab, values)
told["verdicts"] = {name: [[v.check, v.earned, v.reason] for v in judge_submission(lab, submission(lab, {"a": answer, "b": "b = 8"}), values, ref).verdicts] for name, answer in json.load(open("answers.json")).items()}
print(json.dumps(told))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="all of these tests run as a plain user")
def test_the_same_as_a_plain_user():
    uid, folder = 54321, Path(tempfile.mkdtemp(prefix="plain-"))
    try:
        nbformat.write(limited_notebook(), folder / "lab.ipynb")
        tried = {n: OVER[n] for n in ("memory of one process", "memory of children", "files in /dev/shm", "processes", "threads", "output", "ends itself")}
        (folder / "answers.json").write_text(json.dumps({"right": "def a(): return 7", **{name: answer for name, (_, _, answer) in tried.items()}}))
        for path in (folder, *folder.iterdir()):
            os.chown(path, uid, uid)
        package = folder / "package"
        shutil.copytree(PACKAGE, package / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        done = subprocess.run([sys.executable, "-c", _PLAIN, str(uid), str(folder)], input=_SMOKE, env={**os.environ, "PYTHONPATH": str(package)}, capture_output=True, text=True, timeout=120)
        if "no sandbox:" in done.stderr and "user namespace" in done.stderr:
            pytest.skip(done.stderr)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        shown = {k: v.get("ename") or v["data"]["text/plain"] for k, v in told.items() if k not in ("uid", "verdicts")}
        assert told["uid"] == uid and shown == {"pid": "1", "user": "(1000, 1)", "seen": shown["seen"], "capabilities": repr(" ".join(["0" * 16] * 5 + ["1"])), "write": "OSError", "above": "['package']",
                                                "network": "OSError", "mount": "-1"}
        way_to_python = {Path(p).parts[1] for p in (sys.prefix, sys.base_prefix)}
        assert not ({"home", "root", "var", "old"} - way_to_python) & set(ast.literal_eval(shown["seen"]))
        assert [points for _, points, _ in told["verdicts"].pop("right")] == [1, 1]
        for name, ((_, a, reason), (_, b, _)) in told["verdicts"].items():
            assert tried[name][1] in reason and (a, b) == (0, 1), (name, reason)
    finally:
        shutil.rmtree(folder)
