"""What every contestant does alike: read the tables, do the work once to warm up on a small piece, then once for the clock. Prints one line of JSON. Runs in the contestant's own environment, so it asks for numpy and pandas only."""
import json
import resource
import sys
import time

import numpy as np
import pandas as pd


def cpu(): # of this process and of those that it started and ended
    return sum(r.ru_utime + r.ru_stime for r in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)))


def clocked(f, repeat=1):
    "Median CPU and wall seconds of the calls, and what the last one gave."
    took = []
    for _ in range(repeat):
        start, wall = cpu(), time.perf_counter()
        out = f()
        took.append((cpu() - start, time.perf_counter() - wall))
    return {"cpu": float(np.median([c for c, _ in took])), "wall": float(np.median([w for _, w in took]))}, out


def tables(): # folder and repeats from the command line -> reference and batch as frames
    folder = sys.argv[1]
    frames = [np.load(f"{folder}/{name}.npy") for name in ("reference", "batch")]
    return [pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])]) for x in frames]


def main(prepare, work, answer, also=lambda result: {}):
    "`prepare(reference)` → fitted (or just the reference), `work(fitted, batch)` → result, `answer(result)` → {column: [KS statistic, p]}; both None where it gives none. `also(result)` → what else is to be noted."
    reference, batch = tables()
    repeat = int(sys.argv[2])
    small = prepare(reference.head(2000))
    work(small, batch.head(200))
    fit, fitted = clocked(lambda: prepare(reference))
    score, result = clocked(lambda: work(fitted, batch), repeat)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"fit": fit, "score": score, "peak_mb": round(peak), "answers": answer(result), **also(result)}))
