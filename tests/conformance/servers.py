"Servers to play cases against: one that we start as a process with TF Serving's flags, one that runs already, and a small one in this process for cases without a real model."
import json, shutil, socket, subprocess, threading, time
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
import numpy as np
from mlops_course.tfjson import Status, rest
from . import NotRun
from .run_rest import send

def quoted(text): return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'   # a string of protobuf's text format

def model_config(models, folder): # by name, as in the cases; the folder of the cases
    "A model_config.config for these models."
    def one(model):
        versions = "".join(f" versions: {v}" for v in model.get("version_policy", {}).get("specific", []))
        labels = "".join(f" version_labels {{ key: {quoted(k)} value: {v} }}" for k, v in model.get("labels", {}).items())
        policy = f" model_version_policy {{ specific {{{versions} }} }}" if versions else ""
        path = quoted(str((Path(folder)/"models"/model["dir"]).resolve()))
        return f'  config {{ name: {quoted(model["name"])} base_path: {path} model_platform: "tensorflow"{policy}{labels} }}\n'
    return "model_config_list {\n" + "".join(map(one, models.values())) + "}\n"

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]

@contextmanager
def with_models(folder): # our own cases bring no binaries: their SavedModels are made for each run
    "The folder, or a copy of it with `models/` where there are none."
    if (Path(folder)/"models").is_dir():
        yield Path(folder)
        return
    from mlops_course.tfserving import half_plus
    with TemporaryDirectory() as scratch:
        for case_file in Path(folder).glob("*_cases.json"): shutil.copy(case_file, scratch)
        for n, place in ((2, "half_plus_two/1"), (3, "half_plus_three/1"), (2, "half_versions/1"), (3, "half_versions/2")): half_plus(n, Path(scratch)/"models"/place)
        (Path(scratch)/"models"/"empty"/"1").mkdir(parents=True)
        yield Path(scratch)

class Address(str):
    "The base URL of a server, and the address of its gRPC port."
    def __new__(cls, url, grpc=""):
        self = super().__new__(cls, url)
        self.grpc = grpc
        return self

def process(launch, folder, wait=120): # of `processes`; the folder of the cases
    "A `start` that runs a server process for each group of cases and waits until all its models answer."
    @contextmanager
    def start(models, monitoring=None):
        with TemporaryDirectory() as scratch:
            config, log, port, grpc = Path(scratch)/"models.config", Path(scratch)/"log", free_port(), free_port()
            config.write_text(model_config(models, folder), encoding="utf8")
            flags = [f"--port={grpc}", f"--rest_api_port={port}", f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models=true"]
            if monitoring: flags.append(f"--monitoring_config_file={(Path(folder)/'models'/monitoring).resolve()}")
            running = launch(flags, log)
            try:
                ready(f"http://127.0.0.1:{port}", models, running, log, wait)
                yield Address(f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc}")
            finally: stop(running)
    return start

def stop(running):
    running.terminate()
    try: running.wait(10)
    except subprocess.TimeoutExpired: running.kill()

def ready(url, models, running, log, wait):
    from urllib.parse import quote
    until = time.monotonic() + wait
    missing = {name: f"/v1/models/{quote(name, safe='')}" for name in models}
    while missing:
        if running.poll() is not None: raise NotRun(f"the server ended with {running.returncode}: {log.read_text(errors='replace')[-500:]}")
        if time.monotonic() > until: raise NotRun(f"not ready after {wait} s: {sorted(missing)}; {log.read_text(errors='replace')[-500:]}")
        missing = {name: path for name, path in missing.items() if not available(url, path)}
        if missing: time.sleep(0.2)

def available(url, path):
    try: status, _, body = send(url, dict(method="GET", path=path), timeout=5)
    except OSError: return False
    states = json.loads(body).get("model_version_status", []) if status == 200 else []
    return bool(states) and any(s["state"] == "AVAILABLE" for s in states)

def running(url, monitored_url=None, grpc=None):
    "A `start` for servers that run already, one without a monitoring configuration and one with it. What wants a model loaded anew must come first, and once: models are loaded anew when the server starts."
    def start(models, monitoring=None):
        here = monitored_url if monitoring else url
        if monitoring and not here: raise NotRun(f"needs the address of a server started with the monitoring configuration {monitoring}")
        return nullcontext(Address(here, grpc or ""))
    return start

# --- a server in this process, for cases about texts, paths and errors: its models are arithmetic
class Arithmetic:
    "A servable `a * x + b` in numpy, with TF Serving's kinds of signatures."
    def __init__(self, name, version, a, b):
        self.name, self.version, self.a, self.b = name, version, np.float32(a), np.float32(b)
        x, s = SimpleNamespace(inputs={"x": SimpleNamespace(dtype=1)}), SimpleNamespace(inputs={"s": SimpleNamespace(dtype=7), "n": SimpleNamespace(dtype=9)})
        self.signatures = {"serving_default": x, "echo": s, "score": x}
    def run(self, signature, feeds, outputs):
        with np.errstate(all="ignore"):
            if signature == "echo": return {"s": feeds["s"], "s_bytes": feeds["s"], "n": feeds["n"]}
            return {"y": np.asarray(self.a * feeds["x"] + self.b)}
    def values(self, signature, serialized):
        if signature != "score": raise Status("INVALID_ARGUMENT", "No inputs found in SignatureDef")
        import tensorflow as tf
        features = [tf.train.Example.FromString(s).features.feature for s in serialized]
        if any(not f["x"].float_list.value for f in features): raise Status("INVALID_ARGUMENT", "Feature: x (data type: float) is required but could not be found.")
        return [self.a * f["x"].float_list.value[0] + self.b for f in features]
    def regress(self, signature, serialized): return self.values(signature, serialized)
    def classify(self, signature, serialized): return [[("", v)] for v in self.values(signature, serialized)]

class Shelf:
    "A manager of such models, with the words of TF Serving for those it does not have."
    def __init__(self, models): # by name, as in the cases; `dir` is "A,B" of the arithmetic, `versions` its versions
        self.models = {name: {v: Arithmetic(name, v, *map(float, m["dir"].split(","))) for v in m.get("versions", [1])} for name, m in models.items()}
        self.labels = {name: m.get("labels", {}) for name, m in models.items()}
    @contextmanager
    def use(self, name, version=None, label=None):
        if label is not None:
            if label not in self.labels.get(name, {}): raise Status("INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")
            version = self.labels[name][label]
        versions = self.models.get(name, {})
        wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        if not versions or version not in (None, *versions): raise Status("NOT_FOUND", f"Servable not found for request: {wanted}")
        yield versions[max(versions) if version is None else version]
    def status(self, name, version=None, label=None):
        versions = self.models.get(name, {})
        if not versions: raise Status("NOT_FOUND", f"Could not find any versions of model {name}")
        if version not in (None, *versions): raise Status("NOT_FOUND", f"Could not find version {version} of model {name}")
        return [(v, "AVAILABLE", "OK", "") for v in sorted(versions, reverse=True) if version in (None, v)]

@contextmanager
def arithmetic(models, monitoring=None):
    "A `start`: the REST API over a `Shelf`, on a free port."
    if monitoring: raise NotRun("the arithmetic server has no metrics")
    shelf = Shelf(models)
    class Handler(BaseHTTPRequestHandler):
        protocol_version, wbufsize = "HTTP/1.1", 65536
        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, reply = rest(shelf, self.command, self.path, dict(self.headers), body)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(reply))}.items(): self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply)
        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = answer
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
