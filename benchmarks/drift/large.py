"""What a table of a hundred million rows costs: sketched in one pass over Parquet, held against a sketched reference, and checked against the sorted columns themselves. README.md says how; `large.md` holds the figures."""
import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SEED, PART, GROUP, K = 23, 1_000_000, 250_000, 4000
KINDS = ("normal", "lognormal", "uniform", "rounded to 0.1", "normal", "whole numbers", "normal", "rounded to 0.01", "mostly zero", "1 % missing")  # twice: 20 columns
COLUMNS = [f"x{i}" for i in range(20)]
BYTES_A_ROW, SPARE = 60, 2_000_000_000  # on disk, as measured; and what is left to others
TARGETS = {"peak memory, bytes": ("at most", 1e9), "largest error of D": ("at most", 0.002), "largest error of a sketch's heights": ("at most", 0.002), "CPU a row, largest size by smallest": ("at most", 1.25)}


def say(text): print(text, file=sys.stderr, flush=True)


# --- the table ----------------------------------------------------------------------------------------------------------------

def drawn(part, moved):
    "A million rows. In the batch every fifth column is shifted, by 0.02 to 0.08 standard deviations."
    rng = np.random.default_rng([SEED, moved, part])
    columns = {}
    for i, name in enumerate(COLUMNS):
        kind, x = KINDS[i % len(KINDS)], rng.standard_normal(PART, dtype="f4")
        if moved and i % 5 == 4: x += np.float32(0.02 * (i // 5 + 1))
        if kind == "lognormal": x = np.exp(x)
        elif kind == "uniform": x = rng.random(PART, dtype="f4")
        elif kind == "rounded to 0.1": x = x.round(1)
        elif kind == "rounded to 0.01": x = x.round(2)
        elif kind == "whole numbers": x = np.floor(np.abs(5 * x))
        elif kind == "mostly zero": x = np.maximum(x - 1, 0).round(3)
        elif kind == "1 % missing": x[rng.random(PART, dtype="f4") < 0.01] = np.nan
        columns[name] = x
    return columns


def write(folder, parts, moved):
    import pyarrow as pa
    import pyarrow.parquet as pq
    folder.mkdir(parents=True)
    few = [c for i, c in enumerate(COLUMNS) if KINDS[i % len(KINDS)] in ("rounded to 0.1", "rounded to 0.01", "whole numbers", "mostly zero")]
    for part in range(parts):
        pq.write_table(pa.table(drawn(part, moved)), folder / f"{part:03}.parquet", row_group_size=GROUP, use_dictionary=few, compression="snappy")
        if part % 10 == 9: say(f"written: {part + 1} million rows, {sum(f.stat().st_size for f in folder.iterdir()) / 1e9:.2f} GB, {time.process_time():.0f} CPU s")


# --- what is measured, each in a process of its own ---------------------------------------------------------------------------

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def scanned(files, to):
    "Sketch the files; CPU and wall seconds, and the largest memory that this process had, before and after."
    from mlops_course.sketch import Sketch, scan
    import datasketches, pyarrow.parquet  # what is loaded once is not counted by the row
    before = peak()
    cpu, wall = time.process_time(), time.perf_counter()
    sketch = scan(files, k=K, name="current")
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    sketch.save(to)
    return dict(rows=sketch.rows, cpu=cpu, wall=wall, bytes_of_files=sum(Path(f).stat().st_size for f in files), memory_before=before, memory=peak(), bytes_of_sketch=to.stat().st_size)


def only_read(files):
    "The same pass without sketching: what Parquet alone costs."
    import pyarrow.parquet as pq
    from mlops_course.sketch import BATCH
    cpu, rows = time.process_time(), 0
    for file in files:
        with pq.ParquetFile(file) as f: rows += sum(b.num_rows for b in f.iter_batches(BATCH, use_threads=False))
    return dict(rows=rows, cpu=time.process_time() - cpu, memory=peak())


def one_column(files, name):
    "All finite values of a column, sorted."
    import pyarrow.parquet as pq
    x, at = np.empty(len(files) * PART, "f4"), 0
    for file in files:
        v = pq.read_table(file, columns=[name], use_threads=False)[name].to_numpy()
        v = v[np.isfinite(v)]
        x[at:at + len(v)] = v
        at += len(v)
    x = x[:at]
    x.sort()
    return x


def heights(stairs, x):
    "Largest distance between the staircase of a sketch and that of the sorted values: it is at a step, or just below one."
    v, right, left = stairs.values, stairs.below(stairs.values), stairs.below(stairs.values, "left")
    own = v.astype("f4")
    return float(max(np.abs(right / stairs.n - x.searchsorted(own, "right") / len(x)).max(), np.abs(left / stairs.n - x.searchsorted(own, "left") / len(x)).max()))


def checked(reference_files, files, reference, current):
    "D of both sketches against D of all values, column by column."
    from mlops_course.detect import _look_up, _Sorted
    from mlops_course.sketch import Sketch, compare
    reference, current = Sketch.load(reference), Sketch.load(current)
    cpu = time.process_time()
    report = compare(reference, current)
    cpu = time.process_time() - cpu
    ks, found = {f.column: f for f in report.findings if f.test == "ks"}, []
    for i, name in enumerate(COLUMNS):
        small, large = one_column(reference_files, name), one_column(files, name)
        true, stairs = _look_up(_Sorted(large), small)[0], current.columns[name].stairs
        found.append(dict(column=name, kind=KINDS[i % len(KINDS)], rows=len(large), true=true, sketched=ks[name].statistic, error=abs(ks[name].statistic - true), heights=heights(stairs, large), stated=stairs.eps, level=ks[name].level, of_column=report.columns[name]["level"],
                          interval=report.columns[name]["interval"]["ks"]["statistic"]))
        say(f"{name}: D {true:.5f}, sketched {ks[name].statistic:.5f}, heights within {found[-1]['heights']:.5f}, {time.process_time():.0f} CPU s")
    return dict(columns=found, compare_cpu=cpu, memory=peak())


def apart(what, *args):
    "The answer of one of the functions above, from a fresh process with one thread."
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent.parent)}
    out = subprocess.run([sys.executable, str(HERE / "large.py"), "--only", what, *map(str, args)], stdout=subprocess.PIPE, env=env, text=True)
    if out.returncode: sys.exit(f"{what} failed with exit code {out.returncode}; see the message above")
    return json.loads(out.stdout.splitlines()[-1]) if out.stdout.strip() else None


def alone(what, folder, parts, *rest):
    files = sorted(Path(folder).glob("*.parquet"))[:int(parts)]
    if what == "write": return write(Path(folder), int(parts), int(rest[0]))
    if what == "scan": return scanned(files, Path(rest[0]))
    if what == "read": return only_read(files)
    if what == "check": return checked(sorted(Path(rest[0]).glob("*.parquet")), files, Path(rest[1]), Path(rest[2]))
    sys.exit(f"there is no measurement {what!r}")


# --- all of it ----------------------------------------------------------------------------------------------------------------

def measured(work, millions):
    reference, table = work / "reference", work / "table"
    apart("write", reference, 1, 0)
    apart("write", table, millions, 1)
    size = sum(f.stat().st_size for f in table.iterdir())
    known = apart("scan", reference, 1, work / "reference.sketch")
    sizes = [n for n in (1, 10, 20, 100) if n < millions] + [millions]
    scans = [apart("scan", table, n, work / f"{n}.sketch") for n in sizes]
    for s in scans: say(f"{s['rows']:,} rows: {s['cpu'] / s['rows'] * 1e6:.2f} CPU s a million, {s['memory'] / 1e6:.0f} MB")
    read = apart("read", table, min(10, millions))
    return dict(reference=known, scans=scans, read=read, bytes_of_table=size, check=apart("check", table, millions, reference, work / "reference.sketch", work / f"{millions}.sketch"))


def figures(m):
    each = [s["cpu"] / s["rows"] for s in m["scans"]]
    return {"peak memory, bytes": max(s["memory"] for s in m["scans"]), "largest error of D": max(c["error"] for c in m["check"]["columns"]), "largest error of a sketch's heights": max(c["heights"] for c in m["check"]["columns"]), "CPU a row, largest size by smallest": each[-1] / each[0]}


def page(m):
    f = figures(m)
    lines = ["# A table that is larger than memory", "", f"Made by `python benchmarks/drift/large.py` on {m['when']}: {m['processor']}, Python {m['versions']['python']}, " + ", ".join(f"{k} {v}" for k, v in m["versions"].items() if k != "python") + ".",
             f"{m['scans'][-1]['rows']:,} rows × {len(COLUMNS)} columns of float32 in Parquet ({m['bytes_of_table'] / 1e9:.1f} GB on disk; as float32 {m['scans'][-1]['rows'] * len(COLUMNS) * 4 / 1e9:.1f} GB), KLL sketches of k = {K}, one thread, against a sketched reference of a million rows. {m['note']}", "",
             "| rows | CPU s | CPU s a million rows | peak memory, MB | of which before the first row, MB | sketch, MB |", "|---:|---:|---:|---:|---:|---:|"]
    lines += [f"| {s['rows']:,} | {s['cpu']:.1f} | {s['cpu'] / s['rows'] * 1e6:.2f} | {s['memory'] / 1e6:.0f} | {s['memory_before'] / 1e6:.0f} | {s['bytes_of_sketch'] / 1e6:.2f} |" for s in m["scans"]]
    lines += ["", f"Reading the Parquet without sketching: {m['read']['cpu'] / m['read']['rows'] * 1e6:.2f} CPU s a million rows. Holding sketch against sketch, with all tests and the report: {m['check']['compare_cpu']:.2f} CPU s.", "",
              "*True D* is from all values, sorted. *Heights* is the largest distance between the staircase of the sketch and that of all values; datasketches states the bound that 99 % of sketches keep.", "",
              "| column | values | true D | sketched D | error of D | interval stated | heights | bound stated | verdict |", "|---|---|---:|---:|---:|---|---:|---:|---|"]
    lines += [f"| {c['column']} | {c['kind']} | {c['true']:.5f} | {c['sketched']:.5f} | {c['error']:.5f} | {c['interval'][0]:.5f} to {c['interval'][1]:.5f} | {c['heights']:.5f} | {c['stated']:.5f} | {c['of_column']} |" for c in m["check"]["columns"]]
    lines += ["", "| target | measured | |", "|---|---:|---|"]
    lines += [f"| {name}: {how} {limit:g} | {f[name]:.4g} | {'kept' if f[name] <= limit else '**not kept**'} |" for name, (how, limit) in TARGETS.items()]
    return "\n".join(lines) + "\n"


def processor():
    try: return next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    except (OSError, StopIteration): return platform.processor() or platform.machine()


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--millions", type=int, default=100, help="rows; 20 where the disk does not hold more")
    p.add_argument("--work", type=Path, default=HERE / "work" / "large", help="folder for the table; deleted at the end")
    p.add_argument("--out", type=Path, default=HERE, help="folder for large.json and large.md")
    p.add_argument("--only", nargs="+", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.only:
        found = alone(*args.only)
        return print(json.dumps(found)) if found is not None else None
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    free, note, millions = shutil.disk_usage(args.work).free, "", args.millions
    if free < millions * PART * BYTES_A_ROW + SPARE:
        millions = min(20, millions)
        note = f"The disk had {free / 1e9:.0f} GB free, too little for {args.millions} million rows, so these are {millions}."
        say(note)
    try: m = measured(args.work, millions)
    finally: shutil.rmtree(args.work, ignore_errors=True)
    m |= dict(when=time.strftime("%Y-%m-%d"), note=note, k=K, seed=SEED, processor=processor(), versions={"python": platform.python_version(), **{k: version(k) for k in ("numpy", "pyarrow", "datasketches")}}, figures=figures(m))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "large.json").write_text(json.dumps(m, indent=1) + "\n")
    (args.out / "large.md").write_text(page(m))
    print(page(m))
    missed = [name for name, (_, limit) in TARGETS.items() if m["figures"][name] > limit]
    if missed: sys.exit("not kept: " + "; ".join(missed))


if __name__ == "__main__": main()
