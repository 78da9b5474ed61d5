"""The servers: which command starts each, what it is asked, and where the probabilities are in its answer."""
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from measure import free_port

HERE = Path(__file__).resolve().parent
SERVERS, WORK = HERE / "servers", HERE / "work"
BOUNDARY = "bench-serve-8f2c1d"
JSON, JPEG, FORM = "application/json", "image/jpeg", f"multipart/form-data; boundary={BOUNDARY}"


def by_name(reply): return list(reply["probabilities"].values())
def tensor(reply): return reply["outputs"][0]["data"]


def features(names, row): return json.dumps({"features": dict(zip(names, row))}).encode()
def inputs(names, row): return json.dumps({"inputs": [{"name": "rows", "shape": [1, len(row)], "datatype": "FP32", "data": row}]}).encode()
def raw(data): return data
def form(data): return b"".join([b"--", BOUNDARY.encode(), b'\r\nContent-Disposition: form-data; name="file"; filename="leaf.jpg"\r\nContent-Type: image/jpeg\r\n\r\n', data, b"\r\n--", BOUNDARY.encode(), b"--\r\n"])


@dataclass(frozen=True)
class Contestant:
    name: str                # in results.json
    title: str
    env: str                 # benchmarks/.venv-ENV
    command: object          # port → words; the first is a program of that environment
    kind: str = "peer"       # 'ours', 'fastapi', 'peer', or 'seen' for what is measured and asserts nothing
    path: str = "/predict"
    body: object = features  # what is asked → bytes
    type: str = JSON
    read: object = by_name
    versions: tuple = ()
    variables: object = lambda port: {}

    @property
    def bin(self): return HERE.parent / f".venv-{self.env}" / "bin"

    def words(self, port):
        first, *rest = self.command(port)
        return [self.bin / first, *rest]

    def environment(self, port, extra):
        "Environment variables: this environment's programs, one thread for every library, and none of the user's settings of Python."
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "MAKE", "MLOPS_", "MLSERVER_", "BENTOML_", "FLASK_", "GUNICORN_"))}
        return {**kept, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(SERVERS), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **extra, **self.variables(port)}


def uvicorn(app, *more): return lambda port: ["python", "-m", "uvicorn", app, "--port", port, "--loop", "uvloop", "--http", "httptools", "--log-level", "warning", "--no-access-log", *more]


def own(app): return lambda port: ["python", SERVERS / "ours.py", app, port]
def litserve(*more): return lambda port: ["python", SERVERS / "litserve_app.py", port, *more]
def bento(port): return ["bentoml", "serve", "bento_app:Mlp", "--working-dir", SERVERS, "--host", "127.0.0.1", "--port", port, "--quiet"]
def gunicorn(*more): return lambda port: ["gunicorn", "--bind", f"127.0.0.1:{port}", "--log-level", "warning", *more, "flask_app:app"]


FASTAPI, FLASK = ("fastapi", "uvicorn", "pydantic"), ("flask", "gunicorn")
OWN = ("mlops_course", "fastapi", "uvicorn", "uvloop", "httptools", "pydantic", "orjson")

FEATURES = (
    Contestant("ours", "ours: Api", "serve", own("features"), "ours", versions=OWN),
    Contestant("fastapi-async", "plain FastAPI, async def", "fastapi", uvicorn("plain_fastapi:app"), "fastapi", "/predict-async", versions=FASTAPI),
    Contestant("fastapi-async-dict", "plain FastAPI, async def, no response model", "fastapi", uvicorn("plain_fastapi:app"), "fastapi", "/predict-async-dict", versions=FASTAPI),
    Contestant("fastapi-def", "plain FastAPI, def", "fastapi", uvicorn("plain_fastapi:app"), "fastapi", "/predict-def", versions=FASTAPI),
    Contestant("stdlib", "ours: ModelServer (standard library)", "serve", lambda port: ["python", SERVERS / "stdlib.py", port], "seen", versions=("mlops_course",)),
    Contestant("ours-documented", "ours: Api, documented route only", "serve", own("documented"), "seen", versions=OWN),
    Contestant("flask-gunicorn", "Flask + gunicorn, 4 processes", "flask", gunicorn("--workers", "4"), versions=FLASK),
    Contestant("flask-threads", "Flask + gunicorn, 4 threads", "flask", gunicorn("--worker-class", "gthread", "--threads", "4"), versions=FLASK),
    Contestant("flask-run", "Flask, development server", "flask", lambda port: ["flask", "--app", "flask_app", "run", "--port", port], versions=FLASK),
    Contestant("litserve", "LitServe", "litserve", litserve(), versions=("litserve",)),
    Contestant("litserve-fast", "LitServe, fast_queue", "litserve", litserve("fast"), versions=("litserve",)),
    Contestant("bentoml", "BentoML, def", "bentoml", bento, versions=("bentoml",), variables=lambda port: {"BENTOML_HOME": str(WORK / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}),
    Contestant("bentoml-async", "BentoML, async def", "bentoml", bento, path="/predict_async", versions=("bentoml",), variables=lambda port: {"BENTOML_HOME": str(WORK / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}),
    Contestant("mlserver", "MLServer", "mlserver", lambda port: ["mlserver", "start", SERVERS / "mlserver"], path="/v2/models/mlp/infer", body=inputs, read=tensor, versions=("mlserver",),
               variables=lambda port: {"PYTHONPATH": f"{SERVERS}{os.pathsep}{SERVERS / 'mlserver'}", "MLSERVER_HTTP_PORT": str(port), "MLSERVER_GRPC_PORT": str(free_port()), "MLSERVER_METRICS_PORT": str(free_port())}),
)


IMAGES = (
    Contestant("ours", "ours: Api, image/jpeg", "serve", own("images"), "ours", body=raw, type=JPEG, versions=OWN),
    Contestant("ours-form", "ours: Api, multipart form", "serve", own("images"), "seen", body=form, type=FORM, versions=OWN),
    Contestant("fastapi-def", "plain FastAPI UploadFile, def", "fastapi", uvicorn("plain_fastapi_images:app"), "fastapi", "/predict-def", form, FORM, versions=FASTAPI),
    Contestant("fastapi-async", "plain FastAPI UploadFile, async def", "fastapi", uvicorn("plain_fastapi_images:app"), "fastapi", "/predict-async", form, FORM, versions=FASTAPI),
)


def versions(contestant):
    "Versions of what a contestant stands on; raises `OSError` or `CalledProcessError` where its environment is not whole."
    code = "import json, sys; from importlib.metadata import version; print(json.dumps({p: version(p) for p in sys.argv[1:]}))"
    return json.loads(subprocess.run([contestant.bin / "python", "-c", code, *contestant.versions], capture_output=True, text=True, check=True, cwd=HERE).stdout)
