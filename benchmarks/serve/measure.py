"""Starts a server on one core, asks it from another, and says what it took. Linux only."""
import csv
import ctypes
import io
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
PR_SET_CHILD_SUBREAPER = 36
TOOLS = ("wrk", "hey")


class ServerFailed(Exception):
    "A server that did not start, gave other answers, or died; says which and why."


def cores():
    "(for the server, for the client)"
    ours = sorted(os.sched_getaffinity(0))
    if len(ours) < 2: raise SystemExit("server and client need a core each; this process may use only one")
    return ours[0], ours[-1]


def missing():
    "What is not installed here, as a sentence; empty where nothing is missing."
    tools = [name for name in TOOLS if not shutil.which(name)]
    return f"The load generators are not installed: {' and '.join(tools)}. On Debian and Ubuntu:  apt-get install {' '.join(tools)}" if tools else ""


def adopt():
    "Have processes whose parents have ended become our own children, so that they are counted and ended too."
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0): raise OSError(ctypes.get_errno(), "prctl")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# --- processes --------------------------------------------------------------------------------------------------------------

def tree(pid):
    "pid → (command, CPU seconds) of a process and of all that it started; seconds of children that have ended are in their parent's."
    found = {}
    try: processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess: return found
    for p in processes:
        try: found[p.pid] = (p.name(), sum(p.cpu_times()[:4]))
        except psutil.NoSuchProcess: pass
    return found


def _end(process, grace=5.0):
    "End the process group, politely and then for good, and whatever else of ours it left behind."
    for sent, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, grace)):
        try: os.killpg(process.pid, sent)
        except ProcessLookupError: pass
        try: process.wait(seconds)
        except subprocess.TimeoutExpired: pass
    left = psutil.Process().children(recursive=True)
    for p in left:
        try: p.kill()
        except psutil.NoSuchProcess: pass
    psutil.wait_procs(left, timeout=grace)


def _pinned(core): return lambda: os.sched_setaffinity(0, {core})


@contextmanager
def running(command, core, cwd, env, log):
    "A server in a session of its own, on one core; nothing of it is left afterwards."
    with open(log, "wb") as out:
        process = subprocess.Popen(list(map(str, command)), cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_pinned(core))
        try: yield process
        finally: _end(process)


def ask(port, path, body=None, kind="", timeout=10):
    "Status and body of one request, on a connection of its own; status 0 where nothing came."
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST" if body is not None else "GET", path, body, {"Content-Type": kind} if kind else {})
        reply = connection.getresponse()
        return reply.status, reply.read()
    except (OSError, HTTPException) as e: return 0, str(e).encode()
    finally: connection.close()


def wait_for(process, port, path, body, kind, log, seconds=60):
    "The first answer with status 200. Raises `ServerFailed`."
    until, said = time.monotonic() + seconds, (0, b"")
    while time.monotonic() < until:
        if process.poll() is not None: raise ServerFailed(f"it ended with code {process.returncode} before it answered; it said last:\n{tail(log)}")
        said = ask(port, path, body, kind)
        if said[0] == 200: return said[1]
        time.sleep(0.1)
    raise ServerFailed(f"no answer with status 200 within {seconds} s; the last was {said[0]} {said[1][:200]!r}; it said last:\n{tail(log)}")


def tail(log): return Path(log).read_text(errors="replace")[-800:]


# --- load -------------------------------------------------------------------------------------------------------------------

def _run(command, core, env, limit):
    process = subprocess.Popen(list(map(str, command)), env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_pinned(core))
    try: out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired: raise ServerFailed(f"{command[0]} came to no end within {limit:.0f} s") from None
    finally:
        if process.poll() is None: os.killpg(process.pid, signal.SIGKILL); process.wait()
    if process.returncode: raise ServerFailed(f"{command[0]} gave {process.returncode}: {(err or out)[-300:]}")
    return out


def wrk(port, path, core, seconds, connections, body=None, kind=""):
    "As many requests as it gets answered in `seconds`."
    env = {"BENCH_BODY": str(body), "BENCH_TYPE": kind} if body else {}
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", HERE / "load.lua", f"http://127.0.0.1:{port}{path}"]
    out = _run(words, core, env, seconds + 60)
    r = json.loads(next(line for line in out.splitlines() if line.startswith("JSON "))[5:])
    good = r["answered"] - r["errors"]["status"]
    return {"answered": good, "per_second": 1e6 * good / r["microseconds"], "p50_ms": r["p50_us"] / 1e3, "p99_ms": r["p99_us"] / 1e3,
            "max_ms": r["max_us"] / 1e3, "failures": sum(r["errors"].values()), "errors": {k: v for k, v in r["errors"].items() if v}}


def hey(port, path, core, requests, connections, body, kind, timeout=60):
    "A number of requests, each of them to its end."
    requests = max(1, requests // connections) * connections
    out = _run(["hey", "-n", requests, "-c", connections, "-t", timeout, "-m", "POST", "-T", kind, "-D", body, "-o", "csv", f"http://127.0.0.1:{port}{path}"], core, {"GOMAXPROCS": "1"}, 60 + requests)
    return read_hey(out, requests)


def read_hey(out, requests):
    "hey's CSV: a line for each request that was answered."
    rows = list(csv.DictReader(io.StringIO(out)))
    good = sorted(float(r["response-time"]) for r in rows if r["status-code"] == "200")
    if not good: raise ServerFailed(f"none of {requests} requests was answered with status 200")
    took = max(float(r["offset"]) + float(r["response-time"]) for r in rows)
    errors = {"status": len(rows) - len(good), "none": requests - len(rows)}
    return {"answered": len(good), "per_second": len(good) / took, "p50_ms": 1e3 * quantile(good, 0.5), "p99_ms": 1e3 * quantile(good, 0.99), "max_ms": 1e3 * good[-1],
            "failures": sum(errors.values()), "errors": {k: v for k, v in errors.items() if v}}


def quantile(ordered, q): return ordered[min(len(ordered) - 1, max(0, math.ceil(q * len(ordered)) - 1))]


def measured(pid, load):
    "What `load()` reports, with the CPU µs that the server and all its processes took for each answer, and what died meanwhile."
    before = tree(pid)
    r = load()
    after = tree(pid)
    gone = sorted(name for p, (name, _) in before.items() if p not in after)
    if pid not in after: raise ServerFailed("it died under the load")
    used = sum(seconds for _, seconds in after.values()) - sum(seconds for _, seconds in before.values())
    return {"cpu_us": 1e6 * used / max(1, r["answered"]), **r, "processes": len(after), "died": gone}
