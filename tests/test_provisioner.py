"""Forked kernels are kernels: the usual tools run them unnoticed, nothing passes between two of them, and none outlives what started it."""
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import warnings
from contextlib import contextmanager
from pathlib import Path

import nbclient
import nbformat
import papermill
import pytest
from jupyter_client.manager import KernelManager

from mlops_course.core import free_port
from mlops_course.grading import provisioner
from mlops_course.grading.warm import TreeMeter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks kernels")
LIBRARIES = ["numpy", "scipy.stats", "matplotlib.pyplot", "pandas", "ipywidgets"]
STRAIGHT = "import time; _ = os.write(1, b'straight to the descriptor\\n'); time.sleep(0.5)"  # a thread of the kernel reads it
CELLS = ["start = 1",
         "import os, sys\nprint('out', start); print('err', file=sys.stderr); sys.argv[0], sys.path, sys.flags, os.path.basename(os.getcwd()), os.environ.get('MLOPS_TEST'), __name__",
         "import numpy as np, pandas as pd, scipy.linalg\npd.DataFrame(scipy.linalg.eigh(np.arange(250_000).reshape(500, 500) % 7.0)[0][:3])",
         "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])",
         STRAIGHT,
         "!echo a child",
         "import ipywidgets, matplotlib\nipywidgets.IntSlider(3).value, matplotlib.get_backend(), sorted(m for m in sys.modules if m.startswith('mlops_course'))",
         "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2]))",
         "1 / 0"]
FORKED = "'grading.provisioner' in open(f'/proc/{__import__(\"os\").getppid()}/cmdline').read()"


@pytest.fixture(scope="module", autouse=True)
def spec(tmp_path_factory):
    "A kernelspec in a folder of its own, which kernels of this module and of child processes find."
    prefix = tmp_path_factory.mktemp("prefix")
    folder = provisioner.install_kernel(LIBRARIES, prefix=prefix)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder.parents[1]))
        patch.setenv("MLOPS_TEST", "given")
        yield prefix


def env():
    "Ours, but for the sign by which ipykernel knows that it is under test; it would then leave C-level output alone."
    return {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}


@contextmanager
def kernel(name=provisioner.NAME, **options):
    km = KernelManager(kernel_name=name)
    km.start_kernel(env=env(), **options)
    client = km.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield km, client
    finally:
        client.stop_channels()
        km.shutdown_kernel(now=True)


def run(client, code, **options):
    "What a cell put out on the streams, or the result of its last line."
    messages = []
    reply = client.execute_interactive(code, timeout=30, output_hook=messages.append, **options)["content"]
    shown = [m["content"].get("text") or m["content"].get("data", {}).get("text/plain", "") for m in messages if m["msg_type"] in ("stream", "execute_result")]
    return reply["ename"] if reply["status"] == "error" else "".join(shown).strip()


def notebook():
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS], metadata={"language_info": {"name": "python"}})
    nb.cells[0].metadata.tags, nb.cells[-1].metadata.tags = ["parameters"], ["raises-exception"]
    return nb


def outputs(nb):
    "Streams joined, as their pieces depend on timing."
    found = []
    for cell in nb.cells:
        if cell.source.startswith("# Parameters"): continue
        streams = {name: "".join(o.text for o in cell.outputs if o.get("name") == name) for name in ("stdout", "stderr")}
        found.append([streams, *({k: v for k, v in o.items() if k != "metadata"} for o in cell.outputs if o.output_type != "stream")])
    return found


def eventually(true, seconds=10):
    deadline = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < deadline: time.sleep(0.05)
    return found


def gone(pid):
    try: return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError: return True


def test_nbclient_gets_what_a_cold_kernel_gives(tmp_path):
    cold, forked = (nbclient.NotebookClient(notebook(), kernel_name=name).execute(cwd=str(tmp_path), env=env()) for name in ("python3", provisioner.NAME))
    for source, a, b in zip(CELLS, outputs(cold), outputs(forked)): assert a == b, source
    assert "image/png" in forked.cells[3].outputs[0].data and forked.cells[4].outputs[0].text == "straight to the descriptor\n"
    assert sum(isinstance(p, provisioner.WarmPython) for p in provisioner._warm.values()) == 1


def test_papermill_gets_what_a_cold_kernel_gives(tmp_path):
    cold, forked = (_papermill(name, tmp_path) for name in ("python3", provisioner.NAME))
    assert outputs(cold) == outputs(forked) and "out 7" in forked.cells[2].outputs[0].text


def _papermill(name, folder):
    nb = notebook()
    del nb.cells[-1]  # papermill stops at an error
    nbformat.write(nb, folder / "in.ipynb")
    return papermill.execute_notebook(folder / "in.ipynb", None, {"start": 7}, kernel_name=name, cwd=folder, progress_bar=False)


def test_nbval_passes_and_fails_as_with_a_cold_kernel(tmp_path):
    nb = notebook()
    del nb.cells[CELLS.index(STRAIGHT)]  # under pytest, ipykernel leaves C-level output alone
    nb.cells.insert(0, nbformat.v4.new_code_cell("True"))
    right = nbclient.NotebookClient(nb, kernel_name="python3").execute(cwd=str(tmp_path), env=env())
    right.cells[0].source = FORKED  # its stored output is True
    nbformat.write(right, tmp_path / "a.ipynb")
    nbformat.write(right, tmp_path / "b.ipynb")
    words = [sys.executable, "-m", "pytest", "--nbval", "--nbval-kernel-name", provisioner.NAME, "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(words, cwd=tmp_path, env=env(), capture_output=True, text=True)
    assert done.returncode == 0 and f"{2 * len(nb.cells)} passed" in done.stdout, done.stdout
    next(c for c in right.cells if c.source == "!echo a child").outputs[0].text = "something else\n"
    nbformat.write(right, tmp_path / "b.ipynb")
    done = subprocess.run([*words[:-1], "b.ipynb"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout


def test_interrupt_restart_and_shutdown():
    with kernel() as (km, client):
        assert run(client, FORKED) == "True" and isinstance(km.provisioner.process, provisioner.ForkedProcess)
        first = km.provisioner.pid
        client.execute("import subprocess; kept = 1; subprocess.run(['sleep', '60'])")
        assert eventually(lambda: len(provisioner.warm._tree(first)) == 2)
        km.interrupt_kernel()
        assert client.get_shell_msg(timeout=10)["content"]["ename"] == "KeyboardInterrupt" and run(client, "kept") == "1"
        assert eventually(lambda: len(provisioner.warm._tree(first)) == 1), "an interrupt reaches what the kernel started"
        km.restart_kernel()
        client.wait_for_ready(timeout=30)
        assert km.provisioner.pid != first and gone(first) and run(client, "kept") == "NameError" and run(client, FORKED) == "True"
        client.stop_channels()
        second = km.provisioner.pid
        km.shutdown_kernel()
        assert gone(second) and not km.is_alive() and not km.has_kernel and not Path(km.connection_file).exists()


@pytest.mark.parametrize("end, code", [("import os; os._exit(3)", 3), ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9)])
def test_how_a_kernel_ended_is_known(end, code):
    with kernel() as (km, client):
        process = km.provisioner.process
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired): process.wait(0.01)
        client.execute(end)
        assert process.wait(10) == process.poll() == code and not km.is_alive()
        process.send_signal(signal.SIGTERM)  # to nobody, and no error


def test_a_kernel_may_finish_what_it_does_at_exit(tmp_path):
    with kernel(cwd=str(tmp_path)) as (km, client):
        run(client, "import atexit; _ = atexit.register(lambda: open('bye', 'w').close())")
        process = km.provisioner.process
        km.shutdown_kernel()
        assert (tmp_path / "bye").exists() and process.returncode == 0


def test_streams_go_where_the_launch_says():
    with kernel(stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as (km, client):
        assert run(client, "import os, sys; print('a'); _ = os.write(1, b'straight\\n'); __import__('time').sleep(0.5)") == "a\nstraight"
        raw = km.provisioner.process.stdout.read1()
        assert b"straight" in raw and b"Ctrl-C" not in raw


def test_input_is_asked_of_the_frontend():
    with kernel() as (km, client):
        assert run(client, "input('name? ') * 2", allow_stdin=True, stdin_hook=lambda msg: client.input("ada" if msg["content"]["prompt"] == "name? " else "?")) == "'adaada'"


def test_widgets_talk_to_the_frontend():
    with kernel() as (km, client):
        messages = []
        client.execute_interactive("import ipywidgets\ns = ipywidgets.IntSlider(3)\ns.observe(lambda c: print('moved to', c.new), 'value')\ns", timeout=30, output_hook=messages.append)
        comms = {m["content"]["data"]["state"].get("_model_name"): m["content"]["comm_id"] for m in messages if m["msg_type"] == "comm_open"}
        assert any("application/vnd.jupyter.widget-view+json" in m["content"].get("data", {}) for m in messages)
        update = {"comm_id": comms["IntSliderModel"], "data": {"method": "update", "state": {"value": 42}, "buffer_paths": []}}
        client.shell_channel.send(client.session.msg("comm_msg", update))
        assert eventually(lambda: "moved to 42" in client.get_iopub_msg(timeout=10)["content"].get("text", "")) and run(client, "s.value") == "42"


def test_a_kernel_has_the_environment_of_its_launch():
    environment = "import os\n{k: v for k, v in os.environ.items() if k != 'JPY_SESSION_NAME'}"
    with kernel("python3") as (_, cold), kernel() as (_, forked): assert eval(run(cold, environment)) == eval(run(forked, environment))


def test_nothing_passes_between_kernels():
    leave = "import os, sys, builtins, numpy, pandas\nnumpy.left = builtins.left = sys.left = 1; os.environ['LEFT'] = '1'; os.chdir('/'); pandas.set_option('display.width', 7); sys.path.append('/left'); numpy.random.seed(1)"
    look = "import os, sys, builtins, numpy, pandas\n[hasattr(m, 'left') for m in (numpy, builtins, sys)], 'LEFT' in os.environ, os.getcwd() == '/', pandas.get_option('display.width'), '/left' in sys.path"
    draw = "import random, numpy, tempfile, uuid\nrandom.random(), numpy.random.rand(), numpy.random.default_rng().random(), next(tempfile._get_candidate_names()), uuid.uuid4().hex"
    with kernel() as (_, first):
        assert run(first, leave) == ""
        with kernel() as (_, second), kernel() as (_, third):
            assert run(second, look) == run(third, look) == "([False, False, False], False, False, 80, False)"
            a, b = eval(run(second, draw)), eval(run(third, draw))
            assert not [x for x, y in zip(a, b) if x == y]
            files = "names = [os.path.realpath('/proc/self/fd/' + f) for f in os.listdir('/proc/self/fd')]\n[sum(kind in n for n in names) for kind in ('socket:', 'anon_inode:', 'memfd:')]"
            assert run(second, files) == run(third, files), "no file of an older kernel is open in a younger one"


SCRIPT = """
import time
from jupyter_client.manager import KernelManager
for _ in range(2):
    km = KernelManager(kernel_name="mlops-course-warm")
    km.start_kernel()
    client = km.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    client.execute_interactive("import subprocess, os; p = subprocess.Popen(['sleep', '600']); print(os.getppid(), os.getpid(), p.pid, flush=True)")
time.sleep(600)
"""


def test_nothing_outlives_a_killed_parent():
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
    found = [tuple(map(int, parent.stdout.readline().split())) for _ in range(2)]
    pids = {pid for pids in found for pid in pids}
    assert len(pids) == 5 and found[0][0] == found[1][0] and not any(map(gone, pids)), "one warm process, two kernels, two children"
    parent.kill()
    parent.wait()
    assert eventually(lambda: all(map(gone, pids))), [pid for pid in pids if not gone(pid)]
    parent.stdout.close()


def test_a_dead_warm_process_is_replaced():
    with kernel() as (km, client):
        dead = next(p for p in provisioner._warm.values() if isinstance(p, provisioner.WarmPython))
        pid = km.provisioner.pid
        dead.process.kill()
        assert eventually(lambda: not km.is_alive()) and eventually(lambda: gone(pid)), "its kernels end with it"
    with kernel() as (km, client): assert run(client, FORKED) == "True"


def with_imports(imports, prefix):
    provisioner.install_kernel(imports, "other", prefix)
    return "other"


@contextmanager
def says(*texts):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    said = " ".join(str(w.message) for w in said if w.category is RuntimeWarning)
    assert all(text in said for text in texts), said


def test_what_cannot_be_forked_starts_cold_and_says_so(spec, tmp_path, monkeypatch):
    (tmp_path / "ends_it.py").write_text("import os; os._exit(1)")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with says("starts cold", "it is to outlive"), kernel(independent=True) as (_, client): assert run(client, FORKED) == "False"
    with says("starts cold", "ended the process"), kernel(with_imports(["ends_it"], spec)) as (_, client): assert run(client, FORKED) == "False"


def test_a_module_that_cannot_be_copied_is_left_to_the_kernels(spec, tmp_path, monkeypatch):
    (tmp_path / "threaded.py").write_text("import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with says("threaded, as it starts threads"), kernel(with_imports(["threaded", "not_there", "json"], spec)) as (_, client):
        assert run(client, FORKED) == "True" and run(client, "import sys; 'threaded' in sys.modules") == "False"
        assert run(client, "import threaded, threading; threading.active_count() > 1") == "True" and run(client, "import not_there") == "ModuleNotFoundError"


def cpu_of_start(name):
    with kernel(name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as (km, client):
        run(client, "import " + ", ".join(LIBRARIES))
        return TreeMeter(km.provisioner.pid).cpu()


def test_a_forked_kernel_starts_with_less_cpu_time(capsys):
    cold, forked = (min(cpu_of_start(name) for _ in range(2)) for name in ("python3", provisioner.NAME))
    with capsys.disabled(): print(f"\nCPU s of start and imports: cold {cold:.2f}, forked {forked:.2f}: {cold / forked:.1f}x")
    assert forked < cold / 2


def ask(url, method="GET", body=None):
    request = urllib.request.Request(url, method=method, data=json.dumps(body).encode() if body is not None else None, headers={"Authorization": "token secret"})
    with urllib.request.urlopen(request, timeout=30) as answer: return json.loads(answer.read() or b"null")


def run_over(socket, session, code):
    "Run a cell over Jupyter's websocket; the text of its streams."
    from jupyter_client.session import Session
    message = Session(session=session).msg("execute_request", {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False, "stop_on_error": True})
    socket.send(json.dumps({**message, "channel": "shell", "buffers": []}, default=str))
    text = ""
    while True:
        got = json.loads(socket.recv())
        if got["parent_header"].get("msg_id") != message["header"]["msg_id"]: continue
        text += got["content"].get("text", "")
        if got["content"].get("execution_state") == "idle": return text


def test_jupyterlab_runs_forked_kernels(tmp_path):
    import websocket
    port = free_port()
    words = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=secret", f"--ServerApp.root_dir={tmp_path}"]
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")})
    try:
        def up():
            try: return ask(f"http://127.0.0.1:{port}/api/status")
            except OSError: return None
        assert eventually(up, 40), (tmp_path / "log").read_text()
        assert provisioner.NAME in ask(f"http://127.0.0.1:{port}/api/kernelspecs")["kernelspecs"]
        kernels = [ask(f"http://127.0.0.1:{port}/api/kernels", "POST", {"name": provisioner.NAME}) for _ in range(2)]
        pids = set()
        for k in kernels:
            url = f"ws://127.0.0.1:{port}/api/kernels/{k['id']}/channels?session_id=s{k['id'][:8]}"
            socket = websocket.create_connection(url, header=["Authorization: token secret"], timeout=60)
            text = run_over(socket, f"s{k['id'][:8]}", f"import os; print({FORKED}, os.getppid(), os.getpid())")
            assert text.startswith("True"), text
            pids |= set(map(int, text.split()[1:]))
            socket.close()
        assert len(pids) == 3, "two kernels of one warm process"
        ask(f"http://127.0.0.1:{port}/api/kernels/{kernels[0]['id']}/restart", "POST", {})
        ask(f"http://127.0.0.1:{port}/api/kernels/{kernels[0]['id']}", "DELETE")
        assert sum(map(gone, pids)) == 1
    finally:
        server.kill()
        server.wait()
    assert eventually(lambda: all(map(gone, pids)))
