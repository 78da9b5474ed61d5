"""What one hears about model servers, measured. Each function returns what it found; `findings` says in a sentence whether the claim holds here."""
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from contestants import FORM, IMAGES, SERVERS, WORK, Contestant, uvicorn
from measure import ServerFailed, free_port, hey, measured, running, wait_for, wrk


def _rate(run): return {k: round(run[k], 3) for k in ("per_second", "p50_ms", "p99_ms", "cpu_us", "failures")}


# --- in a process of its own, in the environment of ours: `python claims.py load|batch` ----------------------------------------

def _random_onnx(path, megabytes):
    "A model of random matrices, only to be large."
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    side = 1024
    n = max(1, round(megabytes * 1e6 / (4 * side * side)))
    weights = [numpy_helper.from_array(np.random.default_rng(k).standard_normal((side, side), np.float32), f"w{k}") for k in range(n)]
    nodes = [helper.make_node("MatMul", [f"h{k}", f"w{k}"], [f"h{k + 1}"]) for k in range(n)]
    io = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, side]) for name in ("h0", f"h{n}")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "large", io[:1], io[1:], weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def loading(picture):
    "Seconds to load a model and to ask it once: in a process that is there, and in a new one."
    import numpy as np
    import onnxruntime as ort
    from mlops_course.serialize import given
    found, options = {}, ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.onnx"
        _random_onnx(large, 100)
        for name, path in (("leaves.onnx", given("leaves.onnx")), ("100 MB of ONNX", large)):
            load = lambda: ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            times = {"load": [], "ask": []}
            for _ in range(5):
                began = time.perf_counter(); session = load(); times["load"].append(time.perf_counter() - began)
                feed = {i.name: np.zeros([d if isinstance(d, int) else 1 for d in i.shape], np.float32) for i in session.get_inputs()}
                session.run(None, feed)
                began = time.perf_counter(); session.run(None, feed); times["ask"].append(time.perf_counter() - began)
            found[name] = {"bytes": path.stat().st_size, "load_ms": 1e3 * min(times["load"]), "ask_ms": 1e3 * min(times["ask"])}
    began = time.perf_counter()
    subprocess.run([sys.executable, SERVERS / "leaves.py", "0", picture], check=True, stdout=subprocess.DEVNULL)
    return found | {"a new process for every request": {"ask_ms": 1e3 * (time.perf_counter() - began)}}


def batches(seconds):
    "Pictures a second on one core, by the size of a batch: the network alone."
    import numpy as np
    from mlops_course.data import leaves
    from mlops_course.serialize import given, load
    model, found = load(given("leaves.onnx")), {}
    side = model.signature.inputs["pixels"][0][1]
    for n in (1, 2, 4, 8, 16, 32):
        pixels, k = leaves(n, size=side, seed=9)[0], 0
        for _ in range(3): model.predict(pixels)
        began, until = time.process_time(), time.monotonic() + seconds
        while time.monotonic() < until: model.predict(pixels); k += 1
        found[str(n)] = round(n * k / (time.process_time() - began), 1)
    return found


def _apart(what, core, env, *words):
    "One of the functions above in a process of its own on the server's core."
    python = IMAGES[0].bin / "python"
    done = subprocess.run([python, __file__, what, *map(str, words)], env={**env, "PYTHONPATH": f"{SERVERS}{os.pathsep}{Path(__file__).parent}"}, capture_output=True, text=True, timeout=300, preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    if done.returncode: raise ServerFailed(f"claims.py {what}: {done.stderr[-500:]}")
    return json.loads(done.stdout)


# --- against servers ----------------------------------------------------------------------------------------------------------

def _serve(c, cores, extra, ask, ready):
    "What `ask(port, pid)` finds of a running contestant."
    port, log = free_port(), WORK / f"claims-{c.name}.log"
    with tempfile.TemporaryDirectory() as folder, running(c.words(port), cores[0], folder, c.environment(port, {**extra, "LOG": folder}), log) as process:
        wait_for(process, port, *ready, log)
        return ask(port, process.pid)


def load_per_request(cores, extra, connections, picture, body, n):
    found = _apart("load", cores[0], {**os.environ, **extra, "OMP_NUM_THREADS": "1"}, picture)
    for name in ("def", "load"):
        c = Contestant(name, "", "fastapi", uvicorn("plain_fastapi_images:app"), path=f"/predict-{name}")
        ask = lambda port, pid: measured(pid, lambda: hey(port, c.path, cores[1], n, connections, body, FORM))
        found["plain FastAPI, loads " + ("for every request" if name == "load" else "once")] = _rate(_serve(c, cores, extra, ask, (c.path, body.read_bytes(), FORM)))
    return found


def batching(cores, extra, connections, picture, n, seconds):
    env = {**os.environ, **extra, "OMP_NUM_THREADS": "1"}
    found = {"network alone, pictures a second": _apart("batch", cores[0], env, seconds)}
    for size in (1, 16):
        c = replace(IMAGES[0], name=f"batch-{size}")
        ask = lambda port, pid: measured(pid, lambda: hey(port, c.path, cores[1], n, connections, picture, c.type))
        found[f"ours, 224x224 JPEG, batches of at most {size}"] = _rate(_serve(c, cores, {**extra, "MLOPS_BATCH": str(size)}, ask, (c.path, picture.read_bytes(), c.type)))
    return found


def waiting(cores, extra, connections, seconds):
    found, c = {}, Contestant("waiting", "", "fastapi", uvicorn("waiting:app"))
    for route in ("wait-async", "wait-def", "wait-blocking", "compute-async", "compute-def"):
        def ask(port, pid):
            def beside():
                time.sleep(0.5)  # when all are there: the quick answers before that would make the median
                return wrk(port, "/health", cores[1], seconds, 1)
            health = ThreadPoolExecutor(1).submit(beside)
            run = measured(pid, lambda: wrk(port, f"/{route}", cores[1], seconds + 2, connections))
            seen = health.result()
            return _rate(run) | {f"health_{key}": round(seen[key], 3) if seen["answered"] else None for key in ("p50_ms", "p99_ms")}
        found[route] = _serve(c, cores, extra, ask, ("/health", None, ""))
    return found


# --- what that says -----------------------------------------------------------------------------------------------------------

def findings(features, found):
    "claim → a sentence with what was measured here. Raises nothing: what was not measured is said to be so."
    rows = {}
    def say(claim, sentence):
        try: rows[claim] = sentence()
        except (KeyError, TypeError): rows[claim] = "not measured in this run"
    health = lambda r: "not at all" if r["health_p50_ms"] is None else f"in {r['health_p50_ms']:,.0f} ms"
    rate = lambda name: features[name]["per_second"]
    def rates():
        flask, fast = {n: rate(n) for n in ("flask-run", "flask-gunicorn", "flask-threads")}, {n: rate(n) for n in ("fastapi-def", "fastapi-async")}
        return (f"One core: Flask's development server {flask['flask-run']:,.0f}, gunicorn with 4 processes {flask['flask-gunicorn']:,.0f} and with 4 threads {flask['flask-threads']:,.0f} a second; FastAPI {fast['fastapi-def']:,.0f} with def and {fast['fastapi-async']:,.0f} with async def. "
                f"FastAPI's best is {max(fast.values()) / max(flask.values()):.1f} times Flask's best and {max(fast.values()) / min(flask.values()):.1f} times its worst; {'over' if max(fast.values()) >= 3000 else 'under'} 3,000.")
    def breaks():
        runs = {n: features[n] for n in ("flask-run", "flask-gunicorn", "flask-threads")}
        failed = sum(r["failures"] for r in runs.values())
        return f"{'No request failed' if not failed else f'{failed:,} requests failed'} at 50 connections; p99 was " + ", ".join(f"{r['p99_ms']:,.0f} ms ({n})" for n, r in runs.items()) + "."
    def load():
        f = found["load per request"]
        a, b, once, each = f["leaves.onnx"], f["100 MB of ONNX"], f["plain FastAPI, loads once"], f["plain FastAPI, loads for every request"]
        return (f"leaves.onnx ({a['bytes'] / 1e6:.1f} MB) loads in {a['load_ms']:.1f} ms and answers in {a['ask_ms']:.2f}; {b['bytes'] / 1e6:.0f} MB of ONNX load in {b['load_ms']:.0f} ms; a new process takes {f['a new process for every request']['ask_ms']:,.0f} ms. "
                f"At 50 connections, loading for every request makes {each['per_second']:,.0f} of {once['per_second']:,.0f} answers a second, and the median wait {each['p50_ms']:,.0f} ms instead of {once['p50_ms']:,.0f}.")
    def batch():
        f = found["batching"]
        alone, one, many = f["network alone, pictures a second"], f["ours, 224x224 JPEG, batches of at most 1"], f["ours, 224x224 JPEG, batches of at most 16"]
        best = max(alone, key=alone.get)
        return (f"One core runs leaves.onnx {alone['1']:,.0f} times a second one by one and {alone[best]:,.0f} at {best} a batch ({alone[best] / alone['1']:.1f} times). Served from JPEG at 50 connections: {one['per_second']:,.0f} without batches, {many['per_second']:,.0f} with them: "
                f"100 a second is {'passed without batches too' if one['per_second'] > 100 else 'passed only with batches' if many['per_second'] > 100 else 'not reached'}.")
    def gains():
        f = found["async"]
        return (f"Waiting 50 ms: {f['wait-async']['per_second']:,.0f} answers a second with async def and await, {f['wait-def']['per_second']:,.0f} with def (threads), {f['wait-blocking']['per_second']:,.0f} with async def that blocks. Computing 5 ms: {f['compute-async']['per_second']:,.0f} on the event loop, {f['compute-def']['per_second']:,.0f} in threads, "
                f"and meanwhile /health answers {health(f['compute-async'])} and {health(f['compute-def'])} (median).")
    for claim, sentence in (("Flask about 500 and FastAPI 3,000+ requests a second", rates), ("Flask breaks at 50 concurrent requests", breaks), ("load per request costs seconds", load), ("batching gives a CPU 100+ images a second", batch), ("async gains", gains)): say(claim, sentence)
    return rows


if __name__ == "__main__": print(json.dumps({"load": lambda: loading(sys.argv[2]), "batch": lambda: batches(float(sys.argv[2]))}[sys.argv[1]]()))
