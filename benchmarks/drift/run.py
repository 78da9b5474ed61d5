"""What a drift report costs: ours against scipy's loop, Evidently, alibi-detect and NannyML, in turns. Run it by `make bench-drift`; README.md says what it does."""
import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

import numpy as np

HERE = Path(__file__).resolve().parent
WORK = HERE / "work"
CONTESTANTS = {"ours": ("drift", "mlops_course, all tests and JSON", "mlops_course"), "scipy_loop": ("drift", "scipy, loop over ks_2samp", "scipy"), "evidently_report": ("evidently", "Evidently, DataDriftPreset()", "evidently"), "evidently_ks": ("evidently", 'Evidently, DataDriftPreset(num_method="ks")', "evidently"),
               "alibi_ks": ("alibi", "alibi-detect, KSDrift", "alibi-detect"), "nannyml_ks": ("nannyml", "NannyML, Kolmogorov-Smirnov", "nannyml"),
               "ours_html": ("drift", "mlops_course, with its page and JSON in files", "mlops_course"), "evidently_html": ("evidently", "Evidently, DataDriftPreset(), with save_html", "evidently")}
SCENARIOS = {"batch": ("500 rows × 50 columns against 100,000", 100_000, 500, 50, {"ours": 21, "scipy_loop": 5, "alibi_ks": 5, "nannyml_ks": 5}, 3),  # title, n, m, columns, calls in a round whose median counts, rounds
             "table": ("100,000 × 60 against 100,000", 100_000, 100_000, 60, {"ours": 3, "scipy_loop": 3, "alibi_ks": 3, "nannyml_ks": 3}, 3),
             "page": ("100,000 × 60 against 100,000, with the HTML page", 100_000, 100_000, 60, {"ours_html": 3}, 3),
             "large": ("1,000,000 × 20 against 1,000,000", 1_000_000, 1_000_000, 20, {}, 3)}
LARGE_ONCE = ("evidently_report", "evidently_ks")  # more than a minute each: one round of the large tables
TARGETS = [("batch", "score", "scipy_loop", 20), ("batch", "score", "evidently_report", 500), ("page", "both", "evidently_html", 20), ("large", "score", "scipy_loop", 4)]


def ours(scenario): return "ours_html" if scenario == "page" else "ours"
def takes_part(name, scenario): return name.endswith("_html") == (scenario == "page")


def say(text): print(text, file=sys.stderr, flush=True)


def drawn(folder, n, m, k): # every tenth column is shifted, by up to half a standard deviation; a third is rounded
    rng = np.random.default_rng(11)
    for name, rows, moved in (("reference", n, 0), ("batch", m, 1)):
        x = rng.normal(size=(rows, k)) + moved * np.where(np.arange(k) % 10 == 9, np.linspace(0, 0.5, k), 0)
        x[:, 1::3] = x[:, 1::3].round(1)
        np.save(folder / f"{name}.npy", x)


def turn(name, folder, repeat):
    "One contestant in a process of its own; its CPU seconds and its answers, or why there are none."
    env, title, _ = CONTESTANTS[name]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "MAKE"))}
    threads = {v: "1" for v in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
    load = os.getloadavg()[0]
    done = subprocess.run([HERE.parent / f".venv-{env}" / "bin" / "python", HERE / "contestants" / f"{name}.py", folder, str(repeat)], env={**kept, **threads}, capture_output=True, text=True, timeout=1800)
    if done.returncode: raise RuntimeError(f"{title}: {done.stderr.strip().splitlines()[-1][:300] if done.stderr.strip() else f'ended with {done.returncode}'}")
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"load": round(load, 2)}


def away(answers, right): # the largest distance of D and of p from scipy's, over the columns
    gap = lambda i: max((abs(answers[c][i] - right[c][i]) for c in answers if answers[c][i] is not None), default=None)
    return {"D": gap(0), "p": gap(1)}


def measured(scenario, names, failed, rounds): # at most so many rounds
    title, n, m, k, repeats, own = SCENARIOS[scenario]
    folder = WORK / scenario
    folder.mkdir(parents=True, exist_ok=True)
    drawn(folder, n, m, k)
    names = [name for name in names if takes_part(name, scenario)]
    runs, answers = {name: [] for name in names}, {}
    for r in range(min(rounds, own)):
        for name in names:
            if (scenario, name) in failed or r and scenario == "large" and name in LARGE_ONCE: continue
            try: found = turn(name, folder, repeats.get(name, 1))
            except (RuntimeError, subprocess.TimeoutExpired, ValueError) as e:
                failed[scenario, name] = str(e)[:400]
                say(f"  left out: {e}")
                continue
            answers[name] = found.pop("answers")
            runs[name].append(found)
            say(f"{title:36} round {r + 1}  {CONTESTANTS[name][1]:45} fit {found['fit']['cpu']:8.3f}  score {found['score']['cpu']:8.4f} CPU s  {found['peak_mb']:6} MB")
    shutil.rmtree(folder)
    middle = lambda each, f: round(median(f(x) for x in each), 5)
    return {name: {"fit": middle(each, lambda x: x["fit"]["cpu"]), "score": middle(each, lambda x: x["score"]["cpu"]), "both": middle(each, lambda x: x["fit"]["cpu"] + x["score"]["cpu"]), "peak_mb": max(x["peak_mb"] for x in each), "page_mb": each[0].get("page_mb"),
                   "from_scipy": away(answers[name], answers["scipy_loop"]) if answers[name] and "scipy_loop" in answers else None, "rounds": each} for name, each in runs.items() if each}


def versions():
    out = {}
    for env, _, package in CONTESTANTS.values():
        ask = f"from importlib.metadata import version as v; print(', '.join(f'{{p}} {{v(p)}}' for p in ({package!r}, 'numpy', 'pandas', 'scipy')))"
        done = subprocess.run([HERE.parent / f".venv-{env}" / "bin" / "python", "-c", ask], capture_output=True, text=True)
        out[env if package != "mlops_course" else "ours"] = done.stdout.strip()
    return out


def ratios(found):
    "Each target: how many times less CPU than the other."
    for scenario, what, other, least in TARGETS:
        each = found.get(scenario, {})
        yield scenario, what, other, least, each[other]["both"] / each[ours(scenario)][what] if {ours(scenario), other} <= set(each) else None


def report(found, failed, about):
    small = lambda v: "" if v is None else "0" if v == 0 else f"{v:.0e}" if v < 0.001 else f"{v:.3f}"
    load = median(r["load"] for each in found.values() for v in each.values() for r in v["rounds"])
    lines = ["# What does a drift report cost?", "", f"Made by `make bench-drift` on {about['when']}: {about['cores']} cores, {about['system']}, Python {about['python']}. CPU seconds, medians of the rounds, all in turns, one thread each. Load before the runs (median): {load:.1f}" + (", so the machine was shared, and what is bound by memory, such as sorting and looking up, took longer than on a quiet one." if load > 1.5 else "."), ""]
    for scenario, (title, *_) in SCENARIOS.items():
        each = found.get(scenario, {})
        if not each: continue
        lines += [f"## {title}", "", "| | fit, CPU s | score, CPU s | × ours (score) | × ours (fit and score) | peak MB | farthest from scipy: D | p |", "|---|---:|---:|---:|---:|---:|---:|---:|"]
        for name, v in each.items():
            away = v["from_scipy"] or {"D": None, "p": None}
            times, whole = (f"{v[what] / each[ours(scenario)][what]:.1f}" if ours(scenario) in each else "" for what in ("score", "both"))
            lines.append(f"| {CONTESTANTS[name][1]} | {v['fit']:.3f} | {v['score']:.4f} | {times} | {whole} | {v['peak_mb']:,} | {small(away['D'])} | {small(away['p'])} |")
        lines.append("")
        if scenario == "page": lines += ["Size of the page: " + "; ".join(f"{CONTESTANTS[name][1]}: {v['page_mb']:.2f} MB" for name, v in each.items()) + ".", ""]
    lines += ["## Targets", "", "| | asked | measured | |", "|---|---:|---:|---|"]
    words = {"score": "score against a fitted reference", "both": "fit and score"}
    for scenario, what, other, least, times in ratios(found):
        got = "not measured" if times is None else f"{times:.1f}×"
        lines.append(f"| {SCENARIOS[scenario][0]}, {words[what]}, against {CONTESTANTS[other][1]} | {least}× | {got} | {'met' if times and times >= least else '**missed**'} |")
    lines += [""] + [f"Left out: {CONTESTANTS[name][1]}, {SCENARIOS[scenario][0]}: {why}" for (scenario, name), why in failed.items()]
    lines += ["", "Versions: " + "; ".join(about["versions"].values()) + "."]
    return "\n".join(lines).rstrip() + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--quick", action="store_true", help="one round, without the large tables; written to work/ only")
    p.add_argument("--only", choices=SCENARIOS, help="this one alone; the others stay as results.json has them")
    args = p.parse_args()
    names = [name for name, (env, *_) in CONTESTANTS.items() if (HERE.parent / f".venv-{env}" / "bin" / "python").exists()]
    failed, found = {("batch", name): "its environment could not be made" for name in CONTESTANTS if name not in names}, {}
    if args.only: found = json.loads((HERE / "results.json").read_text())["scenarios"]
    for scenario in [args.only] if args.only else ("batch", "table", "page") if args.quick else SCENARIOS: found[scenario] = measured(scenario, names, failed, 1 if args.quick else 9)
    about = dict(when=datetime.now(timezone.utc).strftime("%Y-%m-%d"), cores=os.cpu_count(), system=platform.platform(terse=True), python=platform.python_version(), versions=versions())
    out = WORK if args.quick else HERE
    (out / "results.json").write_text(json.dumps({**about, "scenarios": found, "failed": {f"{s}, {n}": why for (s, n), why in failed.items()}}, indent=1) + "\n")
    (out / "results.md").write_text(text := report(found, failed, about))
    print(text)
    missed = [f"{SCENARIOS[s][0]} against {other}" for s, what, other, least, times in ratios(found) if s in found and not (times and times >= least)]
    if missed: sys.exit("missed or not measured: " + "; ".join(missed))


if __name__ == "__main__": main()
