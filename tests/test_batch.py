"""Batch and stream under kill -9 before each line that publishes, poison rows, hostile files, inputs and models that change, slow models and fast producers."""
import base64
import contextlib
import csv
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rich.progress  # noqa: F401  (before any fork)
from hypothesis import given, settings, strategies as st

from mlops_course import batch
from mlops_course.batch import Changed, Dial, Status, Tail, dead_letters, results, save_results, score_file, stream
from mlops_course.predlog import PredictionLog, unpack
from mlops_course.server import Number, Served, Text

HEAD = "customer,x,area\n"
KEY = b"sixteen bytes or more"


def score(rows):
    if any(x == 13 for x, _ in rows):
        raise ZeroDivisionError("thirteen")
    p = [1 / (1 + 2.0 ** -(x / 8)) if area == "rural" else 0.25 for x, area in rows]
    return np.array([[1 - v, v] for v in p])


MODEL = Served("toy", "1", "2026-11-21", ("no", "yes"), None, {"x": Number(1.0), "area": Text("metro", ("metro", "rural"))}, score)


def write_csv(path, n, poison=()):
    path.write_text(HEAD + "".join(f"c{i},{'forty' if i in poison else i % 7},{'rural' if i % 2 else 'metro'}\n" for i in range(n)))
    return path


def run(source, out, model=MODEL, rows=10, time="2026-03-01", **kw):
    return score_file(model, source, out, rows=rows, time=time, progress=False, **kw)


def files(out):
    return {p.name: p.read_bytes() for p in sorted(Path(out).iterdir()) if p.name != ".lock" and not p.name.endswith(".part")}


def forked(f):
    """Run f in a process of its own; its exit code, negative where a signal ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            f()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def traced(kill_at, functions, f):
    """Run f; before line `kill_at` of these functions of batch.py: SIGKILL. The number of lines."""
    lines = 0

    def each(frame, event, arg):
        nonlocal lines
        if event == "line":
            lines += 1
            if lines == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return each
    sys.settrace(lambda frame, event, arg: each if frame.f_code.co_filename == batch.__file__ and frame.f_code.co_name in functions else None)
    try:
        f()
    finally:
        sys.settrace(None)
    return lines


def in_python(code, *args):
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(Path(batch.__file__).parent.parent)})
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- a file: killed, resumed ------------------------------------------------------------------------------------------------------------

def test_killed_before_each_line_that_publishes(tmp_path):
    source = write_csv(tmp_path / "t.csv", 14, poison=(3, 13))
    whole = tmp_path / "whole"
    lines = traced(0, {"score_file", "_begin", "_go_on", "_part", "_publish", "_only_one"}, lambda: run(source, whole, ids="customer"))
    assert lines > 80
    for k in range(1, lines + 1):
        out = tmp_path / f"o{k}"
        assert forked(lambda: traced(k, {"score_file", "_begin", "_go_on", "_part", "_publish", "_only_one"}, lambda: run(source, out, ids="customer"))) == -signal.SIGKILL
        there = files(out) if out.exists() else {}
        for name, data in there.items():  # what is there is whole, and what it will be
            assert data == files(whole)[name] or name == "batch.json" and json.loads(data)["done"] is None, (k, name)
        done = run(source, out, ids="customer")
        assert files(out) == files(whole) and (done.rows, done.refused) == (14, 2), k


def test_killed_at_random_again_and_again(tmp_path):
    source = write_csv(tmp_path / "t.csv", 20_000, poison=range(0, 20_000, 999))
    run(source, tmp_path / "whole", rows=500)
    rng, kills = np.random.default_rng(0), 0
    while True:
        pid = os.fork()
        if pid == 0:
            try:
                run(source, tmp_path / "out", rows=500)
            finally:
                os._exit(0)
        before = len(list((tmp_path / "out").glob("rows-*")))
        limit = time.monotonic() + 60
        while len(list((tmp_path / "out").glob("rows-*"))) < min(before + 6, 40) and time.monotonic() < limit:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills += 1
        if len(list((tmp_path / "out").glob("rows-*"))) == 40:
            break
    done = run(source, tmp_path / "out", rows=500)
    assert files(tmp_path / "out") == files(tmp_path / "whole") and kills > 2
    assert [r["row"] for r in results(tmp_path / "out")] == list(range(20_000)) and done.refused == 21


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 60), rows=st.integers(1, 70), at_once=st.integers(1, 30), poison=st.sets(st.integers(0, 59)), keep=st.integers(0, 60))
def test_any_size_of_parts_gives_the_same_results(tmp_path_factory, n, rows, at_once, poison, keep):
    folder = tmp_path_factory.mktemp("sizes")
    source = write_csv(folder / "t.csv", n, poison)
    before, batch.AT_ONCE = batch.AT_ONCE, at_once
    try:
        done = run(source, folder / "out", rows=rows)
        whole = files(folder / "out")
        for path in sorted((folder / "out").glob("rows-*"))[keep:]:  # as if it had been killed after `keep` parts
            path.unlink()
        manifest = folder / "out" / "batch.json"
        data = json.dumps(json.loads(manifest.read_text()) | {"done": None})
        manifest.unlink()
        manifest.write_text(data)
        again = run(source, folder / "out", rows=rows)
    finally:
        batch.AT_ONCE = before
    assert files(folder / "out") == whole and again.rows == done.rows == n and again.refused == done.refused == len([i for i in poison if i < n])
    for i, r in enumerate(results(folder / "out")):
        assert r["row"] == i and (r["label"] is None) == (i in poison) == bool(r["reason"])
        if i not in poison:
            assert abs(r["p.yes"] - score([(i % 7, "rural" if i % 2 else "metro")])[0, 1]) < 1e-12 and r["confidence"] == max(r["p.yes"], r["p.no"])


def test_a_full_disk_ends_the_run_and_the_next_goes_on(tmp_path):
    source = write_csv(tmp_path / "t.csv", 100)
    run(source, tmp_path / "whole", rows=30)

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
        with pytest.raises(OSError, match="large"):
            run(source, tmp_path / "out", rows=30)
    assert forked(limited) == 0
    assert not list((tmp_path / "out").glob("rows-*")) and (tmp_path / "out" / "batch.json").exists()
    assert run(source, tmp_path / "out", rows=30).rows == 100 and files(tmp_path / "out") == files(tmp_path / "whole")


def test_only_one_process_at_a_time(tmp_path):
    source, waiting = write_csv(tmp_path / "t.csv", 50), threading.Event()
    first = threading.Event()

    def slow(rows):
        first.set()
        waiting.wait(20)
        return score(rows)
    thread = threading.Thread(target=run, args=(source, tmp_path / "out", replace(MODEL, score=slow)))
    thread.start()
    assert first.wait(20)
    with pytest.raises(RuntimeError, match="another process"):
        run(source, tmp_path / "out")
    waiting.set()
    thread.join(20)
    assert run(source, tmp_path / "out").rows == 50


MEMORY = """import sys
from mlops_course.batch import *
from mlops_course.predlog import PredictionLog
from mlops_course.server import *
import numpy as np
model = Served("toy", "1", "2026-11-21", ("no", "yes"), None, {"x": Number(1.0)}, lambda rows: np.tile([0.25, 0.75], (len(rows), 1)))
source, out = sys.argv[1:]
if source.endswith(".jsonl"): stream(model, Tail(source, follow=False), PredictionLog(out), out + "/group")
else: score_file(model, source, out, rows=1000, progress=False)
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_memory_does_not_grow_with_the_input(tmp_path, kind):
    peaks = []
    for n in (4_000, 40_000):
        path = tmp_path / f"t{n}.{kind}"
        if kind == "csv":
            path.write_text("x,note\n" + "".join(f"{i},{'n' * 200}\n" for i in range(n)))
        elif kind == "jsonl":
            path.write_text("".join(json.dumps({"id": f"e{i}", "features": {"x": i}, "note": "n" * 200}) + "\n" for i in range(n)))
        else:
            pa = pytest.importorskip("pyarrow")
            import pyarrow.parquet as pq
            pq.write_table(pa.table({"x": np.arange(n, dtype=float), "note": [f"{i}" * 40 for i in range(n)]}), path)
        peaks.append(int(in_python(MEMORY, path, tmp_path / f"out{n}")) / 1000)
    assert peaks[1] - peaks[0] < 12, peaks


# --- rows that cannot be scored ---------------------------------------------------------------------------------------------------------

def test_poison_rows_stand_in_the_output_with_their_reason(tmp_path):
    rows = [b"ada,1,metro", b"bo,,metro", b"chi,forty,metro", b"d,1,moon", b"e,1", b"f,1,metro,9", b"g,nan,metro", b"h,1e999,rural", b"i,13,metro", b"j,1_0,metro", "k,٣,metro".encode(), b"l,1,\xff\xfe",
            b'm,1,"me"tro', b"n,true,metro", b"", b"   ", b"o,2,rural", b"p," + b"9" * 300_000 + b",metro", b"q,3," + b"z" * 2_500_000, b"r,0x10,metro", b"s,=1+1,metro", b"t,4,rural"]
    (tmp_path / "t.csv").write_bytes(HEAD.encode() + b"\r\n".join(rows))
    done = run(tmp_path / "t.csv", tmp_path / "out", rows=4, ids="customer")
    found = list(results(tmp_path / "out"))
    good = [r["key"] for r in found if r["label"]]
    assert good == ["ada", "o", "t"] and len(found) == 21 == done.rows and done.refused == 18
    reasons = {r["key"]: r["reason"] for r in found if r["reason"]}
    assert reasons["bo"] == "x is missing" and "'forty'" in reasons["chi"] and "one of metro, rural" in reasons["d"] and "finite" in reasons["g"] and "thirteen" in reasons["i"] and "not in UTF-8" in reasons["l"]
    assert sum(r["key"] is None and "longer than" in r["reason"] for r in found) == 1 and sum("field larger" in (r["reason"] or "") for r in found) == 1 and sum("cells where" in (r["reason"] or "") for r in found) == 3


def test_parquet_of_odd_types(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq
    pq.write_table(pa.table({"area": ["metro", None, "rural", "metro"], "x": pa.array([1, 2, 3, None], "int8"), "extra": [[1]] * 4}), tmp_path / "a.parquet", row_group_size=3)
    found = list(results(run(tmp_path / "a.parquet", tmp_path / "a").out))
    assert [r["label"] for r in found] == ["no", None, "yes", None] and found[1]["reason"] == "area is missing"
    pq.write_table(pa.table({"area": ["metro"] * 2, "x": ["1", "2"]}), tmp_path / "b.parquet")
    assert run(tmp_path / "b.parquet", tmp_path / "b").refused == 2
    (tmp_path / "c.parquet").write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(ValueError, match="no whole Parquet"):
        run(tmp_path / "c.parquet", tmp_path / "c")
    pq.write_table(pa.table({"area": pa.array([], "string"), "x": pa.array([], "float64")}), tmp_path / "d.parquet")
    assert run(tmp_path / "d.parquet", tmp_path / "d").rows == 0


def test_csv_and_parquet_say_the_same(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq
    write_csv(tmp_path / "t.csv", 3500)
    pq.write_table(pa.table({"customer": [f"c{i}" for i in range(3500)], "x": [i % 7 for i in range(3500)], "area": ["rural" if i % 2 else "metro" for i in range(3500)]}), tmp_path / "t.parquet", row_group_size=999)
    a, b = [[(r["row"], r["key"], r["p.yes"]) for r in results(run(tmp_path / f"t.{kind}", tmp_path / kind, rows=800, ids="customer").out)] for kind in ("csv", "parquet")]
    assert a == b and len(a) == 3500


def test_empty_inputs(tmp_path):
    (tmp_path / "zero.csv").write_bytes(b"")
    with pytest.raises(ValueError, match="has no column 'x', 'area'; it has none"):
        run(tmp_path / "zero.csv", tmp_path / "zero")
    for name, text in (("head", HEAD), ("bare", HEAD.strip()), ("blank", HEAD + "\n\n\n")):
        (tmp_path / f"{name}.csv").write_text(text)
        done = run(tmp_path / f"{name}.csv", tmp_path / name)
        assert (done.rows, done.refused) == (0, 0) and list(results(done.out)) == [] and run(tmp_path / f"{name}.csv", tmp_path / name).rows == 0
        assert len(PredictionLog(done.out).frame()) == 0 and save_results(done.out, tmp_path / "out.csv") == 0
    (tmp_path / "none").mkdir()
    assert run(tmp_path / "none", tmp_path / "n", model=pictures_model()).rows == 0


def test_what_is_wrong_with_the_whole_file_is_said_at_once(tmp_path):
    for text, says in (("x,x,area\n1,1,metro\n", "more than one column 'x'"), ("a,b\n1,2\n", "no column 'x', 'area'; it has a, b")):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(ValueError, match=says):
            run(tmp_path / "t.csv", tmp_path / "out")
    assert not (tmp_path / "out" / "batch.json").exists(), "nothing was begun, so a mended file can be scored there"
    (tmp_path / "t.txt").write_text("x")
    for args, says in (((tmp_path / "t.txt", tmp_path / "o"), "must be a .csv or .parquet"), ((tmp_path, tmp_path.parent / "o"), "takes features, not pictures")):
        with pytest.raises(ValueError, match=says):
            run(*args)
    with pytest.raises(ValueError, match="whole number above 0"):
        run(tmp_path / "t.csv", tmp_path / "o", rows=0)
    with pytest.raises(ValueError, match="lies inside"):
        run(tmp_path, tmp_path / "below" / "out")


def test_a_byte_order_mark_and_windows_line_ends(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + b'"x",area\r\n1,rural\r\n"2","metro"\r\n')
    assert [r["label"] for r in results(run(tmp_path / "t.csv", tmp_path / "out").out)] == ["yes", "no"]


def test_a_broken_model_ends_the_run_and_a_bad_row_does_not(tmp_path):
    source, calls = write_csv(tmp_path / "t.csv", 100), []

    def later(rows):
        calls.append(len(rows))
        if len(calls) > 3:
            raise MemoryError("no more of it")
        return score(rows)
    with pytest.raises(RuntimeError, match="failed on all 30 rows of part"):
        run(source, tmp_path / "out", replace(MODEL, score=later), rows=30)
    there = len(list((tmp_path / "out").glob("rows-*")))
    assert run(source, tmp_path / "out", rows=30).begun == 30 * there
    for bad in (lambda rows: [[0.5, float("nan")]] * len(rows), lambda rows: [[1.0]] * len(rows), lambda rows: None):
        with pytest.raises(RuntimeError, match="fails on its own example"):
            run(source, tmp_path / "bad", replace(MODEL, score=bad))
    assert not (tmp_path / "bad" / "batch.json").exists()
    few = run(source, tmp_path / "few", replace(MODEL, score=lambda rows: score(rows)[:1]), rows=30)  # too few answers to a batch: each row alone gets its own
    assert few.refused == 0 and [r["p.yes"] for r in results(few.out)] == [r["p.yes"] for r in results(tmp_path / "out")]


def test_the_number_of_calls_stays_small_when_one_row_is_bad():
    calls = []

    def counting(rows):
        calls.append(len(rows))
        return score(rows)
    said = batch.answers(replace(MODEL, score=counting), [(i, "rural") for i in range(256)])
    assert [i for i, a in enumerate(said) if isinstance(a, Exception)] == [13] and len(calls) <= 2 * 8 + 1


# --- changed ----------------------------------------------------------------------------------------------------------------------------

def test_going_on_with_something_else_is_refused(tmp_path):
    source = write_csv(tmp_path / "t.csv", 30)
    run(source, tmp_path / "out", ids="customer")
    before = files(tmp_path / "out")
    other = replace(MODEL, score=lambda rows: score(rows) * 0.5 + 0.25)
    cases = [(dict(model=replace(MODEL, version="2")), 'version was "1", and is "2"'), (dict(model=replace(MODEL, name="other")), "name"), (dict(model=replace(MODEL, labels=("yes", "no"))), "labels"), (dict(model=other), "answers otherwise"),
             (dict(model=replace(MODEL, features={"x": Number(2.0), "area": Text("metro", ("metro", "rural"))})), "features"), (dict(rows=20), "rows .of a part. was 10, and is 20"), (dict(time="2026-03-02"), "time"), (dict(ids="x"), "ids was 'customer'")]
    for change, says in cases:
        with pytest.raises(Changed, match=says):
            run(source, tmp_path / "out", **{"ids": "customer", **change})
    source.write_text(source.read_text() + "c30,1,metro\n")
    with pytest.raises(Changed, match="bytes, and has"):
        run(source, tmp_path / "out")
    source.write_text(source.read_text().replace("c30,1,metro\n", "").replace("c7,0", "c7,1"))
    with pytest.raises(Changed, match="same length as before and other content"):
        run(source, tmp_path / "out")
    write_csv(source, 30)   # as it was, at another time
    os.rename(source, tmp_path / "renamed.csv")
    assert run(tmp_path / "renamed.csv", tmp_path / "out", rows=None, time=None).begun == 30 and files(tmp_path / "out") == before


def test_a_file_that_changes_while_it_is_read(tmp_path):
    source = write_csv(tmp_path / "t.csv", 100)

    def meddling(rows):
        if len(rows) == 10:
            with open(source, "a") as f:
                f.write("late,1,metro\n")
        return score(rows)
    with pytest.raises(Changed, match="while it was being read"):
        run(source, tmp_path / "out", replace(MODEL, score=meddling))
    assert not list((tmp_path / "out").glob("rows-*"))


def test_a_log_of_somebody_else_is_not_written_to(tmp_path):
    log = PredictionLog(tmp_path / "log")
    log.write({"x": 1}, "yes")
    before = files(tmp_path / "log")
    with pytest.raises(ValueError, match="somebody else"):
        run(write_csv(tmp_path / "t.csv", 3), tmp_path / "log")
    assert files(tmp_path / "log") == before


# --- pictures ---------------------------------------------------------------------------------------------------------------------------

def png(n):
    from PIL import Image
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), n, np.uint8)).save(file, "png")
    return file.getvalue()


def pictures_model(pixels=10_000):
    from mlops_course.api import read_image
    return Served("grey", "1", "2026-11-21", ("dark", "bright"), None, {}, lambda rows: np.array([[1 - r / 255, r / 255] for r in rows]), lambda data: float(np.asarray(read_image(data, pixels).convert("L")).mean()))


def junk(folder):
    from mlops_course.server import _bomb
    (folder / "sub").mkdir(parents=True)
    for i in range(20):
        (folder / ("sub" if i % 3 == 0 else ".") / f"p{i:02}.png").write_bytes(png(10 * i))
    for name, data in (("notes.txt", b"hello"), ("empty.png", b""), ("torn.png", png(5)[:40]), ("bomb.png", _bomb()), (".hidden.png", png(1)), ("=cmd.png", png(100))):
        (folder / name).write_bytes(data)
    (folder / ".git").mkdir()
    (folder / ".git" / "x.png").write_bytes(png(1))
    os.mkfifo(folder / "pipe.png")
    (folder / "dangling.png").symlink_to("nowhere")
    (folder / "link.png").symlink_to(folder / "p01.png")
    with open(os.fsencode(folder) + b"/\xff\n.png", "wb") as f:
        f.write(png(200))
    return folder


def test_a_folder_with_junk(tmp_path):
    folder, model = junk(tmp_path / "in"), pictures_model()
    done = run(folder, tmp_path / "out", model, rows=7)
    found = {r["key"]: r for r in results(tmp_path / "out")}
    assert done.rows == 29 == len(found) and {n for n, r in found.items() if r["reason"]} == {"notes.txt", "empty.png", "torn.png", "bomb.png", "pipe.png", "dangling.png", "link.png"}
    assert abs(found["sub/p03.png"]["p.bright"] - 30 / 255) < 1e-9 and found["\udcff\n.png"]["label"] == "bright" and "pixels" in found["bomb.png"]["reason"]
    assert not any(" at 0x" in (r["reason"] or "") for r in found.values())
    run(folder, tmp_path / "again", model, rows=7)
    assert files(tmp_path / "again") == files(tmp_path / "out")
    frame = PredictionLog(tmp_path / "out").frame()
    assert len(frame) == 22 and {"image.width", "image.brightness", "image.digest"} <= set(frame.columns)


def test_a_folder_that_changed(tmp_path):
    folder, model = junk(tmp_path / "in"), pictures_model()
    run(folder, tmp_path / "out", model)
    (folder / "new.png").write_bytes(png(3))
    (folder / "p01.png").unlink()
    (folder / "p02.png").write_bytes(png(99))
    os.utime(folder / "p02.png", (1, 1))
    with pytest.raises(Changed, match="added: 1, such as 'new.png'; files gone: 1, such as 'p01.png'; files changed: 1, such as 'p02.png'"):
        run(folder, tmp_path / "out", model)


def test_a_picture_that_vanishes_or_changes_meanwhile(tmp_path):
    folder, model = tmp_path / "in", pictures_model()
    folder.mkdir()
    for i in range(80):
        (folder / f"p{i:02}.png").write_bytes(png(i))

    def meddling(rows):
        if len(rows) > 3:
            (folder / "p70.png").unlink(missing_ok=True)
            (folder / "p71.png").write_bytes(png(0) + b" ")
        return model.score(rows)
    found = {r["key"]: r["reason"] for r in results(run(folder, tmp_path / "out", replace(model, score=meddling)).out) if r["reason"]}
    assert set(found) == {"p70.png", "p71.png"} and "No such file" in found["p70.png"] and "changed after the run began" in found["p71.png"]


# --- the output as a log, and as a table ------------------------------------------------------------------------------------------------

def test_the_output_is_a_prediction_log(tmp_path):
    out = run(write_csv(tmp_path / "t.csv", 95, poison={4}), tmp_path / "out").out
    log = PredictionLog(out)
    frame = log.frame()
    assert len(frame) == 94 and frame.attrs == {"torn": 0, "repeated": 0, "relabelled": 0} and set(frame.columns) == {"time", "prediction_id", "model", "version", "x", "area", "predicted", "confidence", "label", "latency"}
    log.label(frame.prediction_id[3], "yes")
    assert log.frame().label[3] == "yes" and run(tmp_path / "t.csv", tmp_path / "out").rows == 95
    log.export(tmp_path / "log.csv")
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 95
    ids = set(frame.prediction_id)
    assert ids.isdisjoint(PredictionLog(run(tmp_path / "t.csv", tmp_path / "tomorrow", time="2026-03-02").out).frame().prediction_id)
    assert ids == set(PredictionLog(run(tmp_path / "t.csv", tmp_path / "twice").out).frame().prediction_id)


def test_what_is_private_is_in_no_file(tmp_path):
    (tmp_path / "t.csv").write_text(HEAD + "c0,1,metro\nc1,2,rural\nc2,secret-word,metro\nc3,4,secret-place\n")
    run(tmp_path / "t.csv", PredictionLog(tmp_path / "out", hash=["area"], drop=["x"], key=KEY))
    everything = b"".join(p.read_bytes() for p in (tmp_path / "out").iterdir() if p.suffix == ".log")
    assert b"secret" not in everything and b"rural" not in everything.replace(b"one of metro, rural", b"") and b'"x":{"area"' in everything
    assert [bool(r["reason"]) for r in results(tmp_path / "out")] == [False, False, True, True]


def test_no_cell_of_the_table_is_a_formula(tmp_path):
    (tmp_path / "t.csv").write_text(HEAD + '=1+1,1,metro\n"@x",2,rural\n-c,=cmd,metro\n')
    out = run(tmp_path / "t.csv", tmp_path / "out", ids="customer").out
    assert save_results(out, tmp_path / "r.csv") == 3
    with open(tmp_path / "r.csv", newline="", encoding="utf-8") as f:
        table = list(csv.reader(f))
    assert [r[1] for r in table[1:]] == ["'=1+1", "'@x", "'-c"] and table[0][:6] == ["row", "key", "id", "label", "confidence", "p.no"] and all(not c.startswith(("=", "@", "-")) for r in table for c in r)
    pq = pytest.importorskip("pyarrow.parquet")
    assert save_results(out, tmp_path / "r.parquet") == 3
    rows = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert rows == list(results(out)) and rows[0]["key"] == "=1+1" and not list(tmp_path.glob("*.part"))
    with pytest.raises(ValueError, match="csv or .parquet"):
        save_results(out, tmp_path / "r.xlsx")


# --- streams ----------------------------------------------------------------------------------------------------------------------------

def event(i, **kw):
    return {"id": f"e{i}", "features": {"x": i % 7, "area": "rural"}, **kw}


def write_events(path, events):
    path.write_bytes(b"".join((e if isinstance(e, bytes) else json.dumps(e).encode()) + b"\n" for e in events))
    return path


def consume(source, folder, model=MODEL, **kw):
    return stream(model, source, PredictionLog(folder), folder / "group", **kw)


def test_stream_killed_before_each_line(tmp_path):
    path = write_events(tmp_path / "e.jsonl", [event(0), b"{", event(1), event(1), {"id": "bad", "features": {"x": "y", "area": "rural"}}, *map(event, range(2, 9))])
    functions = {"stream", "_committed", "_commit", "_set_aside", "_write", "_only_one", "_digest_batch"}
    follow = lambda folder: consume(Tail(path, follow=False), folder, batch=4, wait=0.1)
    lines = traced(0, functions, lambda: follow(tmp_path / "whole"))
    assert lines > 80
    repeated = 0
    for k in range(1, lines + 1):
        folder = tmp_path / f"s{k}"
        assert forked(lambda: traced(k, functions, lambda: follow(folder))) == -signal.SIGKILL
        follow(folder)
        frame, letters = PredictionLog(folder).frame(), dead_letters(folder / "group")
        assert sorted(frame.prediction_id) == [f"e{i}" for i in range(9)] and frame.attrs["torn"] == 0 and frame.attrs["repeated"] <= 1 + 4, k
        assert [letter["event"] for letter in letters] == ["{\n", '{"id": "bad", "features": {"x": "y", "area": "rural"}}\n'], k
        repeated += frame.attrs["repeated"] > 1
    assert repeated, "some of them must have been read twice"


def test_back_pressure_slows_the_producer(tmp_path):
    made, gaps, waiting = 0, [], []

    def fast():
        nonlocal made
        for i in range(10**6):
            made += 1
            yield event(i)

    def slow(rows):
        time.sleep(0.02)
        return score(rows)
    stop = threading.Event()

    def seen(status):
        gaps.append(made - status.scored)
        waiting.append(status.waiting)
        if len(gaps) == 30:
            stop.set()
    end = consume(fast(), tmp_path, replace(MODEL, score=slow), batch=10, queue=40, stop=stop, seen=seen)
    assert max(waiting) == 40 and max(gaps) <= 40 + 10 + 1 and 300 < end.scored <= 300 + 40 + 2 and made == end.scored
    after = made
    time.sleep(0.15)
    assert made - after <= 1, "the producer is not asked for more"


def test_back_pressure_of_an_async_producer(tmp_path):
    made, gaps, stop = 0, [], threading.Event()

    async def fast():
        nonlocal made
        for i in range(10**6):
            made += 1
            yield event(i)

    def seen(status):
        gaps.append(made - status.scored)
        time.sleep(0.02)
        if len(gaps) == 15:
            stop.set()
    assert consume(fast(), tmp_path, batch=10, queue=20, stop=stop, seen=seen).scored == made <= 150 + 20 + 2 and 20 <= max(gaps) <= 31


class Sender(threading.Thread):
    """Sends lines to each caller from where the caller says; hangs up after `cut` bytes of a connection."""
    def __init__(self, lines, cut=None, calls=1):
        super().__init__(daemon=True)
        self.lines, self.cut, self.calls, self.asked, self.sent = lines, cut, calls, [], 0
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.start()

    def run(self):
        for _ in range(self.calls):
            with self.server.accept()[0] as line, line.makefile("rb") as asked, contextlib.suppress(OSError):
                self.asked.append(json.loads(asked.readline())["offset"])
                if self.cut:
                    line.sendall(b"".join(self.lines[self.asked[-1]:])[:self.cut])
                    continue
                for each in self.lines[self.asked[-1]:]:
                    line.sendall(each)
                    self.sent += 1


def test_back_pressure_through_a_socket(tmp_path):
    lines = [json.dumps(event(i, note="x" * 20_000)).encode() + b"\n" for i in range(3000)]
    sender, stop, seen = Sender(lines), threading.Event(), []

    def slow(status):
        seen.append((status.scored, sender.sent, status.waiting))
        time.sleep(0.05)
        if len(seen) == 12:
            stop.set()
    consume(Dial("127.0.0.1", sender.port), tmp_path, batch=10, queue=20, stop=stop, seen=slow)
    scored, sent, waiting = map(list, zip(*seen))
    assert max(waiting) <= 20 and scored[-1] <= 120 + 20 + 2 and sent[-1] < 1500, "the rest waits at the sender"


def test_a_connection_that_breaks_and_comes_back(tmp_path):
    lines = [json.dumps(event(i)).encode() + b"\n" for i in range(200)]
    sender, broken = Sender(lines, cut=3000, calls=20), 0
    for _ in range(20):
        try:
            end = consume(Dial("127.0.0.1", sender.port), tmp_path)
            break
        except ConnectionError as e:
            assert "in the middle of event" in str(e)
            broken += 1
    assert broken > 2 and sender.asked == sorted(set(sender.asked)) and end.offset == 200
    assert sorted(PredictionLog(tmp_path).frame().prediction_id, key=lambda e: int(e[1:])) == [f"e{i}" for i in range(200)] and not dead_letters(tmp_path / "group")


def test_poison_events(tmp_path):
    odd = [b"", b"{", b"[]", b"\xff\xfe", b'{"features": {"x": NaN, "area": "rural"}}', b"[" * 100_000, {"id": 7}, {"id": "x"}, {"id": "", "features": {}}, {"id": "a" * 201, "features": {"x": 1, "area": "rural"}}, event(13) | {"features": {"x": 13, "area": "rural"}},
           {"id": "i", "image": "aGVsbG8="}, {"id": "t", "time": "noon"}, {"features": {"x": 1, "area": "rural", "y": 1}}, b'{"id": "long", "note": "' + b"x" * 2_500_000 + b'"}']
    path = write_events(tmp_path / "e.jsonl", [event(1), *odd, event(2), {"features": {"x": 1, "area": "rural"}}])
    end = consume(Tail(path, follow=False), tmp_path / "log", batch=5)
    letters = dead_letters(tmp_path / "log" / "group")
    assert (end.scored, end.dead) == (3, len(odd)) and len(letters) == len(odd) and all(letter["reason"] for letter in letters) and max(len(letter["event"]) for letter in letters) <= 10_000
    assert PredictionLog(tmp_path / "log").frame().prediction_id.tolist() == ["e1", "e2", f"e.jsonl@{path.stat().st_size}"]


def test_plain_iterators_give_dicts_and_pick_up_where_they_were(tmp_path):
    events = [event(i) for i in range(50)]
    stop, rest = threading.Event(), iter(events)
    first = consume(rest, tmp_path, batch=10, queue=5, stop=stop, seen=lambda status: stop.set())
    assert 10 <= first.offset < 30 and next(rest) == event(first.offset), "what was taken from the iterator was scored"
    assert consume(events, tmp_path).scored == 50 - first.offset and len(PredictionLog(tmp_path).frame()) == 50 and PredictionLog(tmp_path).frame().attrs["repeated"] == 0


def test_what_the_source_raises_comes_after_what_it_gave(tmp_path):
    def breaking():
        yield event(0)
        yield event(1)
        raise ConnectionError("gone")
    with pytest.raises(ConnectionError, match="gone"):
        consume(breaking(), tmp_path)
    assert len(PredictionLog(tmp_path).frame()) == 2 and batch._committed(tmp_path / "group", "events") == 2


def test_a_log_that_cannot_be_written_stops_the_stream_before_the_commit(tmp_path):
    path = write_events(tmp_path / "e.jsonl", map(event, range(100)))

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, resource.RLIM_INFINITY))
        with pytest.raises(OSError):
            consume(Tail(path, follow=False), tmp_path / "log", batch=10)
    assert forked(limited) == 0
    at = batch._committed(tmp_path / "log" / "group", "e.jsonl")
    consume(Tail(path, follow=False), tmp_path / "log", batch=10)
    assert at < path.stat().st_size and len(PredictionLog(tmp_path / "log").frame()) == 100


def test_groups(tmp_path):
    a, b = write_events(tmp_path / "a.jsonl", map(event, range(5))), write_events(tmp_path / "b.jsonl", map(event, range(5, 9)))
    log = PredictionLog(tmp_path / "log")
    for path in (a, b):
        stream(MODEL, Tail(path, follow=False), log, tmp_path / path.stem)
    assert len(log.frame()) == 9
    with pytest.raises(Changed, match="offset 260 of a.jsonl, which is not b.jsonl"):
        stream(MODEL, Tail(b, follow=False), log, tmp_path / "a")
    a.write_bytes(b"")
    with pytest.raises(Changed, match="was cut or replaced"):
        stream(MODEL, Tail(a, follow=False), log, tmp_path / "a")
    (tmp_path / "b" / "offset").write_bytes(b"\n00000000 5 hello")   # torn, as after a power failure: read again from the start
    assert stream(MODEL, Tail(b, follow=False), log, tmp_path / "b").scored == 4 and len(log.frame()) == 9
    with batch._only_one(tmp_path / "b", ""), pytest.raises(RuntimeError, match="one consumer"):
        stream(MODEL, Tail(b), log, tmp_path / "b")


def test_a_growing_file_its_lag_and_stopping(tmp_path):
    path, stop, states = write_events(tmp_path / "e.jsonl", []), threading.Event(), []
    thread = threading.Thread(target=lambda: states.append(consume(Tail(path, poll=0.005), tmp_path / "log", stop=stop, seen=states.append)))
    thread.start()
    with open(path, "ab", buffering=0) as f:
        for i in range(20):
            data = json.dumps(event(i, time=time.time() - 5)).encode() + b"\n"
            f.write(data[:20])
            time.sleep(0.01)
            f.write(data[20:])
        f.write(b'{"id": "half')
        limit = time.monotonic() + 30
        while (not states or states[-1].scored < 20) and time.monotonic() < limit:
            time.sleep(0.01)
    stop.set()
    thread.join(10)
    assert not thread.is_alive() and states[-1].scored == 20 and states[-1].dead == 0 and states[-1].behind == len('{"id": "half') and 5 <= states[-1].lag < 30
    assert isinstance(states[-1], Status) and len(states) > 3


def test_a_durable_stream_syncs_once_for_a_batch(tmp_path, monkeypatch):
    calls, real = [], os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (calls.append(fd), real(fd)))
    events = [event(i) for i in range(100)]
    stream(MODEL, events, PredictionLog(tmp_path, durable=True), tmp_path / "group", batch=50, wait=2)
    assert len(calls) == 2 and len(PredictionLog(tmp_path).frame()) == 100


# --- all ways -----------------------------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def serving(model):
    import uvicorn
    from mlops_course.api import Api
    server = uvicorn.Server(uvicorn.Config(Api(model), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    limit = time.monotonic() + 30
    while not server.started and time.monotonic() < limit:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def test_four_ways_one_answer_for_pictures(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("ai_edge_litert")
    from PIL import Image
    from mlops_course.api import served_model
    from mlops_course.data import leaves
    from mlops_course.serialize import given as course_model
    from mlops_course.server import ask
    model, edge = (served_model(course_model(name), name="leaves", trained="2026-11-21") for name in ("leaves.onnx", "leaves-float32.tflite"))
    folder = tmp_path / "in"
    folder.mkdir()
    for i, image in enumerate(leaves(12, size=96, seed=4)[0]):
        Image.fromarray(image).save(folder / f"{i:02}.jpg")
    data = [p.read_bytes() for p in sorted(folder.iterdir())]
    with serving(model) as url:
        by_rest = [list(ask(url, "POST", "/predict", d, {"Content-Type": "image/jpeg"}).json["probabilities"].values()) for d in data]
    by_batch = [[v for k, v in r.items() if k.startswith("p.")] for r in results(run(folder, tmp_path / "out", model, rows=5).out)]
    events = [{"id": f"e{i:02}", "image": base64.b64encode(d).decode()} for i, d in enumerate(data)]
    consume(write_and_tail(tmp_path, events), tmp_path / "log", model)
    by_stream = [unpack(line)["ps"] for line in next((tmp_path / "log").glob("rows-*")).read_bytes().splitlines() if line]
    by_edge = [list(a["probabilities"].values()) for a in batch.judged(edge, data)]
    for other in (by_rest, by_stream):
        assert np.allclose(by_batch, other, atol=1e-5)
    assert np.allclose(by_batch, by_edge, atol=1e-3) and (np.argmax(by_batch, 1) == np.argmax(by_edge, 1)).all()


def write_and_tail(folder, events):
    return Tail(write_events(folder / "events.jsonl", events), follow=False)


def test_four_ways_one_answer_for_rows(tmp_path):
    from mlops_course.server import ask
    source = write_csv(tmp_path / "t.csv", 30)
    features = [{"x": i % 7, "area": "rural" if i % 2 else "metro"} for i in range(30)]
    with serving(MODEL) as url:
        by_rest = [ask(url, "POST", "/predict", {"features": f}).json for f in features]
        together = ask(url, "POST", "/batch", {"instances": features}).json["predictions"]
    by_batch = list(results(run(source, tmp_path / "out").out))
    consume([{"id": f"e{i:02}", "features": f} for i, f in enumerate(features)], tmp_path / "log")
    by_stream = PredictionLog(tmp_path / "log").frame().set_index("prediction_id").sort_index()
    by_call = batch.judged(MODEL, features)
    for i in range(30):
        said = [by_rest[i]["probabilities"]["yes"], together[i]["probabilities"]["yes"], by_batch[i]["p.yes"], by_call[i]["probabilities"]["yes"]]
        assert max(said) - min(said) < 1e-12 and len({by_rest[i]["label"], together[i]["label"], by_batch[i]["label"], by_call[i]["label"], by_stream.predicted.iloc[i]}) == 1
        assert abs(by_stream.confidence.iloc[i] - by_batch[i]["confidence"]) < 1e-12


def test_needs_little():
    code = "import sys, mlops_course.batch; print([m for m in ('pandas', 'pyarrow', 'PIL', 'fastapi', 'rich', 'onnxruntime') if m in sys.modules])"
    assert in_python(code).strip() == "[]"
