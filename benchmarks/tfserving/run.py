"""TF Serving's protocol, measured: our server against MLflow and MLServer with the same Keras model, gRPC against REST, rows against columns, batching on and off. Run it by `make bench-tfserving`; README.md says what it does."""
import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

import numpy as np

from mlops_course.tfclient import Client, messages, request_json
from mlops_course.tfjson import Status
from mlops_course.tfserving import to_proto

HERE = Path(__file__).resolve().parent
SERVERS, WORK = HERE / "servers", HERE / "work"
sys.path.insert(0, str(HERE.parent / "serve"))
from measure import ServerFailed, _run, adopt, ask, cores, free_port, hey, measured, missing, running, tail, wait_for, wrk

CONNECTIONS, LEAST, JSON = 50, 100, "application/json"
CPU_LIMIT = 1.0


def say(text): print(text, file=sys.stderr, flush=True)


# --- the servers ------------------------------------------------------------------------------------------------------------

def instances(rows): return json.dumps({"instances": rows}).encode()
def tensors(rows): return json.dumps({"inputs": [{"name": "rows", "shape": [len(rows), len(rows[0])], "datatype": "FP32", "data": [v for row in rows for v in row]}]}).encode()
def predictions(reply): return reply["predictions"]
def outputs(reply): return np.reshape(reply["outputs"][0]["data"], (-1, 3)).tolist()


@dataclass(frozen=True)
class Contestant:
    name: str
    title: str
    env: str                       # benchmarks/.venv-ENV
    words: object                  # port → the command; the first is a program of that environment
    path: str
    body: object = instances
    read: object = predictions
    kind: str = "peer"             # 'ours', 'peer', or 'seen' for what is measured and asserts nothing
    versions: tuple = ()
    variables: object = lambda port: {}

    @property
    def bin(self): return HERE.parent / f".venv-{self.env}" / "bin"

    def command(self, port):
        first, *rest = self.words(port)
        return [self.bin / first, *rest]

    def environment(self, port):
        "This environment's programs, one thread for every library, and none of the user's settings of Python."
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "MAKE", "MLOPS_", "MLSERVER_", "MLFLOW_", "GUNICORN_", "TF_"))}
        return {**kept, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(SERVERS), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1",
                "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1", **self.variables(port)}


def own(*flags): return lambda port: ["python", "-m", "mlops_course.tfserving", f"--rest_api_port={port}", f"--port={port + 1}", "--tensorflow_session_parallelism=1", *flags]
def mlflow(model): return lambda port: ["mlflow", "models", "serve", "--model-uri", WORK / model, "--env-manager", "local", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
def mlserver(kind): return lambda port: {"KIND": kind, "KERAS_MODEL": str(WORK / "mlp.keras"), "SAVED_MODEL": str(WORK / "mlp" / "1"), "PYTHONPATH": str(SERVERS / "mlserver"), "MLSERVER_HTTP_PORT": str(port), "MLSERVER_GRPC_PORT": str(port + 1),
                                         "MLSERVER_METRICS_PORT": str(free_port())}


OWN, MLFLOW, MLSERVER = ("mlops_course", "tensorflow", "uvicorn", "uvloop", "httptools", "orjson", "grpcio"), ("mlflow", "tensorflow", "uvicorn", "uvloop", "httptools"), ("mlserver", "tensorflow")
OURS = Contestant("ours", "ours: tfserving, REST", "tfserving", own("--model_name=mlp", f"--model_base_path={WORK / 'mlp'}"), "/v1/models/mlp:predict", kind="ours", versions=OWN)
PEERS = (
    OURS,
    Contestant("mlserver", "MLServer, the SavedModel's signature", "mlserver-tf", lambda port: ["mlserver", "start", SERVERS / "mlserver"], "/v2/models/mlp/infer", tensors, outputs, versions=MLSERVER, variables=mlserver("saved_model")),
    Contestant("mlserver-keras", "MLServer, the Keras model", "mlserver-tf", lambda port: ["mlserver", "start", SERVERS / "mlserver"], "/v2/models/mlp/infer", tensors, outputs, versions=MLSERVER, variables=mlserver("keras")),
    Contestant("mlflow", "mlflow models serve, the SavedModel's signature", "mlflow", mlflow("mlflow-saved-model"), "/invocations", versions=MLFLOW),
    Contestant("mlflow-keras", "mlflow models serve, the Keras model", "mlflow", mlflow("mlflow-keras"), "/invocations", versions=MLFLOW),
)


def two_ports(): # one after the other
    import socket
    while True:
        port = free_port()
        with socket.socket() as s:
            try: s.bind(("127.0.0.1", port + 1))
            except OSError: continue
        return port


class Up:
    "A contestant that runs on one core and has answered once."
    def __init__(self, c, core, body, path=None):
        self.c, self.core, self.body, self.path, self.log = c, core, body, path or c.path, WORK / f"{c.name}.log"
    def __enter__(self):
        self.port, self.folder = two_ports(), tempfile.TemporaryDirectory(dir=WORK)
        self.held = running(self.c.command(self.port), self.core, self.folder.name, self.c.environment(self.port), self.log)
        self.process = self.held.__enter__()
        try: wait_for(self.process, self.port, self.path, self.body, JSON, self.log, seconds=180)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self
    def __exit__(self, *exc):
        self.held.__exit__(None, None, None)
        self.folder.cleanup()


def grpc_load(port, core, request, seconds, callers):
    "As `measure.wrk`, over gRPC."
    out = _run([OURS.bin / "python", HERE / "grpc_load.py", f"127.0.0.1:{port + 1}", request, seconds, callers], core, {}, seconds + 60)
    r = json.loads(next(line for line in out.splitlines() if line.startswith("JSON "))[5:])
    if not r["answered"]: raise ServerFailed(f"no call over gRPC was answered, {r['errors']['status']} failed")
    return {"answered": r["answered"], "per_second": 1e6 * r["answered"] / r["microseconds"], "p50_ms": r["p50_us"] / 1e3, "p99_ms": r["p99_us"] / 1e3, "max_ms": r["max_us"] / 1e3, "failures": r["errors"]["status"]}


# --- what is measured -------------------------------------------------------------------------------------------------------

def peers(args, cores, failed, expected):
    "name → its runs: predict of one row, each server in turn."
    runs, rows, y = {c.name: [] for c in PEERS}, expected["rows"].tolist(), expected["y"]
    for k in range(args.rounds):
        for c in PEERS:
            if c.title in failed: continue
            load, body = os.getloadavg()[0], WORK / f"{c.name}.body"
            body.write_bytes(c.body(rows[:1]))
            try:
                with Up(c, cores[0], body.read_bytes()) as up:
                    for row, want in zip(rows, y):
                        status, reply = ask(up.port, c.path, c.body([row]), JSON, timeout=30)
                        if status != 200: raise ServerFailed(f"{c.title} gave {status} {reply[:200]!r}")
                        same(c.read(json.loads(reply)), [want], c.title)
                    go = lambda n: hey(up.port, c.path, cores[1], n, CONNECTIONS, body, JSON)
                    rate = go(LEAST)["per_second"]
                    r = measured(up.process.pid, lambda: go(max(LEAST, int(rate * args.seconds))))  # to the end of each: where an answer takes a second, fifty that were cut off would count
            except (ServerFailed, OSError, KeyError, ValueError, TypeError) as e:
                failed[c.title] = f"{e}; it said last:\n{tail(WORK / f'{c.name}.log') if (WORK / f'{c.name}.log').exists() else ''}"
                say(f"  {c.title} is left out of what follows: {failed[c.title]}")
                continue
            runs[c.name].append(r | {"load_before": round(load, 2)})
            tell(f"peers, round {k + 1} of {args.rounds}", c.title, r)
    return {name: summed(each) for name, each in runs.items() if len(each) == args.rounds}


@contextmanager
def guarded(failed, what):
    try: yield
    except (ServerFailed, OSError, Status) as e:
        failed[what] = str(e)
        say(f"  {what}: {e}")


def tell(what, title, r): say(f"{what:26} {title:50} {r['cpu_us']:10,.1f} CPU µs {r['per_second']:9,.0f} a second   p50 {r['p50_ms']:7,.1f} ms   p99 {r['p99_ms']:8,.1f} ms" + (f"   {r['failures']} FAILED" if r["failures"] else ""))


def same(found, expected, name):
    "Raises `ServerFailed` where a server gives other numbers than the model does."
    if np.shape(found) != np.shape(expected) or not np.allclose(found, expected, rtol=1e-4, atol=1e-5): raise ServerFailed(f"{name} gave {str(found)[:200]}, and the model gives {np.round(expected, 5).tolist()}")


CASES = {"one row of 10": ("row", (1, 10), CONNECTIONS), "32 rows of 10": ("row", (32, 10), CONNECTIONS), "an image 224×224×3": ("image", (1, 224, 224, 3), 4)}  # model, shape, callers
WAYS = ("gRPC, bytes", "gRPC, lists", "REST, rows", "REST, columns")


def requests_of(case):
    "way → the file with its request."
    model, shape, _ = CASES[case]
    x, out = np.random.default_rng(1).random(shape, "f4"), {}
    for way in WAYS:
        out[way] = WORK / f"{case}-{way}".replace(" ", "-")
        if way.startswith("gRPC"):
            request = messages()["PredictRequest"](model_spec=dict(name=model))
            to_proto(x, request.inputs["x"], raw=way.endswith("bytes"))
            out[way].write_bytes(request.SerializeToString())
        else: out[way].write_bytes(request_json({"x": x}, True, format="row" if way.endswith("rows") else "columnar"))
    return x, out


def protocols(args, cores, failed):
    "case → way → its runs, all on one server in a round."
    config, asked, runs = WORK / "models.config", {case: requests_of(case) for case in CASES}, {case: {way: [] for way in WAYS} for case in CASES}
    config.write_text("model_config_list {" + "".join(f'config {{ name: "{m}" base_path: "{WORK / m}" model_platform: "tensorflow" }}' for m in ("row", "image")) + "}")
    c = Contestant("protocols", "ours", "tfserving", own(f"--model_config_file={config}"), "")
    for k in range(args.rounds):
        load = round(os.getloadavg()[0], 2)
        with guarded(failed, "protocols"), Up(c, cores[0], None, "/v1/models/row") as up:
            for case, (model, _, callers) in CASES.items():
                x, files = asked[case]
                for address in (f"http://127.0.0.1:{up.port}", f"127.0.0.1:{up.port + 1}"):
                    with Client(address, 60) as client: same(client.predict(model, x)["y"], x.sum(axis=tuple(range(1, x.ndim))), address)
                for way in WAYS:
                    path = f"/v1/models/{model}:predict"
                    go = lambda seconds: (grpc_load(up.port, cores[1], files[way], seconds, callers) if way.startswith("gRPC") else hey(up.port, path, cores[1], 20 * seconds, callers, files[way], JSON) if model == "image"
                                          else wrk(up.port, path, cores[1], seconds, callers, files[way], JSON))
                    if not k: go(1)
                    r = measured(up.process.pid, lambda: go(args.seconds))
                    runs[case][way].append(r | {"load_before": load})
                    tell(f"protocols, round {k + 1} of {args.rounds}", f"{case}, {way}", r)
    return {case: {way: summed(each) for way, each in ways.items() if len(each) == args.rounds} for case, ways in runs.items()}


def batching(args, cores, failed):
    "'off' and 'on' by protocol → its runs: 50 callers with one row each, three layers of 1024."
    settings, body, runs = WORK / "batching.config", WORK / "wide.body", {}
    settings.write_text("max_batch_size { value: 32 } batch_timeout_micros { value: 1000 } num_batch_threads { value: 1 } max_enqueued_batches { value: 100 }")
    body.write_bytes(instances([[0.1 * i for i in range(10)]]))
    request = messages()["PredictRequest"](model_spec=dict(name="wide"))
    to_proto(np.arange(10, dtype="f4")[None] / 10, request.inputs["x"], raw=True)
    (WORK / "wide.request").write_bytes(request.SerializeToString())
    common = ("--model_name=wide", f"--model_base_path={WORK / 'wide'}", "--rest_api_num_threads=64", "--grpc_max_threads=64")
    for k in range(args.rounds):
        for on, flags in (("off", ()), ("on", ("--enable_batching", f"--batching_parameters_file={settings}"))):
            c = Contestant(f"batching-{on}", on, "tfserving", own(*common, *flags), "/v1/models/wide:predict")
            with guarded(failed, f"batching {on}"), Up(c, cores[0], body.read_bytes()) as up:
                for way, go in (("REST", lambda seconds: wrk(up.port, c.path, cores[1], seconds, CONNECTIONS, body, JSON)), ("gRPC", lambda seconds: grpc_load(up.port, cores[1], WORK / "wide.request", seconds, CONNECTIONS))):
                    go(1)
                    r = measured(up.process.pid, lambda: go(args.seconds))
                    runs.setdefault(f"{way}, batching {on}", []).append(r)
                    tell(f"batching, round {k + 1} of {args.rounds}", f"{way}, {on}", r)
    return {name: summed(each) for name, each in runs.items() if len(each) == args.rounds}


# --- what it says -----------------------------------------------------------------------------------------------------------

def summed(runs):
    "The medians of the rounds, and how far the CPU time spread."
    middle = lambda key: round(median(r[key] for r in runs), 3)
    return {**{key: middle(key) for key in ("cpu_us", "per_second", "p50_ms", "p99_ms")}, "cpu_us_least": round(min(r["cpu_us"] for r in runs), 3), "cpu_us_most": round(max(r["cpu_us"] for r in runs), 3), "answered": sum(r["answered"] for r in runs),
            "failures": sum(r["failures"] for r in runs), "died": sum(len(r["died"]) for r in runs), "processes": runs[-1]["processes"], "rounds": [{k: round(v, 3) if isinstance(v, float) else v for k, v in r.items()} for r in runs]}


def cpu(summary): return [r["cpu_us"] for r in summary["rounds"]]
def ratio(a, b): return median(x / y for x, y in zip(cpu(a), cpu(b)))  # round by round: both met the same machine
def cheapest(found, names): return min((n for n in names if n in found), key=lambda n: found[n]["cpu_us"], default=None)


def targets(results):
    "What is promised and what was measured. A target that could not be measured does not hold."
    p, rows = results["peers"], []
    def target(what, value, limit): rows.append({"what": what, "measured": value, "limit": limit, "held": value is not None and bool(value <= limit)})
    for tool in ("mlflow", "mlserver"):
        all_there = [c.name for c in PEERS if c.name.startswith(tool)]
        best = cheapest(p, all_there) if all(n in p for n in all_there) else None
        target(f"CPU of ours / {tool}" + (f" ({next(c.title for c in PEERS if c.name == best)})" if best else ""), ratio(p["ours"], p[best]) if best and "ours" in p else None, CPU_LIMIT)
    own_runs = [p["ours"]] if "ours" in p else []
    own_runs += [s for ways in results["protocols"].values() for s in ways.values()] + list(results["batching"].values())
    target("requests to ours that failed", sum(s["failures"] for s in own_runs) if own_runs else None, 0)
    return rows


def findings(results):
    "claim → what was measured here."
    out, found, b = {}, results["protocols"], results["batching"]
    ratios = {case: {"CPU": ratio(ways[cheapest(ways, WAYS[2:])], ways["gRPC, bytes"]), "rate": ways["gRPC, bytes"]["per_second"] / max(ways[w]["per_second"] for w in WAYS[2:])} for case, ways in found.items() if len(ways) == len(WAYS)}
    if ratios:
        out["gRPC is about 3 times as fast as REST"] = "; ".join(f"{case}: {r['CPU']:.2g} times by the server's CPU, {r['rate']:.2g} times by requests a second" for case, r in ratios.items()) + f". {'It holds' if all(2 <= r['CPU'] <= 4.5 for r in ratios.values()) else 'As one number it does not hold'}: it depends on how many numbers a request carries."
        out["the columnar format is cheaper"] = "; ".join(f"{case}: rows cost {ratio(found[case]['REST, rows'], found[case]['REST, columns']):.2f} times as much" for case in ratios) + ", with one input."
        out["raw bytes in a tensor are cheaper than lists"] = "; ".join(f"{case}: lists cost {ratio(found[case]['gRPC, lists'], found[case]['gRPC, bytes']):.2f} times as much" for case in ratios) + "."
    if len(b) == 4: out["batching"] = "; ".join(f"{way}: CPU {b[f'{way}, batching off']['cpu_us']:,.0f} → {b[f'{way}, batching on']['cpu_us']:,.0f} µs a request, {b[f'{way}, batching off']['per_second']:,.0f} → {b[f'{way}, batching on']['per_second']:,.0f} a second" for way in ("REST", "gRPC")) + " (three layers of 1024, one row a request, 50 callers, batches of at most 32)."
    return out


def machine():
    name = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    return {"processor": name, "cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version(), "load_before": round(os.getloadavg()[0], 2)}


def commit():
    git = lambda *words: subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True).stdout.strip()
    try: return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except OSError: return ""


def _row(*cells): return "| " + " | ".join(map(str, cells)) + " |"
def _number(x): return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def _lines(found, titles, first, base=None):
    head = [first, "CPU µs per request", "spread", *(["times ours"] if base else []), "requests a second", "p50 ms", "p99 ms", "answered", "failed"]
    yield from (_row(*head), _row(*["---"] * len(head)))
    for name in sorted((n for n in titles if n in found), key=lambda n: found[n]["cpu_us"]):
        s = found[name]
        yield _row(f"**{titles[name]}**" if titles[name].startswith("ours") else titles[name], _number(s["cpu_us"]), f"{_number(s['cpu_us_least'])} – {_number(s['cpu_us_most'])}", *([f"{ratio(s, base):.2f}"] if base else []), f"{s['per_second']:,.0f}", _number(s["p50_ms"]), _number(s["p99_ms"]), f"{s['answered']:,}",
                   f"{s['failures']:,}" + (f" ({s['died']} processes died)" if s["died"] else ""))


def table(r):
    "The results as Markdown."
    m, packages = r["machine"], {k: v for each in r["versions"].values() for k, v in each.items()}
    out = [f"Measured {r['date'][:10]}" + (" **(quick)**" if r["quick"] else "") + f" on {m['processor']}, Python {m['python']}: " + ", ".join(f"{k} {v}" for k, v in packages.items()) + (f" at {r['commit']}" if r["commit"] else "")
           + f". Server on one core and client on another; {r['rounds']} rounds in turn, {r['seconds']} s each; medians; CPU of the server's processes only. Load before: {m['load_before']}."
           + (" **Others were using this machine: CPU time and its ratios count, requests a second and latency say little.**" if m["load_before"] > m["cores"] / 2 else ""), "", _row("target", "measured", "limit", "verdict"), _row(*["---"] * 4)]
    out += [_row(t["what"], "–" if t["measured"] is None else f"{t['measured']:.3g}", f"≤ {t['limit']:g}", "held" if t["held"] else "not measured" if t["measured"] is None else "**missed**") for t in r["targets"]]
    out += ["", f"**The same Keras model behind three servers**: ten numbers in, two layers of 64, three probabilities out; {CONNECTIONS} connections", "", *_lines(r["peers"], {c.name: c.title for c in PEERS}, "server", r["peers"].get("ours"))]
    for case, ways in r["protocols"].items(): out += ["", f"**{case[0].upper() + case[1:]}**, our server, {CASES[case][2]} callers", "", *_lines(ways, dict(zip(WAYS, WAYS)), "protocol")]
    out += ["", "**Batching**, our server, three layers of 1024, one row a request, 50 callers", "", *_lines(r["batching"], {k: k for k in r["batching"]}, "")]
    out += ["", "What one hears, and what was measured here:", ""] + [f"- *{claim}*: {sentence}" for claim, sentence in r["findings"].items()]
    out += [f"\nNot measured: {what} ({why.splitlines()[0]})" for what, why in r["failed"].items()]
    return "\n".join(out) + "\n"


def picture(r, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    panels = [("one Keras model, three servers", r["peers"], {c.name: c.title for c in PEERS})] + [(f"ours: {case}", ways, dict(zip(WAYS, WAYS))) for case, ways in r["protocols"].items()] + [("ours: batching", r["batching"], {k: k.replace(", batching", ",") for k in r["batching"]})]
    fig, axes = plt.subplots(1, len(panels), figsize=(18, 3), layout="constrained", width_ratios=[1.4] + [1] * (len(panels) - 1))
    for ax, (title, found, titles) in zip(axes, panels):
        shown = sorted((n for n in titles if n in found), key=lambda n: found[n]["cpu_us"])
        value = lambda n, key="cpu_us": found[n][key]
        bars = ax.barh([titles[n] for n in shown], [value(n) for n in shown], color=["#1c568f" if titles[n].startswith(("ours", "gRPC")) else "#a0a0a0" for n in shown],
                       xerr=[[value(n) - value(n, "cpu_us_least") for n in shown], [value(n, "cpu_us_most") - value(n) for n in shown]], error_kw={"lw": 0.8, "ecolor": "#404040"})
        ax.bar_label(bars, fmt="{:,.0f}", padding=4, fontsize=8)
        if shown and value(shown[-1]) > 20 * value(shown[0]): ax.set_xscale("log"); ax.set_xlim(value(shown[0]) / 3, value(shown[-1]) * 8)
        ax.invert_yaxis(); ax.set_title(title, fontsize=10); ax.tick_params(labelsize=8); ax.margins(x=0.3)
        for side in ("top", "right"): ax.spines[side].set_visible(False)
    fig.supxlabel("CPU µs of the server for a request", fontsize=9)
    fig.savefig(path, dpi=100)
    plt.close(fig)


def write(results, folder):
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    (folder / "results.md").write_text(table(results))
    picture(results, folder / "results.png")


# --- all of it --------------------------------------------------------------------------------------------------------------

def versions(c):
    code = "import json, sys; from importlib.metadata import version; print(json.dumps({p: version(p) for p in sys.argv[1:]}))"
    return json.loads(subprocess.run([c.bin / "python", "-c", code, *c.versions], capture_output=True, text=True, check=True, cwd=HERE).stdout)


def usable(failed):
    "Versions of each environment; what is not whole is said and left out."
    found = {}
    for c in PEERS:
        if c.env in found: continue
        try: found[c.env] = versions(c)
        except (OSError, subprocess.CalledProcessError, ValueError) as e:
            failed[c.title] = f"{c.bin.parent} is not whole; remove it and run  make bench-tfserving  again"
            say(f"{c.title}: {failed[c.title]} ({getattr(e, 'stderr', '') or e})")
    return found


def make_models():
    for c, program in ((OURS, "models.py"), (next(c for c in PEERS if c.env == "mlflow"), "mlflow_models.py")):
        done = subprocess.run([c.bin / "python", SERVERS / program, WORK], env=c.environment(0), cwd=WORK, capture_output=True, text=True, timeout=600)
        if done.returncode and c is OURS: sys.exit(f"{program} gave {done.returncode}: {done.stderr[-800:]}")
        if done.returncode: say(f"{program} gave {done.returncode}: {done.stderr[-800:]}")  # its servers will not start, and are reported so
    return dict(np.load(WORK / "expected.npz"))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=int, default=3, help="of each run")
    p.add_argument("--quick", action="store_true", help="one round of one second, into work/: to see that everything works")
    args = p.parse_args()
    if args.quick: args.rounds = args.seconds = 1
    if args.rounds < 1 or args.seconds < 1: p.error("rounds and seconds are 1 or more")
    if sys.platform != "linux": p.error("this comparison needs Linux")
    if lacking := missing(): sys.exit(lacking)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    adopt()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    start, failed, both = time.perf_counter(), {}, cores()
    results = {"format": 1, "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "commit": commit(), "machine": machine(), "quick": args.quick, "rounds": args.rounds, "seconds": args.seconds, "versions": usable(failed), "failed": failed}
    expected = make_models()
    results |= {"peers": peers(args, both, failed, expected), "protocols": protocols(args, both, failed), "batching": batching(args, both, failed)}
    results["findings"], results["targets"] = findings(results), targets(results)
    results["machine"]["load_after"] = round(os.getloadavg()[0], 2)
    out = WORK if args.quick else HERE
    write(results, out)
    print(table(results))
    say(f"Wrote {out / 'results.json'}, results.md and results.png in {time.perf_counter() - start:.0f} s")
    missed = [t for t in results["targets"] if not t["held"]]
    for t in missed: say(f"MISSED  {t['what']}: " + ("not measured" if t["measured"] is None else f"{t['measured']:.3g}") + f", and at most {t['limit']:g} was promised")
    if missed or failed: sys.exit(1)


if __name__ == "__main__":
    try: main()
    except KeyboardInterrupt: sys.exit("\nstopped; nothing is left running, and results.json holds the run before")
