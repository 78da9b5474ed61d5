"""Do the verdicts hold their promises? False alarms and power of `Reference.score` and of the textbook rules, by simulation. README.md says what it does.

    python benchmarks/drift/calibration.py              # about half an hour of one core; writes calibration.json and calibration.md
    python benchmarks/drift/calibration.py --runs 20 --out look --work look   # a first look
"""
import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from mlops_course.detect import Reference

HERE = Path(__file__).parent
REFERENCE, COLUMNS, BATCHES, SHIFT = 100_000, 50, 100, 0.1
SIZES = (30, 500, 5000, 50_000)
SEED = 7


# --- worlds: without drift, every row of a world comes from the same distribution ---------------------------------------------

def continuous(rng, rows): # no ties: the case in which tests are least cautious
    return pd.DataFrame(rng.normal(size=(COLUMNS, rows)).T, columns=[f"x{i}" for i in range(COLUMNS)])


def mixed(rng, rows): # what tables are like: skewed and rounded numbers, counts, gaps, mostly-zero columns, yes or no, few and many categories
    z = rng.normal(size=(COLUMNS, rows))
    columns = {f"x{i}": z[i] if i < 10 else np.exp(z[i]) if i < 15 else z[i].round(1) if i < 20 else np.floor(np.abs(3 * z[i])) if i < 25 else np.maximum(z[i] - 1.5, 0) if i < 30 else np.where(rng.random(rows) < 0.01 * (i - 29), np.nan, z[i]) for i in range(35)}
    for i in range(35, 40): columns[f"x{i}"] = z[i] > (i - 37.5)
    for i in range(40, 45): columns[f"x{i}"] = np.array(["a", "b", "c", "d", "e"])[np.searchsorted([-1, 0, 1, 2], z[i])]
    zipf = 1 / np.arange(1, 301)
    for i in range(45, 50): columns[f"x{i}"] = rng.choice([f"k{j}" for j in range(300)], size=rows, p=zipf / zipf.sum())
    return pd.DataFrame(columns)


WORLDS = {"continuous": continuous, "mixed": mixed}


# --- one run ----------------------------------------------------------------------------------------------------------------

def flags(report):
    "Which rule raises an alarm on which column."
    columns = lambda holds: {f.column for f in report.findings if holds(f)}
    psi = {c: v["psi"] for c, v in report.columns.items() if v["psi"] is not None}
    return {"calibrated": columns(lambda f: f.level == "drift"), "significant": columns(lambda f: f.adjusted is not None and f.adjusted < report.rules["alpha"]), "unsure": columns(lambda f: f.level == "unsure"),
            "D > 0.1": columns(lambda f: f.test == "ks" and f.statistic > 0.1), "p < 0.05": columns(lambda f: f.test == "ks" and f.pvalue < 0.05), "PSI > 0.1": {c for c, v in psi.items() if v > 0.1}, "PSI > 0.2": {c for c, v in psi.items() if v > 0.2}}


def raised(report): return {rule: bool(found) for rule, found in flags(report).items()}


def batches(run):
    "Single batches, without drift and with one shifted column: scenario → rule → did it raise an alarm, or find the column."
    out = {}
    for w, (world, draw) in enumerate(WORLDS.items()):
        rng = np.random.default_rng([SEED, 0, w, run])
        reference = Reference.fit(draw(rng, REFERENCE))
        for n in SIZES:
            batch = draw(rng, n)
            out[f"{world}, quiet, {n}"] = raised(reference.score(batch))
            if world == "continuous" and n in (500, 5000):
                moved = batch.assign(x0=batch.x0 + SHIFT)
                out[f"{world}, moved, {n}"] = {rule: "x0" in found for rule, found in flags(reference.score(moved)).items()}
                out[f"{world}, moved, {n}, looks={BATCHES}"] = {"calibrated": "x0" in flags(reference.score(moved, looks=BATCHES))["calibrated"]}
    for n in (500, 5000): # a reference as small as the batch: up to 1,000 rows KS counts exactly
        rng = np.random.default_rng([SEED, 1, n, run])
        out[f"continuous, quiet, {n} against {n}"] = raised(Reference.fit(continuous(rng, n)).score(continuous(rng, n)))
    return out


def stream(world, run):
    "A hundred batches without drift against one reference: did any of them raise an alarm?"
    rng = np.random.default_rng([SEED, 2, list(WORLDS).index(world), run])
    reference = Reference.fit(WORLDS[world](rng, REFERENCE))
    days = [raised(reference.score(WORLDS[world](rng, 500), looks=BATCHES)) for _ in range(BATCHES)]
    return {f"{world}, stream, 500": {rule: any(day[rule] for day in days) for rule in days[0]}}


PARTS = {"batches": (batches, 200), "stream, continuous": (lambda run: stream("continuous", run), 200), "stream, mixed": (lambda run: stream("mixed", run), 100)}  # and how many runs


# --- all runs -----------------------------------------------------------------------------------------------------------------

def interval(k, n, level=0.95): # Clopper & Pearson 1934
    a = (1 - level) / 2
    return (float(stats.beta.ppf(a, k, n - k + 1)) if k else 0.0, float(stats.beta.isf(a, k + 1, n - k)) if k < n else 1.0)


def shares(runs):
    "scenario → rule → {share, low, high, alarms, runs}"
    out = {}
    for scenario in runs[0]:
        out[scenario] = {}
        for rule in runs[0][scenario]:
            k, n = sum(r[scenario][rule] for r in runs), len(runs)
            low, high = interval(k, n)
            out[scenario][rule] = dict(share=k / n, low=low, high=high, alarms=k, runs=n)
    return out


PROMISES = [*((f"{world}, {kind}", "significant", "at most", 0.05) for world in WORLDS for kind in ("quiet, 30", "quiet, 500", "quiet, 5000", "quiet, 50000", "stream, 500")),
            *((f"continuous, quiet, {n} against {n}", "significant", "at most", 0.05) for n in (500, 5000)),
            ("continuous, moved, 5000", "calibrated", "at least", 0.95), ("continuous, moved, 5000, looks=100", "calibrated", "at least", 0.90)]


def kept(s, how, limit):
    "False alarms: consistent with the limit, that is, the interval's lower end is not above it. Power: the share itself."
    return s["low"] <= limit if how == "at most" else s["share"] >= limit


def table(found):
    percent = lambda s: f"{100 * s['share']:.1f} ({100 * s['low']:.1f} to {100 * s['high']:.1f})"
    rules = ("D > 0.1", "p < 0.05", "PSI > 0.1", "PSI > 0.2", "calibrated", "significant", "unsure")
    lines = ["| what happens | runs | " + " | ".join(rules) + " |", "|---|---:|" + "---:|" * len(rules)]
    for scenario, by in found.items(): lines.append(f"| {scenario} | {by['calibrated']['runs']} | " + " | ".join(percent(by[r]) if r in by else "" for r in rules) + " |")
    lines += ["", "| promise | measured, % (95 % interval) | |", "|---|---:|---|"]
    for scenario, rule, how, limit in PROMISES:
        s = found[scenario][rule]
        lines.append(f"| {scenario}: {how} {100 * limit:.0f} % | {percent(s)} | {'kept' if kept(s, how, limit) else '**not kept**'} |")
    return lines


INTRO = """# Do the verdicts hold their promises?

Made by `python benchmarks/drift/calibration.py` (seed {seed}). Every row is a share of its runs, in percent, with its 95 % interval (Clopper-Pearson). Each run draws new references of {reference:,} rows and {columns} columns, and new batches.

- *quiet, n*: one batch of n rows without drift; alarm: any column. *n against n*: the reference is as small as the batch.
- *moved, n*: column x0 is shifted by {shift} standard deviations; found: x0 is named. *looks=100*: with the budget of one look of 100.
- *stream, 500*: {batches} batches of 500 without drift against one reference; alarm: any batch, any column. Calibrated with `looks={batches}`; the textbook rules know no budget.
- *significant*: adjusted p below 0.05, whatever the size; *calibrated*: also large enough to matter (level `drift`), so never more often; the promise is held to the former; *unsure*: a column where 80 % power needs a shift above half a standard deviation.
- The world *continuous* has 50 normal columns; *mixed* has skewed and rounded numbers, counts, missing values, mostly-zero columns, yes or no, 5 and 300 categories.
"""


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--runs", type=int, default=10**6, help="at most so many runs of each part, for a first look")
    p.add_argument("--out", type=Path, default=HERE, help="folder for calibration.json and calibration.md")
    p.add_argument("--work", type=Path, default=HERE / "work", help="folder that keeps each finished run, so that a broken-off measurement goes on where it was")
    args = p.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    found, start = {}, time.process_time()
    for part, (measure, runs) in PARTS.items():
        log, done = args.work / f"calibration, {part}.jsonl", {}
        if log.exists(): done = {r.pop("run"): r for r in map(json.loads, log.read_text().splitlines())}
        for run in range(runs := min(runs, args.runs)):
            if run in done: continue
            done[run] = measure(run)
            with open(log, "a") as f: f.write(json.dumps({"run": run, **done[run]}) + "\n")
            print(f"{part}: run {run + 1} of {runs}, {time.process_time() - start:.0f} CPU s", file=sys.stderr, flush=True)
        found |= shares([done[k] for k in range(runs)])
    args.out.mkdir(parents=True, exist_ok=True)
    about = dict(seed=SEED, reference=REFERENCE, columns=COLUMNS, batches=BATCHES, shift=SHIFT)
    (args.out / "calibration.json").write_text(json.dumps({**about, "python": platform.python_version(), "numpy": np.__version__, "pandas": pd.__version__, "shares": found}, indent=1) + "\n")
    (args.out / "calibration.md").write_text(INTRO.format(**about) + "\n" + "\n".join(table(found)) + "\n")
    broken = [f"{s}: {how} {100 * limit:.0f} %" for s, rule, how, limit in PROMISES if not kept(found[s][rule], how, limit)]
    print("\n".join(table(found)))
    if broken: sys.exit("not kept: " + "; ".join(broken))


if __name__ == "__main__": main()
