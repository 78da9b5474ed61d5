"""Both kinds of kernel are the same to a student: the forked one says what Jupyter's own says, and every verdict is equal.

Where the two differ by design, the difference stands in `DIFFERENT`, with its reason and with what each of the two says."""

import functools
import json
import re
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlops_course.grading import kernels
from mlops_course.grading.demo import demo_submissions
from mlops_course.grading.judge import judge_submission, reference
from mlops_course.grading.labs import draw_set, find_lab, lab_from_notebook, lab_names, read_submission, student_copy, submission_from
from mlops_course.grading.verify import submission, verify_set
from spikes import SPIKES, file, figure, server, speed, training

ROOT = Path(__file__).parent.parent

# Messages

SHOWN = ("stream", "display_data", "update_display_data", "execute_result", "clear_output", "error")


@contextmanager
def mode(name):
    before = kernels.protection()
    kernels.protect(name)
    try: yield
    finally: kernels.protect(before)


def told(outputs):
    """What a cell put out, in order: streams joined as a notebook joins them, pictures left out, exceptions by name and text."""
    kept = []
    for o in outputs:
        if (kind := o["msg_type"]) not in SHOWN: continue
        if kind == "stream":
            if kept and kept[-1][:2] == ("stream", o["name"]): kept[-1] = "stream", o["name"], kept[-1][2] + o["text"]
            else: kept.append(("stream", o["name"], o["text"]))
        elif kind == "error": kept.append(("error", o["ename"], o["evalue"]))
        elif kind == "clear_output": kept.append(("clear_output",))
        else: kept.append((kind, {k: v for k, v in o["data"].items() if not k.startswith("image/png")}))
    return kept


def plain(said):
    """Without what differs from run to run: addresses, process ids, names of temporary cells and files, and model ids of widgets."""
    text = json.dumps(said, ensure_ascii=True)
    for pattern, to in ((r"0x[0-9a-f]{6,}", "0x…"), (r"ipykernel_\d+/\d+\.py", "CELL"), (r"<ipython-input-\d+-[0-9a-f]+>", "CELL"), (r"[0-9a-f]{32}", "ID")): text = re.sub(pattern, to, text)
    return json.loads(text)


@pytest.fixture(scope="module")
def fresh():
    """Starts a kernel of either kind."""
    def start(name):
        with mode(name): return kernels.start(imports=("numpy", "pandas", "matplotlib.pyplot"))
    return start


def both(fresh, cells, timeout=20):
    said = []
    for name in ("require", "never"):
        kernel = fresh(name)
        try: said.append([plain(told(kernel.run(cell, timeout))) for cell in cells])
        finally: kernel.stop()
    return said


SAME = {
    "text on both streams with displays between": ["import sys\nprint('a'); print('b', file=sys.stderr); display('c'); print('d', end=''); print('e', file=sys.stderr); display(1, 2); 'f'"],
    "writes without a newline": ["import sys\nsys.stdout.write('a'); sys.stdout.write('b'); sys.stderr.write('c')\nNone", "sys.stdout.write('abc')"],
    "print with flush": ["import time\nfor i in range(3): print(i, flush=True)"],
    "writelines and print to closed": ["import sys\nsys.stdout.writelines(['a\\n', 'b\\n'])", "sys.stdout.write(1)"],
    "redirected": ["import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as f: print('caught')\nf.getvalue()"],
    "captured by magic": ["%%capture out\nprint('x'); display(3)", "out.stdout, len(out.outputs)"],
    "a result": ["1 + 1", "'text'", "None", "[1, 2,\n 3]"],
    "semicolon": ["1;", "x = 2\nx;", "'a;b'"],
    "several expressions": ["1\n2\n3"],
    "long list": ["list(range(2000))"],
    "names of results": ["41", "_ + 1", "_, __", "Out[1] if 1 in Out else 'none'", "_1"],
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
    "shell": ["!echo out; echo err >&2", "files = !echo a; echo b", "files", "!exit 4", "_exit_code", "name = 'v'\n!echo {name} $name"],
    "shell without a newline": ["!printf abc", "!printf 'a\\nb'"],
    "system": ["import os\nos.system('true')", "get_ipython().getoutput('echo hi')", "get_ipython().system('echo hi')"],
    "line magics": ["get_ipython().run_line_magic('pinfo', 'len') if False else None", "%who", "a = 1", "%who", "%whos", "%pwd != ''", "get_ipython().run_line_magic('who_ls', '')", "%precision 3", "3.14159"],
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
    "input": ["input('name? ')"],
    "password": ["import getpass\ngetpass.getpass()"],
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
    "stdout replaced": ["import sys, io\nkept = sys.stdout\nsys.stdout = io.StringIO()\nprint('lost')", "print('lost too')\nsys.stdout.getvalue()", "sys.stdout = kept\nprint('back')"],
    "stdout closed": ["import sys\nsys.stdout.close()\nprint('still')"],
    "what stdout is": ["import sys\nsys.stdout.isatty(), sys.stdout.encoding, sys.stdout.writable(), sys.stdout.readable()"],
    "context of a task": ["import contextvars\nv = contextvars.ContextVar('v', default=0)\nv.set(1)\nv.get()", "v.get()"],
    "gc and del": ["class F:\n    def __del__(self): print('deleted')\nf = F()", "del f\nimport gc; gc.collect()\nNone"],
    "atexit": ["import atexit\natexit.register(print, 'end') and None"],
    "decimal context": ["from decimal import Decimal, getcontext\ngetcontext().prec = 5\nDecimal(1) / 3", "Decimal(1) / 3"],
    "sets in the same order": ["{'b', 'a', 'c', 'd'}", "hash('x')"],
    "the working folder": ["import os\nos.listdir()", "open('a.txt', 'w').write('x')", "os.listdir()", "%ls", "%cat a.txt"],
    "help with a question mark": ["x = 1\nx?", "len?"],
    "show": ["from mlops_course.lab import show\nshow([1, 2.5, 'x'])", "show({1: 2})", "import numpy as np\nshow(np.arange(3))"],
}
