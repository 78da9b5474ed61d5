"""What a request costs: ours against plain FastAPI, Flask, LitServe, BentoML and MLServer, in turns. Run it by `make bench-serve`; README.md says what it does."""
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
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path
from statistics import median

import numpy as np

import claims
from contestants import FEATURES, FORM, HERE, IMAGES, SERVERS, WORK, form, versions
from measure import ServerFailed, adopt, cores, free_port, hey, measured, missing, running, tail, wait_for, wrk

sys.path.insert(0, str(SERVERS))
import model

CONNECTIONS = 50
ROWS = np.random.default_rng(7).normal(0, 2, (5, len(model.NAMES))).round(3).tolist()
PICTURES = {"224x224": (224, 224), "1080p": (1920, 1080)}
FEATURES_LIMIT, IMAGES_LIMIT = 0.5, 2.0


def say(text): print(text, file=sys.stderr, flush=True)


# --- what is asked ----------------------------------------------------------------------------------------------------------

def photograph(width, height):
    "A JPEG of leaves with the noise of a camera, since smooth pictures decode too fast."
    from mlops_course.data import leaves
    from PIL import Image
    rng, side = np.random.default_rng(3), 256
    tiles = leaves((height // side + 1) * (width // side + 1), size=side, seed=3)[0]
    whole = np.concatenate([np.concatenate(list(tiles[i:i + width // side + 1]), 1) for i in range(0, len(tiles), width // side + 1)])[:height, :width]
    image = Image.fromarray((whole + rng.normal(0, 6, whole.shape)).clip(0, 255).astype(np.uint8))
    image.save(out := BytesIO(), "JPEG", quality=90)
    return out.getvalue()


def pictures():
    "name → the file of a JPEG and of a form that holds it."
    out = {}
    for name, size in PICTURES.items():
        data, out[name] = photograph(*size), {"file": WORK / f"{name}.jpg", "form": WORK / f"{name}.form"}
        out[name]["file"].write_bytes(data)
        out[name]["form"].write_bytes(form(data))
    return out


def leaves_environment():
    from mlops_course.serialize import given, load
    path = given("leaves.onnx")
    return {"LEAVES": str(path), "LABELS": "|".join(load(path).signature.labels)}


# --- one run ----------------------------------------------------------------------------------------------------------------

def same(found, expected, name):
    "Raises `ServerFailed` where a server gives other probabilities than the model does."
    if len(found) != len(expected) or not np.allclose(found, expected, atol=1e-5): raise ServerFailed(f"{name} gave {np.round(found, 5).tolist()}, and the model gives {np.round(expected, 5).tolist()}")


def turn(c, cores, extra, asked, load):
    "Start a contestant, check its answers, warm it up, measure it, end it. `asked`: pairs of body and right probabilities."
    from measure import ask
    port, log = free_port(), WORK / f"{c.name}.log"
    with tempfile.TemporaryDirectory(dir=WORK) as folder, running(c.words(port), cores[0], folder, c.environment(port, {**extra, "LOG": f"{folder}/log"}), log) as process:
        wait_for(process, port, c.path, asked[0][0], c.type, log)
        for body, expected in asked:
            status, reply = ask(port, c.path, body, c.type, timeout=30)
            if status != 200: raise ServerFailed(f"{c.title} gave {status} {reply[:200]!r}")
            same(c.read(json.loads(reply)), expected, c.title)
        load(port, warm=True)
        try: run = measured(process.pid, lambda: load(port))
        except ServerFailed as e: raise ServerFailed(f"{c.title}: {e}; it said last:\n{tail(log)}") from None
    if run["died"]: say(f"  {c.title}: {len(run['died'])} of its processes died under the load: {', '.join(run['died'])}")
    return run


def rounds(contestants, n, one, failed, what):
    "name → its runs: each round takes every contestant in turn."
    runs = {c.name: [] for c in contestants}
    for k in range(n):
        for c in contestants:
            if f"{what}: {c.title}" in failed: continue
            load = os.getloadavg()[0]
            try: r = one(c)
            except (ServerFailed, OSError, KeyError, ValueError, TypeError) as e:
                failed[f"{what}: {c.title}"] = f"{type(e).__name__}: {e}" if not isinstance(e, ServerFailed) else str(e)
                say(f"  {c.title} is left out of what follows: {e}")
                continue
            runs[c.name].append(r | {"load_before": round(load, 2)})
            say(f"{what:16} round {k + 1} of {n}  {c.title:45} {r['cpu_us']:9,.1f} CPU µs {r['per_second']:9,.0f} a second   p50 {r['p50_ms']:7,.1f} ms   p99 {r['p99_ms']:8,.1f} ms" + (f"   {r['failures']} FAILED" if r["failures"] else ""))
    return {name: each for name, each in runs.items() if each and not any(name == c.name and f"{what}: {c.title}" in failed for c in contestants)}


def summed(runs):
    "The medians of the rounds, and how far the CPU time spread."
    middle = lambda key: round(median(r[key] for r in runs), 3)
    return {**{key: middle(key) for key in ("cpu_us", "per_second", "p50_ms", "p99_ms")}, "cpu_us_least": round(min(r["cpu_us"] for r in runs), 3), "cpu_us_most": round(max(r["cpu_us"] for r in runs), 3), "answered": sum(r["answered"] for r in runs),
            "failures": sum(r["failures"] for r in runs), "died": sum(len(r["died"]) for r in runs), "processes": runs[-1]["processes"], "rounds": [{k: round(v, 3) if isinstance(v, float) else v for k, v in r.items()} for r in runs]}


def features(args, cores, extra, failed):
    asked = {c.name: [(c.body(model.NAMES, row), p) for row, p in zip(ROWS, model.score(ROWS).tolist())] for c in FEATURES}
    def one(c):
        body = WORK / f"{c.name}.body"
        body.write_bytes(asked[c.name][0][0])
        return turn(c, cores, extra, asked[c.name], lambda port, warm=False: wrk(port, c.path, cores[1], 1 if warm else args.seconds, CONNECTIONS, body, c.type))
    return {name: summed(runs) for name, runs in rounds(FEATURES, args.rounds, one, failed, "features").items()}


def floor(cores, extra, seconds, found):
    "Decode and inference alone, in one process without a server: picture → CPU µs and the answer."
    c = next(c for c in IMAGES if c.env == "fastapi")
    files = {str(files["file"]): name for name, files in found.items()}
    done = subprocess.run([c.bin / "python", SERVERS / "leaves.py", str(seconds), *files], env=c.environment(0, extra), capture_output=True, text=True, timeout=300, preexec_fn=lambda: os.sched_setaffinity(0, {cores[0]}))
    if done.returncode: raise ServerFailed(f"decode and inference alone: {done.stderr[-500:]}")
    return {files[path]: took for path, took in json.loads(done.stdout).items()}


def images(args, cores, extra, failed):
    found, out, floors, runs = pictures(), {}, {name: [] for name in PICTURES}, {name: {} for name in PICTURES}
    for _ in range(args.rounds):  # the floor takes its turn in every round, so that it meets the same machine
        try: now = floor(cores, extra, min(args.seconds, 2), found)
        except ServerFailed as e:
            failed["images: decode and inference alone"] = str(e)
            return {}
        for name, files in found.items():
            floors[name].append(now[name]["cpu_us"])
            right = list(now[name]["answer"]["probabilities"].values())
            n = max(CONNECTIONS, int(args.seconds * 0.8e6 / now[name]["cpu_us"]))
            def one(c):
                body = files["form" if c.type == FORM else "file"]
                return turn(c, cores, extra, [(body.read_bytes(), right)], lambda port, warm=False: hey(port, c.path, cores[1], CONNECTIONS if warm else n, CONNECTIONS, body, c.type))
            for key, each in rounds(IMAGES, 1, one, failed, f"picture {name}").items(): runs[name].setdefault(key, []).extend(each)
    for name, files in found.items():
        out[name] = {"bytes": files["file"].stat().st_size, "floor_cpu_us": round(median(floors[name]), 1), "floors": [round(f, 1) for f in floors[name]], "servers": {key: summed(each) for key, each in runs[name].items()}}
    return out


# --- targets ----------------------------------------------------------------------------------------------------------------

def ratio(ours, theirs): return median(a / b for a, b in zip(ours, theirs))  # round by round: both met the same machine
def cpu(summary): return [r["cpu_us"] for r in summary["rounds"]]


def targets(results):
    "What is promised and what was measured. A target that could not be measured does not hold."
    rows, f, titles = [], results["features"], {c.name: c.title for c in FEATURES}
    def target(what, value, limit, at_least=False): rows.append({"what": what, "measured": value, "limit": limit, "at_least": at_least, "held": value is not None and bool(value >= limit if at_least else value <= limit)})
    kinds = {c.name: c.kind for c in FEATURES}
    there = lambda *kind: [name for name in f if kinds[name] in kind]
    plain, peers, own = there("fastapi"), there("fastapi", "peer"), f.get("ours")
    cheapest = min(plain, key=lambda n: f[n]["cpu_us"], default=None)
    target("features: CPU of ours / plain FastAPI" + (f" ({titles[cheapest]})" if cheapest else ""), ratio(cpu(own), cpu(f[cheapest])) if own and cheapest else None, FEATURES_LIMIT)
    complete = own and not any(kinds[c.name] in ("fastapi", "peer") and c.name not in f for c in FEATURES)
    for what, key, better in (("CPU", "cpu_us", min), ("requests a second", "per_second", max)):
        best = better(peers, key=lambda n: f[n][key], default=None)
        series = lambda s: [r[key] for r in s["rounds"]]
        target(f"features: {what} of ours / the best of the peers" + (f" ({titles[best]})" if best else ""), ratio(series(own), series(f[best])) if complete else None, 1.0, at_least=better is max)
    target("features: requests to ours that failed", own["failures"] + own["died"] if own else None, 0)
    for name in PICTURES:
        picture = results["images"].get(name, {})
        own = picture.get("servers", {}).get("ours")
        target(f"picture {name}: CPU of ours / decode and inference alone", ratio(cpu(own), picture["floors"]) if own else None, IMAGES_LIMIT)
        target(f"picture {name}: requests to ours that failed", own["failures"] + own["died"] if own else None, 0)
    return rows


# --- the table and the picture ----------------------------------------------------------------------------------------------

def machine():
    name = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    return {"processor": name, "cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version(), "load_before": round(os.getloadavg()[0], 2)}


def commit():
    git = lambda *words: subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True).stdout.strip()
    try: return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except OSError: return ""


def _row(*cells): return "| " + " | ".join(map(str, cells)) + " |"
def _number(x): return "–" if x is None else f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def _servers(contestants, found, base, of):
    head = ["server", "CPU µs per request", "spread", f"times {of}", "requests a second", "p50 ms", "p99 ms", "answered", "failed", "processes"]
    yield from (_row(*head), _row(*["---"] * len(head)))
    for c in sorted((c for c in contestants if c.name in found), key=lambda c: found[c.name]["cpu_us"]):
        s = found[c.name]
        yield _row(f"**{c.title}**" if c.kind == "ours" else c.title, _number(s["cpu_us"]), f"{_number(s['cpu_us_least'])} – {_number(s['cpu_us_most'])}", f"{ratio(cpu(s), base):.2f}" if base else "–", f"{s['per_second']:,.0f}", _number(s["p50_ms"]), _number(s["p99_ms"]), f"{s['answered']:,}",
                   f"{s['failures']:,}" + (f" ({s['died']} processes died)" if s["died"] else ""), s["processes"])


def cheapest(found): return min((c.name for c in FEATURES if c.kind == "fastapi" and c.name in found), key=lambda n: found[n]["cpu_us"], default=None)


def table(r):
    "The results as Markdown."
    m, f = r["machine"], r["features"]
    packages = {k: v for each in r["versions"].values() for k, v in each.items()}
    out = [f"Measured {r['date'][:10]}" + (" **(quick)**" if r["quick"] else "") + f" on {m['processor']}, Python {m['python']}: " + ", ".join(f"{k} {v}" for k, v in packages.items()) + (f" at {r['commit']}" if r["commit"] else "")
           + f". {r['connections']} connections, server on one core and client on another; {r['rounds']} rounds in turn, {r['seconds']} s each; medians. Load before: {m['load_before']}."
           + (" **Others were using this machine: CPU time and its ratios count, requests a second and latency say little.**" if m["load_before"] > m["cores"] else ""), "", _row("target", "measured", "limit", "verdict"), _row(*["---"] * 4)]
    out += [_row(t["what"], "–" if t["measured"] is None else f"{t['measured']:.3g}", f"{'≥' if t['at_least'] else '≤'} {t['limit']:g}", "held" if t["held"] else "not measured" if t["measured"] is None else "**missed**") for t in r["targets"]]
    base = cheapest(f)
    out += ["", "**Features**: ten numbers in, three probabilities out", "", *_servers(FEATURES, f, cpu(f[base]) if base else None, "plain FastAPI")]
    for name, p in r["images"].items():
        out += ["", f"**Picture {name}**: a JPEG of {p['bytes']:,} bytes; decode and inference alone cost {_number(p['floor_cpu_us'])} CPU µs", "", *_servers(IMAGES, p["servers"], p["floors"], "the floor")]
    out += ["", "What one hears, and what was measured here:", ""] + [f"- *{claim}*: {sentence}" for claim, sentence in r["findings"].items()]
    out += [f"\nNot measured: {what} ({why.splitlines()[0]})" for what, why in r["failed"].items()]
    return "\n".join(out) + "\n"


def picture(r, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    panels = [("features, CPU µs per request", FEATURES, r["features"], None)] + [(f"JPEG {name}, CPU ms per request", IMAGES, p["servers"], p["floor_cpu_us"] / 1e3) for name, p in r["images"].items()]
    fig, axes = plt.subplots(1, len(panels), figsize=(16, 4.6), layout="constrained", width_ratios=[1.5] + [1] * (len(panels) - 1), squeeze=False)
    for ax, (title, contestants, found, line) in zip(axes[0], panels):
        shown = sorted((c for c in contestants if c.name in found), key=lambda c: found[c.name]["cpu_us"])
        scale = 1 if line is None else 1e-3
        value = lambda c, key="cpu_us": scale * found[c.name][key]
        bars = ax.barh([c.title for c in shown], [value(c) for c in shown], color=["#1c568f" if c.title.startswith("ours") else "#a0a0a0" for c in shown],
                       xerr=[[value(c) - value(c, "cpu_us_least") for c in shown], [value(c, "cpu_us_most") - value(c) for c in shown]], error_kw={"lw": 0.8, "ecolor": "#404040"})
        ax.bar_label(bars, fmt="{:,.0f}" if line is None else "{:.2g}", padding=4, fontsize=8)
        if line is not None: ax.axvline(line, color="k", lw=0.8, ls=":"); ax.text(line, len(shown) - 0.45, " decode + inference", fontsize=7, va="bottom")
        ax.invert_yaxis(); ax.set_title(title, fontsize=10); ax.tick_params(labelsize=8); ax.margins(x=0.18)
        for side in ("top", "right"): ax.spines[side].set_visible(False)
    fig.savefig(path, dpi=100)
    plt.close(fig)


def write(results, folder):
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    (folder / "results.md").write_text(table(results))
    picture(results, folder / "results.png")


# --- all of it --------------------------------------------------------------------------------------------------------------

def usable(failed):
    "Versions of each contestant's environment; what is not whole is said and left out."
    found = {}
    for c in FEATURES:
        if c.env in found or f"environment {c.env}" in failed: continue
        try: found[c.env] = versions(c)
        except (OSError, subprocess.CalledProcessError, ValueError) as e:
            failed[f"environment {c.env}"] = f"{c.bin.parent} is not whole; remove it and run  make bench-serve  again"
            say(f"{c.title}: {failed[f'environment {c.env}']} ({getattr(e, 'stderr', '') or e})")
    return found


def heard(args, cores, extra, failed):
    files = {name: {"file": WORK / f"{name}.jpg", "form": WORK / f"{name}.form"} for name in PICTURES}["224x224"]
    n, found = CONNECTIONS * (4 if args.quick else 20), {}
    for name, ask in (("load per request", lambda: claims.load_per_request(cores, extra, CONNECTIONS, files["file"], files["form"], n)),
                      ("batching", lambda: claims.batching(cores, extra, CONNECTIONS, files["file"], n, 0.3 if args.quick else 2)), ("async", lambda: claims.waiting(cores, extra, CONNECTIONS, args.seconds))):
        say(f"what one hears: {name}")
        try: found[name] = ask()
        except (ServerFailed, OSError, subprocess.SubprocessError) as e:
            failed[f"claim: {name}"] = str(e)
            say(f"  {e}")
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=int, default=4, help="of each run")
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
    start, failed, both, extra = time.perf_counter(), {}, cores(), leaves_environment()
    results = {"format": 1, "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "commit": commit(), "machine": machine(), "quick": args.quick, "connections": CONNECTIONS, "rounds": args.rounds, "seconds": args.seconds,
               "versions": usable(failed), "failed": failed, "features": features(args, both, extra, failed), "images": images(args, both, extra, failed)}
    results["heard"] = heard(args, both, extra, failed)
    results["findings"] = claims.findings(results["features"], results["heard"])
    results["targets"] = targets(results)
    results["machine"]["load_after"] = round(os.getloadavg()[0], 2)
    out = WORK if args.quick else HERE
    write(results, out)
    print(table(results))
    say(f"Wrote {out / 'results.json'}, results.md and results.png in {time.perf_counter() - start:.0f} s")
    missed = [t for t in results["targets"] if not t["held"]]
    for t in missed: say(f"MISSED  {t['what']}: " + ("not measured" if t["measured"] is None else f"{t['measured']:.3g}") + f", and {'at least' if t['at_least'] else 'at most'} {t['limit']:g} was promised")
    if missed or failed: sys.exit(1)


if __name__ == "__main__":
    try: main()
    except KeyboardInterrupt: sys.exit("\nstopped; nothing is left running, and results.json holds the run before")
