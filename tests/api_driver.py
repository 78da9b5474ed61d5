"""A server of chapter 06 in a process of its own, for test_api.py. It is told what to do on stdin and answers there, one line of JSON each."""
import ast
import gc
import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import uvicorn

from mlops_course.api import UVICORN, Api, Settings, served_model
from mlops_course.serialize import given
from mlops_course.server import Number, Served, Text

LABELS, WEIGHTS = ("no", "perhaps", "yes"), np.random.default_rng(5).normal(size=(10, 3))


def score(rows):
    z = np.clip(np.array([row[:10] for row in rows], float) @ WEIGHTS, -50, 50)
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def slowly(f, seconds): return lambda rows: (time.sleep(seconds), f(rows))[1]


def model(kind, version="1"):
    if kind == "image": return served_model(given("leaves.onnx"), trained="2026-11-21", version=version)
    if kind == "tflite": return served_model(given("leaves-int8.tflite"), trained="2026-11-21", version=version)
    numbers = {f"x{i}": Number(0.5) for i in range(10)}
    if kind == "texts": return Served("loans", version, "2026-11-21", LABELS, 0.9, numbers | {"product": Text("home", ("home", "business")), "note": Text("")}, score)
    if kind == "both": return replace(model("image", version), features=numbers, labels=LABELS, score=lambda rows: score([np.ravel(row)[:10] for row in rows]))
    return Served("ten", version, "2026-11-21", LABELS, 0.9, numbers, score if kind == "features" else slowly(score, float(kind)))


def build(kind, options):
    seen, hot = options.pop("seen", None), options.pop("hot", True)  # a file: the id of each prediction, before it is answered
    log = open(seen, "a", buffering=1) if seen else None
    return Api(model(kind), Settings(_env_file=None, **options), on_predict=log and (lambda given, answer: log.write(answer["prediction_id"] + "\n")), on_feedback=lambda key, label: None, hot=hot)


def noted(app, path):
    "Writes the X-Request-Id of each request that was read from the socket, before anybody looks at it."
    file = open(path, "a", buffering=1)
    async def noting(scope, receive, send):
        for name, value in scope.get("headers", ()):
            if name == b"x-request-id": file.write(value.decode() + "\n")
        await app(scope, receive, send)
    return noting


def with_key(app, key):
    async def carrying(scope, receive, send): await app(scope | {"headers": [*scope["headers"], (b"x-api-key", key.encode())]} if scope["type"] == "http" else scope, receive, send)
    return carrying


def state(server, api):
    gc.collect()
    with open("/proc/self/statm") as f: memory = int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return dict(pid=os.getpid(), memory=memory, files=len(os.listdir("/proc/self/fd")), threads=threading.active_count(), connections=len(server.server_state.connections),
                tasks=len(server.server_state.tasks), waiting=len(api.live.work.waiting))


def obey(server, api, kind, requests):
    for line in requests:
        what, *args = line.split()
        if what == "swap": api.swap(model(kind, args[0])); answer = args[0]
        elif what == "state": answer = state(server, api)
        print(json.dumps(answer), flush=True)
    os._exit(1)  # who started us is gone


def main(kind, port, **options):
    uv = UVICORN | options.pop("uvicorn", {})
    begun, carry = options.pop("begun", None), options.pop("carry", None)
    api = app = build(kind, options)
    if begun: app = noted(app, begun)
    if carry: app = with_key(app, carry)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", **uv))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=obey, args=(server, api, kind, sys.stdin), daemon=True).start()
    server.run()


if __name__ == "__main__": main(sys.argv[1], int(sys.argv[2]), **ast.literal_eval(sys.argv[3]))
