"""Both kinds of kernel are the same to a student: the forked one says what Jupyter's own says, and every verdict is equal.

Where the two differ by design, the difference stands in `DIFFERENT`, with its reason and with what each of the two says."""

import json
import re
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from mlops_course.grading import kernels
from mlops_course.grading.demo import demo_submissions
from mlops_course.grading.judge import _quiet_environment, judge_submission, reference
from mlops_course.grading.labs import find_lab, lab_names, submission_from
from mlops_course.grading.verify import submission, verify_set
import test_spikes as spikes

ROOT = Path(__file__).parent.parent
FORKED, COLD = "require", "never"
IMPORTS = ("numpy", "pandas", "matplotlib.pyplot")
SHOWN = ("stream", "display_data", "update_display_data", "execute_result", "clear_output", "error")


@contextmanager
def protected(mode):
    before = kernels.protection()
    kernels.protect(mode)
    try:
        yield
    finally:
        kernels.protect(before)


def told(outputs):
    """What a cell put out, in order: streams joined as a notebook joins them, pictures left out (forked kernels draw none), exceptions by name and text."""
    kept = []
    for o in outputs:
        kind = o["msg_type"]
        if kind not in SHOWN:
            continue
        if kind == "stream" and kept and kept[-1][:2] == ["stream", o["name"]]:
            kept[-1][2] += o["text"]
        elif kind == "stream":
            kept.append(["stream", o["name"], o["text"]])
        elif kind == "error":
            kept.append(["error", o["ename"], o["evalue"]])
        elif kind == "clear_output":
            kept.append(["clear_output"])
        else:
            kept.append([kind, {k: v for k, v in o["data"].items() if k != "image/png"}])
    return kept


def plain(said):
    """Without what differs from run to run: addresses, names of temporary cells, ids of widgets and numbers of threads."""
    text = json.dumps(said)
    for pattern, to in ((r"0x[0-9a-f]{6,}", "0x0"), (r"(/tmp/)?ipykernel_\d+/\d+\.py|(/tmp/)?<ipython-input-\d+-[0-9a-f]+>|\b\d+\.py", "CELL"), (r"[0-9a-f]{32}", "ID"), (r"Thread-\d+", "Thread"), (r"-{20,} *(\+-+)?", "--")):
        text = re.sub(pattern, to, text)
    return json.loads(text)


def start(mode):
    with protected(mode), _quiet_environment():  # ipykernel behaves otherwise where it finds itself in a test
        return kernels.start(imports=IMPORTS)


def ask(kernel, cells): return [plain(told(kernel.run(cell, 20))) for cell in cells]


@pytest.fixture(scope="module")
def pair():
    """A kernel of each kind, for cells that leave nothing behind that the next ones would notice."""
    made = [start(FORKED), start(COLD)]
    yield made
    for kernel in made:
        kernel.stop()


@contextmanager
def fresh():
    made = [start(FORKED)]
    try:
        made.append(start(COLD))
        yield made
    finally:
        for kernel in made:
            kernel.stop()


# The same messages

SAME = {
    "text on both streams with displays between": ["import sys\nprint('a'); print('b', file=sys.stderr); display('c'); print('d', end=''); print('e', file=sys.stderr); display(1, 2); 'f'"],
    "writes without a newline": ["import sys\nsys.stdout.write('a'); sys.stdout.write('b'); sys.stderr.write('c')\nNone", "sys.stdout.write('abc')"],
    "print with flush": ["import time\nfor i in range(3): print(i, flush=True)"],
    "writelines and print to closed": ["import sys\nsys.stdout.writelines(['a\\n', 'b\\n'])"],
    "redirected": ["import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as f: print('caught')\nf.getvalue()"],
    "captured by magic": ["%%capture out\nprint('x'); display(3)", "out.stdout, len(out.outputs)"],
    "a result": ["1 + 1", "'text'", "None", "[1, 2,\n 3]"],
    "semicolon": ["1;", "x = 2\nx;", "'a;b'"],
    "several expressions": ["1\n2\n3"],
    "long list": ["list(range(2000))"],
    "the input": ["x = 1", "In[1]", "_i", "_ih[-1]"],
    "execution count": ["get_ipython().execution_count", "1/0", "get_ipython().execution_count"],
    "top-level await": ["import asyncio\nawait asyncio.sleep(0, 'slept')", "async def f(): return 5\nawait f()", "async with asyncio.timeout(1): print('in')\nprint('out')"],
    "await raises": ["async def f(): raise ValueError('late')\nawait f()"],
    "a task goes on": ["import asyncio\nseen = []\nasync def later():\n    for i in range(3):\n        await asyncio.sleep(0.01)\n        seen.append(i)\ntask = asyncio.create_task(later())", "await task\nseen", "task.done()"],
    "a task goes on between cells": ["import asyncio, time\ndone = []\nasync def later():\n    await asyncio.sleep(0.05)\n    done.append(1)\ntask = asyncio.ensure_future(later())", "await asyncio.sleep(0.2)", "done"],
    "asyncio.run": ["import asyncio\nasync def f(): return 1\nasyncio.run(f())"],
    "a running loop": ["import asyncio\nasyncio.get_running_loop().is_running(), asyncio.get_event_loop() is asyncio.get_running_loop()", "asyncio.get_event_loop().run_until_complete(asyncio.sleep(0))"],
    "cell magic bash": ["%%bash\necho out; echo err >&2", "%%bash\nexit 3"],
    "cell magic sh with out": ["%%sh --out text\necho hello", "text"],
    "cell magic python": ["%%python\nprint(6 * 7)"],
    "write and run a file": ["%%writefile own.py\nx = 5\nprint('ran', __name__)", "%run own.py", "x", "%run -n own.py"],
    "load by import": ["%%writefile mine.py\ndef f(): return 'mine'", "import mine\nmine.f()", "mine.__file__.endswith('mine.py')"],
    "shell": ["files = !echo a; echo b", "files", "!exit 4", "_exit_code", "!printf abc", "name = 'v'\n!printf {name}$name"],
    "system": ["import os\nos.system('true')", "get_ipython().getoutput('echo hi')", "get_ipython().system('printf hi')"],
    "line magics": ["%reset -f", "%who", "a = 1", "%who", "%whos", "%cd -q /tmp", "%pwd", "%cd -q -", "%env NOSUCH=1", "import os; os.environ['NOSUCH']", "get_ipython().run_line_magic('who_ls', '')", "%precision 3", "3.14159"],
    "no such magic": ["%nosuch", "%%nosuch\n1"],
    "matplotlib inline": ["%matplotlib inline", "import matplotlib.pyplot as plt\nplt.plot([1, 2])", "plt.plot([1]);", "fig, ax = plt.subplots()\nplt.show()", "fig", "plt.get_backend()", "plt.get_fignums()"],
    "figure left open": ["import matplotlib.pyplot as plt\nfig = plt.figure()\nx = 1", "plt.get_fignums()"],
    "an exception": ["1/0", "raise ValueError('x')", "raise KeyError('k')", "assert False, 'no'", "raise StopIteration"],
    "an exception after output": ["print('before'); display(1); raise RuntimeError('after')"],
    "notes and causes": ["e = ValueError('x'); e.add_note('a note')\nraise e", "try: 1/0\nexcept ZeroDivisionError as e: raise TypeError('chained') from e", "try: 1/0\nexcept ZeroDivisionError: raise TypeError('during')"],
    "groups": ["raise ExceptionGroup('several', [ValueError(1), TypeError(2)])"],
    "own exception": ["class Mine(Exception):\n    def __str__(self): return 'mine'\nraise Mine", "class Odd(Exception):\n    def __str__(self): raise RuntimeError('no text')\nraise Odd"],
    "syntax": ["def f(:\n  pass", "print('never'", "x ===1", "'open"],
    "indentation": ["def f():\nreturn", "  x = 1\n y = 2", "if True:\n\tx = 1\n        y = 2"],
    "return outside": ["return 1", "yield 2", "break"],
    "recursion": ["def f(): f()\nf()"],
    "exit": ["import sys\nsys.exit()", "1", "sys.exit(3)", "raise SystemExit('bye')", "2"],
    "keyboard interrupt": ["raise KeyboardInterrupt", "3"],
    "base exception": ["class B(BaseException): pass\nraise B('b')", "3"],
    "stdin": ["import sys\nsys.stdin.read()"],
    "warnings": ["import warnings\nwarnings.simplefilter('always')\nwarnings.showwarning = lambda m, *a, **k: print('warned', m)\nwarnings.warn('w')"],
    "warning text": ["import warnings\nwarnings.warn('look out')", "import warnings\nwarnings.warn('gone', DeprecationWarning)"],
    "logging": ["import logging\nlogging.warning('w'); logging.info('i')", "logging.basicConfig(level=logging.INFO, force=True)\nlogging.info('now')", "log = logging.getLogger('mine'); log.error('e')"],
    "logging an exception": ["import logging\nlogging.getLogger('x').handlers, logging.getLogger().level"],
    "threads": ["import threading\nt = threading.Thread(target=lambda: print('in a thread'))\nt.start(); t.join()\nprint('after')"],
    "executor": ["from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(2) as pool: print(sum(pool.map(lambda x: x * x, range(10))))"],
    "subprocess": ["import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True, text=True).stdout", "subprocess.check_output(['echo', 'hi'])", "subprocess.run(['false']).returncode"],
    "process pool": ["import multiprocessing as mp\ndef f(x): return x * x\nwith mp.get_context('fork').Pool(2) as pool: print(pool.map(f, range(4)))"],
    "processes that hand back": ["import os\nr, w = os.pipe()\nif os.fork() == 0:\n    os.write(w, b'child'); os._exit(0)\nos.wait()\nos.read(r, 5)"],
    "unicode": ["print('ä日本🎉\\u200d\\x00\\x1b[31m')", "'ä日本🎉'", "display({'text/plain': 'ü'}, raw=True)"],
    "carriage returns": ["print('a\\rb\\rc')", "print('a\\x08b')"],
    "lots of output": ["print('x' * 300_000)", "for i in range(3000): print(i)"],
    "html and friends": ["from IPython.display import HTML, Markdown, Latex, JSON, Math, SVG, Javascript\nHTML('<b>x</b>')", "Markdown('*x*')", "Latex('$x$')", "JSON({'a': [1]})", "display(Math('x'), SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"></svg>'))", "Javascript('1')"],
    "own representations": ["class R:\n    def _repr_html_(self): return '<i>r</i>'\n    def __repr__(self): return 'r'\nR()", "class M:\n    def _repr_mimebundle_(self, include=None, exclude=None): return {'text/plain': 'm', 'application/x-own': {'a': 1}}\nM()", "class Bad:\n    def __repr__(self): raise ValueError('no repr')\nBad()",
                            "class D:\n    def _ipython_display_(self): print('shown')\nD()"],
    "raw data": ["display({'application/json': {'a': 1}, 'text/plain': 't'}, raw=True)", "display({'application/octet-stream': b'\\x00\\xff', 'text/plain': 'b'}, raw=True)"],
    "frames": ["import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', None]})", "pd.Series([1.5, 2])", "print(pd.DataFrame({'a': [1]}))", "pd.DataFrame({'a': range(100)}).describe()"],
    "arrays": ["import numpy as np\nnp.arange(5.)", "np.eye(2)", "np.float64(1)", "print(np.array([1e-9, 1]))", "np.random.default_rng(1).normal(size=3)", "np.array([1]) / 0"],
    "pickled classes": ["import pickle\nclass C:\n    x = 1\npickle.loads(pickle.dumps(C())).x, C.__module__, __name__", "from dataclasses import dataclass\n@dataclass(order=True)\nclass P:\n    x: int\n    y: list\nP(1, [2]), P(1, []) < P(2, []), pickle.loads(pickle.dumps(P(3, [])))"],
    "inspect a source": ["def f():\n    return 1", "import inspect\nprint(inspect.getsource(f))", "class A:\n    x = 1", "print(inspect.getsource(A))"],
    "inspect a source in its own cell": ["def g(): return 2\nimport inspect\nprint(inspect.getsource(g))"],
    "traceback module": ["import traceback\ntry: 1/0\nexcept ZeroDivisionError: print(traceback.format_exc().splitlines()[-1])", "import sys\nsys.last_value if hasattr(sys, 'last_value') else 'none'"],
    "modules": ["__name__, __doc__", "import sys\nsys.modules['__main__'].__dict__ is globals()", "'get_ipython' in dir(), 'display' in dir(__builtins__), 'exit' in dir()", "'__file__' in globals()"],
    "help": ["import pydoc\nprint(pydoc.plain(pydoc.render_doc(len)))"],
    "own display hook": ["import sys\nsys.displayhook(5)", "get_ipython().display_formatter.format({1: 2})[0]"],
    "formatter registered": ["class Z: pass\nget_ipython().display_formatter.formatters['text/html'].for_type(Z, lambda z: '<z>')\nZ() and None", "Z()._repr_html_() if hasattr(Z(), '_repr_html_') else get_ipython().display_formatter.format(Z())[0].get('text/html')"],
    "events": ["get_ipython().events.register('post_run_cell', lambda r: print('ran', r.success))", "1", "1/0"],
    "events before": ["get_ipython().events.register('pre_run_cell', lambda i: print('before'))", "print('x')"],
    "input transformers": ["get_ipython().input_transformers_cleanup.append(lambda lines: [l.replace('plus', '+') for l in lines])", "1 plus 2"],
    "a broken transformer": ["def boom(lines): raise RuntimeError('boom')\nget_ipython().input_transformers_cleanup.append(boom)", "1 + 2"],
    "ast transformers": ["import ast\nclass T(ast.NodeTransformer):\n    def visit_Constant(self, node): return ast.Constant(node.value + 1) if isinstance(node.value, int) else node\nget_ipython().ast_transformers.append(T())", "1 + 1"],
    "custom exception handler": ["def handler(shell, etype, value, tb, tb_offset=None): print('handled', etype.__name__)\nget_ipython().set_custom_exc((ValueError,), handler)", "raise ValueError", "1/0"],
    "extension": ["%load_ext autoreload", "%autoreload 2", "1"],
    "interactivity": ["get_ipython().ast_node_interactivity = 'all'", "1\n2"],
    "reset": ["x = 1", "%reset -f", "x"],
    "nothing": ["", "# only a comment", "   \n\n", "pass"],
    "builtins changed": ["import builtins\nbuiltins.print = lambda *a: None", "print('nothing')", "1"],
    "what stdout is": ["import sys\nsys.stdout.isatty(), sys.stdout.encoding.lower(), sys.stdout.writable(), sys.stdout.readable()"],
    "context of a task": ["import contextvars\nv = contextvars.ContextVar('v', default=0)\nv.set(1)\nv.get()", "v.get()"],
    "gc and del": ["class F:\n    def __del__(self): print('deleted')\nf = F()", "del f\nimport gc; gc.collect()\nNone"],
    "decimal context": ["from decimal import Decimal, getcontext\ngetcontext().prec = 5\nDecimal(1) / 3", "Decimal(1) / 3"],
    "sets in the same order": ["{'b', 'a', 'c', 'd'}", "hash('x')"],
    "the working folder": ["import os\nos.listdir()", "open('a.txt', 'w').write('x')", "os.listdir()", "%cat a.txt"],
    "show": ["from mlops_course.lab import show\nshow([1, 2.5, 'x'])", "show({1: 2})", "import numpy as np\nshow(np.arange(3))"],
    "a thread that prints later": ["import threading, time\ndef late():\n    time.sleep(0.3); print('late')\nt = threading.Thread(target=late); t.start()", "t.join()\nprint('now')"],
    "a thread that raises": ["import threading\nt = threading.Thread(target=lambda: 1/0)\nt.start(); t.join()"],
    "children that print": ["import multiprocessing as mp\ndef f(i): print('child', i)\np = mp.get_context('fork').Process(target=f, args=(1,))\np.start(); p.join()\nprint('parent')"],
    "a forked child that prints": ["import os, sys\nif os.fork() == 0:\n    print('child'); sys.stdout.flush(); os._exit(0)\nos.wait()\nprint('parent')"],
    "spawned processes": ["%%writefile w.py\ndef f(x): return x + 1", "import multiprocessing as mp, w\nwith mp.get_context('spawn').Pool(1) as p: print(p.map(w.f, [1, 2]))"],
    "queues": ["import multiprocessing as mp\nctx = mp.get_context('fork')\nq = ctx.Queue()\np = ctx.Process(target=q.put, args=(5,))\np.start(); r = q.get(); p.join(); r"],
    "widgets": ["import ipywidgets as w\ns = w.IntSlider(3)\ns", "s.value = 5\ns.value", "out = w.Output()\nwith out: print('in')\nlen(out.outputs)"],
    "progress on stderr": ["import sys\nfor i in range(3): sys.stderr.write(f'\\r{i}'); sys.stderr.flush()\nsys.stderr.write('\\n') and None"],
    "a handler that is kept": ["import logging, sys\nh = logging.StreamHandler(sys.stdout)\nl = logging.getLogger('q'); l.addHandler(h); l.warning('one')", "l.warning('two')"],
    "an alarm": ["import signal, time\nsignal.signal(signal.SIGALRM, lambda *a: print('alarm'))\nsignal.setitimer(signal.ITIMER_REAL, 0.1)\ntime.sleep(0.3)"],
    "a task that fails": ["import asyncio\nasync def f(): raise ValueError('lost')\nt = asyncio.create_task(f())", "await asyncio.sleep(0.1)\nt.exception()"],
    "gathered": ["import asyncio\nasync def f():\n    print('a'); await asyncio.sleep(0.01); print('b'); return 'c'\nawait asyncio.gather(f(), f())", "await asyncio.to_thread(lambda: 7)"],
    "an asyncio subprocess": ["import asyncio\np = await asyncio.create_subprocess_exec('echo', 'x', stdout=asyncio.subprocess.PIPE)\n(await p.communicate())[0]"],
    "an interrupt of its own": ["import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(1)", "2"],
    "magics for exceptions": ["1/0", "%tb", "%xmode Minimal", "try: 1/0\nexcept ZeroDivisionError: get_ipython().showtraceback()\nprint('on')"],
    "published by hand": ["get_ipython().display_pub.publish({'text/plain': 'p'})", "display()", "display(None)", "print()", "display({'image/svg+xml': '<svg/>', 'text/plain': 's'}, raw=True)"],
    "floats": ["0.1 + 0.2", "1e100", "float('nan')", "[1.0, float('inf')]"],
    "print options": ["import numpy as np; np.set_printoptions(precision=2); np.array([1/3])", "np.array([2/3])"],
    "a long message": ["class E(Exception):\n    def __str__(self): return 'x' * 100_000\nraise E"],
}

ALONE = ("exit", "asyncio.run", "await raises", "a running loop", "events", "events before", "input transformers", "a broken transformer", "ast transformers", "custom exception handler", "extension", "interactivity", "reset", "builtins changed", "logging", "logging an exception",
         "execution count", "line magics", "magics for exceptions", "own exception", "print options", "the working folder", "the input", "own display hook", "formatter registered", "a handler that is kept")


@pytest.mark.parametrize("name", SAME)
def test_same_messages(pair, name):
    if name in ALONE:
        with fresh() as own:
            forked, cold = [ask(kernel, SAME[name]) for kernel in own]
    else:
        forked, cold = [ask(kernel, SAME[name]) for kernel in pair]
    assert forked == cold and any(cold) or name == "nothing"


# Each in a kernel of its own, since these ask what earlier cells left behind

LEFT_BEHIND = {
    "the last results": ["41", "_ + 1", "_, __"],
    "a timer that is due": ["import asyncio, time\nx = []\nh = asyncio.get_running_loop().call_later(0.01, x.append, 1)", "time.sleep(0.1)", "x"] * 8,
    "asking for a password": ["import getpass\ntry: getpass.getpass()\nexcept Exception as e: print(type(e).__name__)"],
    "a wide frame": ["import pandas as pd\npd.DataFrame({f'column {i}': [i] for i in range(30)})"],
    "what reads text streams": ["import io, sys\nisinstance(sys.stdout, io.TextIOBase)"],
}


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_same_messages_of_fresh_kernels(name):
    with fresh() as own:
        forked, cold = [ask(kernel, LEFT_BEHIND[name]) for kernel in own]
    assert forked == cold


# Different by design: (reason, cells, what the forked kernel says, what Jupyter's says), both of the last cell

def stream(text, name="stdout"): return [["stream", name, text]]
def result(text): return [["execute_result", {"text/plain": text}]]


DIFFERENT = {
    "shell output": ("there is no terminal between, which would end lines with a carriage return", ["!echo out"], stream("out\n"), stream("out\r\n")),
    "files of C": ("standard output and standard error of the process lead nowhere, so that nothing of the host is at their other end", ["import os\nos.write(1, b'x\\n')\nimport time; time.sleep(3)"], [], stream("x\n")),
    "output of subprocesses": ("as for files of C", ["import subprocess\nsubprocess.run(['echo', 'x']).returncode"], result("0"), stream("x\n") + result("0")),
    "updates": ("what has been shown stays as it was: a judge reads every output once", ["h = display('a', display_id='x')\nh.update('b')"], [["display_data", {"text/plain": "'a'"}]],
                [["display_data", {"text/plain": "'a'"}], ["update_display_data", {"text/plain": "'b'"}]]),
    "clearing": ("what has been shown stays shown", ["from IPython.display import clear_output\nprint('a'); clear_output(); print('b')"], stream("a\nb\n"), stream("a\n") + [["clear_output"]] + stream("b\n")),
    "input": ("the sentence is for students", ["try: input('name? ')\nexcept Exception as e: print(type(e).__name__, e)"], stream("StdinNotImplementedError there is nobody to answer: a graded notebook cannot ask for input\n"),
              stream("StdinNotImplementedError raw_input was called, but this frontend does not support input requests.\n")),
    "half characters": ("no file could hold them", ["print('a\\ud800b')"], stream("a?b\n"), None),
    "a stream that was replaced": ("output belongs to the cell that runs", ["import sys, io\nkept = sys.stdout\nsys.stdout = io.StringIO()", "sys.stdout = kept\nprint('back')"], stream("back\n"), []),
    "a stream that was closed": ("output is not lost", ["import sys\nsys.stdout.close()\nprint('still')"], stream("still\n"), [["error", "ValueError", "I/O operation on closed file"]]),
    "a task of an earlier cell": ("output belongs to the cell that runs", ["import asyncio\nasync def f():\n    await asyncio.sleep(0.05); print('from the task')\nt = asyncio.create_task(f())", "await t\nprint('end')"],
                                  stream("from the task\nend\n"), stream("end\n")),
    "help": ("there is no pager", ["x = 1\nx?"], None, []),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_by_design(name):
    _, cells, forked, cold = DIFFERENT[name]
    with fresh() as own:
        said = [ask(kernel, cells)[-1] for kernel in own]
    assert said[0] != said[1]
    for wanted, got in zip((forked, cold), said):
        assert wanted is None or got == wanted


# The same verdicts

def verdicts(lab, set_, handed_in):
    """By both kinds of kernel; numbers in reasons about speed are a clock's."""
    both = []
    for mode in (FORKED, COLD):
        with protected(mode):
            judgement = judge_submission(lab, handed_in, set_, reference_of(lab.digest, set_['values'], mode, lambda: reference(lab, set_)))
            both.append([(v.check, v.status, v.earned, re.sub(r"\d+ times", "N times", v.reason), v.yours if not lab.check(v.check).port else "a free port", v.filled) for v in judgement.verdicts])
    return both


_references = {}


def reference_of(digest, values, mode, make):
    key = digest, json.dumps(values, sort_keys=True), mode
    if key not in _references:
        _references[key] = make()
    return _references[key]


NOTEBOOKS = [name for kind in ("labs", "exercises") for name in lab_names(ROOT, kind)]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_same_verdicts_on_answers(name):
    lab = find_lab(ROOT, name)
    right = {h.name: h.solution for h in lab.holes.values()}
    first, *_ = lab.holes
    answers = {"right": right, "other": {**right, **{a.hole: a.source for a in lab.alternatives}}, "broken": {**right, first: "raise ValueError('no')"}}
    for told_as, given in answers.items():
        forked, cold = verdicts(lab, verify_set(lab, 0), submission(lab, given))
        assert forked == cold, told_as
        assert told_as != "right" or sum(v[2] for v in cold) == lab.points
    ours, theirs = [reference_of(lab.digest, verify_set(lab, 0)["values"], mode, None) for mode in (FORKED, COLD)]
    assert without_ports(lab, ours) == without_ports(lab, theirs)


def without_ports(lab, reference):
    """Checks of a server take a free port and give ids by chance: of these, that there is a value is compared; their verdicts are above."""
    served = {check.id for check in lab.checks if check.port}
    parts = {part: {id: bool(value) if id in served else value for id, value in getattr(reference, part).items()} for part in ("values", "sent", "secret")}
    return replace(reference, **parts)


QUICK = ("s04", "s11", "s14", "s20")


@cache
def demo_class(): return {student.partition("-")[0]: content for student, content in demo_submissions(ROOT, "09_drift").items()}


@pytest.mark.parametrize("student", QUICK)
def test_same_verdicts_on_the_demo_class(student):
    lab, content = find_lab(ROOT, "09_drift"), demo_class()[student]
    forked, cold = verdicts(lab, verify_set(lab, 0), submission_from(json.loads(json.dumps(content))))
    assert forked == cold


# of each kind of lab, another right answer, and the last of the wrong ones that a clock has no say in
PICKED = {p.values[0].__name__ + kind: p for kind, many in (("", spikes.ALTERNATIVES), ("-wrong", spikes.WRONG)) for p in many if "silent" not in p.id}
SPIKES = [pytest.param(*p.values[:2], id=p.id) for p in PICKED.values()]


@pytest.mark.parametrize("spike, answer", SPIKES)
def test_same_verdicts_on_spikes(spike, answer):
    forked, cold = verdicts(spikes.lab_of(spike), spikes.set_of(spike, 1), spikes.submission(spike, answer))
    assert forked == cold
