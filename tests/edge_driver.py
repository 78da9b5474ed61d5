"""Runs the hybrid client in processes that are killed; a helper of test_edge.py, in a process without any framework, so that forking is safe.

lines URL FOLDER            one client for each line that it would run, killed before that line; prints one JSON line each
moments URL FOLDER          clients that share one queue, each killed after a random time, until FOLDER/stop is there; prints one JSON line for each answer that a user saw, then {"kills": n}
"""
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from mlops_course import edge
from mlops_course.data import LEAF_CLASSES

OFFLINE = "http://127.0.0.1:9"


class Local:
    """Stands for a model: its answer depends on the picture alone."""
    class signature:
        labels = LEAF_CLASSES

    def predict(self, images):
        return np.eye(5)[[int(images.sum()) % 5]]


def picture(n):
    """A picture that no other number has."""
    image = np.zeros((8, 8, 3), np.uint8)
    image.flat[:8] = list(n.to_bytes(8, "big"))
    return image


def predict(client, n, out):
    a = client.predict(picture(n))
    os.write(out, (json.dumps(dict(n=n, id=a.prediction_id, label=a.label, source=a.source)) + "\n").encode())  # now the user has seen it


def scenario(url, queue, first, out):
    with edge.HybridClient(OFFLINE, Local(), queue, keep="image", pause=0.001, upload_timeout=5, timeout=5) as client:
        for i in range(2):
            predict(client, first + i, out)
        client.url = url
        client.cloud.worked()
        predict(client, first + 2, out)
        client.flush()


def traced(kill_at, f, *args):
    """Run f; before line `kill_at` of edge.py is run: SIGKILL. Gives the number of lines."""
    lines = 0

    def each(frame, event, arg):
        nonlocal lines
        if event == "line":
            lines += 1
            if lines == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return each
    sys.settrace(lambda frame, event, arg: each if frame.f_code.co_filename == edge.__file__ else None)
    f(*args)
    sys.settrace(None)
    return lines


def forked(f, *args):
    """pid, and the file that the child writes to."""
    r, w = os.pipe()
    pid = os.fork()
    if pid:
        os.close(w)
        return pid, r
    try:
        os.close(r)
        f(*args, w)
    finally:
        os._exit(0)


def every_line(url, folder):
    total = traced(0, scenario, url, folder / "all.db", 10**9, os.open(os.devnull, os.O_WRONLY))
    for k in range(1, total + 1):
        queue = folder / f"q{k}.db"
        pid, r = forked(traced, k, scenario, url, queue, 100 * k)
        with os.fdopen(r) as f:
            seen = [json.loads(line) for line in f]
        _, status = os.waitpid(pid, 0)
        with edge.HybridClient(url, Local(), queue) as client:  # the next start of the program
            client.flush()
            left = client.status()
        print(json.dumps(dict(k=k, total=total, killed=os.WIFSIGNALED(status), seen=seen, left=left)), flush=True)


def endless(url, queue, first, out):
    with edge.HybridClient(url, Local(), queue, keep="image", pause=0.01, longest=0.05, every=0.02, timeout=0.5, upload_timeout=1) as client:
        for n in range(first, first + 10**6):
            predict(client, n, out)


def random_moments(url, folder):
    chance, kills, running, at, end = random.Random(7), 0, {}, 0, time.monotonic() + 200
    go_on = lambda: not (folder / "stop").exists() and time.monotonic() < end
    while running or go_on():
        while len(running) < 2 and go_on():
            at += 1
            pid, r = forked(endless, url, folder / "shared.db", at * 10**6)
            running[r] = pid, time.monotonic() + chance.uniform(0.01, 0.4)
        for r, (pid, until) in list(running.items()):
            if time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                assert os.WIFSIGNALED(status), "the client ended by itself"
                with os.fdopen(r, "rb") as f:
                    sys.stdout.writelines(line.decode() for line in f.read().splitlines(keepends=True) if line.endswith(b"\n"))
                del running[r]
                kills += 1
        time.sleep(0.005)
    print(json.dumps(dict(kills=kills)), flush=True)


if __name__ == "__main__":
    what, url, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    every_line(url, folder) if what == "lines" else random_moments(url, folder)
