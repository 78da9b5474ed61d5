"Ways to start a server with TF Serving's flags: any command, or ours, forked from a process that has imported TensorFlow already (a start then takes a fraction of a second)."
import json, os, shlex, signal, subprocess, sys, threading, time
from pathlib import Path

def command(text): # such as `mlops-course serve tfserving`
    "A `launch` that runs this command."
    def launch(flags, log):
        with open(log, "wb") as out: return subprocess.Popen([*shlex.split(text), *flags], stdout=out, stderr=out)
    return launch

class Forked:
    "A server that a `Warm` process forked, with the methods of Popen that are needed here."
    def __init__(self, pid, code): self.pid, self.code, self.returncode = pid, code, None
    def poll(self):
        if self.returncode is None:
            try: os.kill(self.pid, 0)
            except ProcessLookupError: self.returncode = int(self.code.read_text()) if self.code.exists() else -9
        return self.returncode
    def send(self, signal_number):
        if self.poll() is None: os.kill(self.pid, signal_number)
    def terminate(self): self.send(signal.SIGTERM)
    def kill(self): self.send(signal.SIGKILL)
    def wait(self, seconds):
        until = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > until: raise subprocess.TimeoutExpired("server", seconds)
            time.sleep(0.02)
        return self.returncode

_WARM = '''
import importlib, json, os, signal, sys
for name in ("tensorflow", "grpc", "uvicorn.protocols.http.httptools_impl", "tensorflow_serving.apis.prediction_service_pb2_grpc", "tensorflow_serving.apis.model_service_pb2_grpc",
             "tensorflow_serving.apis.prediction_log_pb2", "google.protobuf.json_format", "mlops_course.tfserving"):
    importlib.import_module(name)
import mlops_course.tfserving as tfserving
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are not waited for
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if pid := os.fork():
        print(pid, flush=True)
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for fd in (1, 2): os.dup2(out, fd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 1
    try: code = tfserving.main(job["flags"])
    except BaseException:
        import traceback
        traceback.print_exc()
    sys.stdout.flush(); sys.stderr.flush()
    with open(job["code"], "w") as f: f.write(str(code))
    os._exit(code)
'''

class Warm:
    "A `launch` for our server; a context manager."
    def __enter__(self):
        self.lock = threading.Lock()
        self.process = subprocess.Popen([sys.executable, "-c", _WARM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]), "CUDA_VISIBLE_DEVICES": "-1"})
        if self.process.stdout.readline().strip() != "ready": raise RuntimeError("the server could not be imported; see above")
        return self
    def __call__(self, flags, log):
        code = Path(f"{log}.code")
        with self.lock:
            self.process.stdin.write(json.dumps(dict(flags=flags, log=str(log), code=str(code))) + "\n")
            self.process.stdin.flush()
            return Forked(int(self.process.stdout.readline()), code)
    def __exit__(self, *exc):
        self.process.stdin.close()
        self.process.wait(30)
