"""The prediction log under kill -9, full disks, rotation, erasing, hostile values, clocks that go backwards and readers that do not wait."""
import csv
import fcntl
import json
import math
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings, strategies as st

from mlops_course import predlog
from mlops_course.predlog import NotWritten, PredictionLog, Queued, column_of, keyed_digest, pack, unpack

KEY = b"sixteen bytes or more"
NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def forked(*jobs, kill_at=None):
    """Run each job(ack) in a process of its own, at once; returns for each the numbers that it acknowledged. `kill_at`: seconds after the start, one for each job."""
    ready, go = os.pipe()
    pids, reads = [], []
    for job in jobs:
        read, say = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(go)
                os.close(read)
                os.read(ready, 1)
                job(lambda i: os.write(say, struct.pack("i", i)))
                code = 0
            finally:
                os._exit(code)
        os.close(say)
        pids.append(pid)
        reads.append(read)
    os.close(ready)
    os.close(go)
    said = [b""] * len(jobs)
    def collect(n):
        with open(reads[n], "rb") as f:
            said[n] = f.read()
    threads = [threading.Thread(target=collect, args=(n,)) for n in range(len(jobs))]
    for t in threads:
        t.start()
    start = time.monotonic()
    for at, pid in sorted(zip(kill_at or (), pids)):
        time.sleep(max(start + at - time.monotonic(), 0))
        os.kill(pid, signal.SIGKILL)
    for t in threads:
        t.join()
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert all(c == (-signal.SIGKILL if kill_at else 0) for c in codes), codes
    return [[i for i, in struct.iter_unpack("i", data[:len(data) // 4 * 4])] for data in said]


def writer(folder, k, n=10**6, **options):
    def job(ack):
        log = PredictionLog(folder, segment_bytes=20_000, **options)
        for i in range(n):
            log.write({"k": k, "text": "x" * (i * 37 % 300)}, "a", 0.5, id=f"{k}-{i}")
            if i % 3 == 0:
                log.label(f"{k}-{i}", "b")
            ack(i)
    return job


# --- many writers, none of which is safe ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("round", range(4))
def test_four_writers_killed_at_random_keep_every_acknowledged_row(tmp_path, round):
    rng = np.random.default_rng(round)
    said = forked(*(writer(tmp_path, k) for k in range(4)), kill_at=rng.uniform(0.05, 0.4, 4).tolist())
    frame = PredictionLog(tmp_path).frame()
    acknowledged = {f"{k}-{i}" for k, some in enumerate(said) for i in some}
    assert len(acknowledged) > 100 and acknowledged <= set(frame.prediction_id)
    assert len(frame) <= len(acknowledged) + 4, "at most one row of each writer was written and not acknowledged"
    assert set(frame.loc[frame.label.notna(), "prediction_id"]) >= {i for i in acknowledged if int(i.split("-")[1]) % 3 == 0}
    assert len(list(tmp_path.glob("rows-*"))) > 2, "it should have rotated under load"


def test_durable_rows_of_many_threads_and_processes(tmp_path):
    def job(ack):
        log = PredictionLog(tmp_path, durable=True, segment_bytes=3000)
        def work(t):
            for i in range(10):
                log.write({"t": t}, "a", id=f"{os.getpid()}-{t}-{i}")
                ack(t * 100 + i)
        threads = [threading.Thread(target=work, args=(t,)) for t in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert [len(s) for s in forked(job, job)] == [60, 60]
    assert len(PredictionLog(tmp_path).frame()) == 120


def test_group_commit_syncs_once_for_many_and_tells_everyone_when_it_fails(tmp_path, monkeypatch):
    calls, real = [], os.fdatasync
    def slow(fd):
        calls.append(fd)
        time.sleep(0.02)
        return real(fd)
    monkeypatch.setattr(os, "fdatasync", slow)
    log = PredictionLog(tmp_path, durable=True)
    def run(n, f):
        threads = [threading.Thread(target=f) for _ in range(n)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    run(20, lambda: log.write({}, "a"))
    assert 1 <= len(calls) <= 6 and len(log.frame()) == 20
    def broken(fd):
        time.sleep(0.02)
        raise OSError(5, "Input/output error")
    monkeypatch.setattr(os, "fdatasync", broken)
    refused = []
    def attempt():
        try:
            log.write({}, "a")
        except NotWritten as e:
            refused.append(e.errno)
    run(8, attempt)
    assert refused == [5] * 8
    monkeypatch.setattr(os, "fdatasync", real)
    with pytest.raises(OSError, match="earlier sync"):
        log._rows.sync(log._rows.written)   # somebody whose row was part of the failed sync, and who comes late
    log.write({}, "a", id="the disk is well again")
    assert "the disk is well again" in set(log.frame().prediction_id)


def test_a_fork_and_its_parent_write_on(tmp_path):
    log = PredictionLog(tmp_path)
    queue = Queued(log, every=10)
    log.write({}, "a", id="before")
    queue.write({}, "a", id="in line of the parent")
    def job(ack):
        log.write({}, "a", id="child")
        queue.write({}, "a", id="queued in the child")
        queue.flush()
        ack(1)
    assert forked(job) == [[1]]
    log.write({}, "a", id="after")
    queue.close()
    frame = log.frame()
    assert sorted(frame.prediction_id) == ["after", "before", "child", "in line of the parent", "queued in the child"] and frame.attrs["repeated"] == 0


def test_two_readers_while_four_write(tmp_path):
    PredictionLog(tmp_path)
    def reader(ack):
        seen = set()
        for n in range(6):
            frame = PredictionLog(tmp_path).frame()
            new = set(frame.prediction_id)
            assert seen <= new, "a row that was there is gone"
            assert frame.text.map(set).isin([{"x"}, set()]).all() if len(frame) else True
            seen = new
            ack(len(new))
    said = forked(reader, reader, *(writer(tmp_path, k, 800) for k in range(4)))
    assert said[0] == sorted(said[0]) and len(PredictionLog(tmp_path).frame()) == 3200


# --- disks that are full, folders that are closed -------------------------------------------------------------------------------

def fill(log, ack, n=400):
    """Write until it is full, go on, and be told each time."""
    for i in range(n):
        try:
            log.write({"i": i, "text": "y" * 100}, "a", id=f"row {i}")
            ack(i)
        except NotWritten as e:
            assert "nothing was logged to" in str(e) and e.errno in (27, 28)


def test_a_limit_on_file_size_tells_the_caller_and_poisons_nothing(tmp_path):
    def job(ack):
        log = PredictionLog(tmp_path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_001, resource.RLIM_INFINITY))
        fill(log, ack, 200)
        resource.setrlimit(resource.RLIMIT_FSIZE, NO_LIMIT)
        for i in range(1000, 1010):
            log.write({"i": i}, "a", id=f"row {i}")
            ack(i)
    said, = forked(job)
    frame = PredictionLog(tmp_path).frame()
    assert 20 < len(said) < 200 and set(range(1000, 1010)) <= set(said)
    assert set(frame.prediction_id) == {f"row {i}" for i in said} and frame.attrs["torn"] >= 1


def test_a_full_file_system(tmp_path):
    """A file system of 64 kB, where this machine lets us make one."""
    script = f'''
import os, sys
sys.path.insert(0, {os.getcwd()!r})
from mlops_course.predlog import *
log = PredictionLog({str(tmp_path)!r}, segment_bytes=9000)
said = []
for i in range(2000):
    try: said.append(log.write({{"i": i, "text": "y" * 100}}, "a", id=f"row {{i}}"))
    except NotWritten as e:
        assert e.errno == 28 and "free some space" in str(e), e
        first = i
        break
assert len(said) > 50
os.remove(sorted(__import__("glob").glob({str(tmp_path)!r} + "/rows*"))[0])   # somebody makes room
log.write({{"i": 0}}, "a", id="again")
there = set(log.frame().prediction_id)
gone = [s for s in said if s not in there]
assert "again" in there and gone == said[:len(gone)] and len(gone) < 80, gone
print("held", len(said))
'''
    done = subprocess.run(["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=64k none {tmp_path} 2>/dev/null || exit 77; exec "$0" -c "$1"', sys.executable, script], capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this machine lets us mount nothing")
    assert done.returncode == 0 and "held" in done.stdout, done.stderr


def test_a_write_cut_short_is_repeated_whole(tmp_path, monkeypatch):
    log, real, cut = PredictionLog(tmp_path), os.write, [True]
    def short(fd, data):
        return real(fd, data[:len(data) // 2]) if cut and cut.pop() else real(fd, data)
    monkeypatch.setattr(os, "write", short)
    log.write({"i": 1}, "a", id="one")
    log.write({"i": 2}, "a", id="two")
    frame = log.frame()
    assert frame.prediction_id.tolist() == ["one", "two"] and frame.attrs["torn"] == 1


def test_permissions(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritten, match="Not a directory|File exists"):
        PredictionLog(tmp_path / "file" / "log")
    with pytest.raises(NotWritten):
        PredictionLog(tmp_path / "file")
    folder = tmp_path / "log"
    folder.mkdir(mode=0o555)
    os.chmod(tmp_path, 0o755)
    def job(ack):
        if os.getuid() == 0:
            os.chmod(folder, 0o755)
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            PredictionLog(folder).write({}, "a")
        except NotWritten as e:
            ack(e.errno)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & 1:
            os.chmod(parent, parent.stat().st_mode | 0o111)
    assert forked(job) == [[13]]


def test_files_are_private_and_links_are_not_followed(tmp_path):
    log = PredictionLog(tmp_path / "log")
    log.write({}, "a", time="2026-03-01")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700
    path, = log.folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "victim").write_text("precious")
    os.symlink(tmp_path / "victim", log.folder / "rows-2026-03-02-000000.log")
    with pytest.raises(NotWritten):
        log.write({}, "a", time="2026-03-02")
    assert (tmp_path / "victim").read_text() == "precious"


# --- what comes back is what went in ------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=()), max_size=30)  # surrogates, NUL and line feeds included
values = st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | texts


def same(a, b):
    return type(a) is type(b) and (a == b or (a != a and b != b))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(texts, values, max_size=6), values, st.none() | st.floats(), st.text(st.characters(exclude_categories=()), min_size=1, max_size=20), values)
@example(features={"\ud800": 1}, predicted="a", confidence=None, id="a", label=None)
def test_every_value_survives(tmp_path_factory, features, predicted, confidence, id, label):
    folder = tmp_path_factory.mktemp("log")
    log = PredictionLog(folder)
    log.label(id, label)
    assert log.write(features, predicted, confidence, id=id) == id
    (rows, labels, index), = log.batches()
    row, = rows
    back = predlog._table([row["x"]], str)
    assert index.torn == 0 and set(back) == set(features) and all(same(back[k][0], v) for k, v in features.items())
    assert same(predlog._even(row["y"]), predicted) and same(labels[0], label) and row["id"] == id and same(predlog._even(row["p"]), confidence)
    frame = log.frame()
    assert frame.shape == (1, 8 + len(features)) and set(frame) == {*predlog.OWN, *map(column_of, features)}
    assert log.export(folder / "out.csv") == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.dictionaries(texts, values, max_size=3), st.integers(0, 200)), min_size=1, max_size=8), st.randoms())
def test_lines_survive_torn_neighbours(rows, chance):
    """Any line may be torn anywhere: all others are read, and nothing else is."""
    clean = [{"n": n, "x": {k: v for k, v in row.items() if v == v and v not in (math.inf, -math.inf)}} for n, (row, _) in enumerate(rows)]
    torn = {n for n in range(len(rows)) if chance.random() < 0.4}
    lines = [pack(row) for row in clean]
    data = b"".join(line[:chance.randrange(2, len(line))] if n in torn else line for n, line in enumerate(lines))
    back = [row for row in map(unpack, filter(None, data.split(b"\n"))) if row]
    assert back == [row for n, row in enumerate(clean) if n not in torn]


def test_hostile_and_huge_values_are_refused_by_name(tmp_path):
    log = PredictionLog(tmp_path, row_bytes=10_000)
    bad = [({"story": "x" * 20_000}, ValueError, "story"), ({"n": 10**5000}, ValueError, "digits"), ({"f": object()}, TypeError, "'f'"), ({"f": [1, 2]}, TypeError, "'f'"), ({1: 2}, TypeError, "name of a feature"),
           ({"f": {"float": "nan"}}, TypeError, "'f'"), ({"f": 1j}, TypeError, "'f'"), ([1], TypeError, "dictionary")]
    for features, kind, said in bad:
        with pytest.raises(kind, match=said):
            log.write(features, "a")
    for change in (dict(confidence="high"), dict(confidence=10**400), dict(latency=[1]), dict(predicted=["a"]), dict(predicted={}), dict(id=""), dict(id="x" * 201), dict(id=7), dict(time=-1), dict(time=1e20), dict(time="soon")):
        with pytest.raises((TypeError, ValueError)):
            log.write({}, **{"predicted": "a", **change})
    with pytest.raises(ValueError):
        log.label("a", "x" * 20_000)
    assert log.frame().empty and not list(tmp_path.iterdir()), "what was refused left no trace"
    log.write({"a": np.int64(3), "b": np.float32(0.5), "c": np.True_, "d": np.str_("t"), "e": np.array(2.0), "f": "\n00000000 2 {}"}, np.str_("a"), np.float32(0.5), model="m", version=np.int64(3))
    assert log.frame()[["a", "b", "c", "d", "e", "f", "version"]].iloc[0].tolist() == [3, 0.5, True, "t", 2.0, "\n00000000 2 {}", "3"]


def test_a_feature_called_label_never_becomes_the_label(tmp_path):
    log = PredictionLog(tmp_path)
    log.write({name: "fake" for name in (*predlog.OWN, "feature.label", "why.x")}, "a", 0.5, id="p", why={"label": 1.0})
    frame = log.frame(why=True)
    assert frame.label.isna().all() and frame.predicted[0] == "a" and frame["feature.label"][0] == "fake" and frame["feature.feature.label"][0] == "fake" and frame["why.label"][0] == 1.0
    assert frame["feature.why.x"][0] == "fake" and len(set(frame.columns)) == frame.shape[1]


def test_a_new_version_with_other_features(tmp_path):
    log = PredictionLog(tmp_path)
    log.write({"age": 30, "area": "rural"}, "a", version="1", time="2026-03-01")
    log.write({"area": 7, "score": 0.5}, 1, version="2", time="2026-03-02")
    frame = log.frame()
    assert frame.age.tolist()[0] == 30 and math.isnan(frame.age[1]) and frame.area.tolist() == ["rural", 7] and frame.predicted.tolist() == ["a", 1]
    log.export(tmp_path / "out.csv")
    table = pd.read_csv(tmp_path / "out.csv")
    assert table.columns.tolist() == ["timestamp", "age", "area", "score", "predicted_class", "confidence"] and table.area.tolist() == ["rural", "7"]


# --- labels ---------------------------------------------------------------------------------------------------------------------------

def test_labels_early_late_twice_changed_and_changed_back(tmp_path):
    log = PredictionLog(tmp_path, segment_bytes=400)
    log.label("early", 1, time="2026-01-01")
    for i, id in enumerate(("early", "late", "twice", "changed", "back", "never")):
        log.write({"i": i}, 0, id=id, time="2026-01-02")
    log.label("twice", 1, time="2026-01-03")
    for y in (1, 0):
        log.label("changed", y, time="2026-01-04")
    for y in (1, 0, 1):
        log.label("back", y, time="2026-01-05")
    log.label("twice", 1, time="2026-01-06")
    log.label("late", 1, time="2029-01-01")
    log.label("of nobody", 1)
    frame = log.frame().set_index("prediction_id")
    assert frame.label.dropna().to_dict() == {"early": 1, "late": 1, "twice": 1, "changed": 0, "back": 1} and frame.attrs["relabelled"] == 2
    history = log.labels()
    assert len(history) == 10 and history.groupby("prediction_id").counts.sum().eq(1).all()
    assert history[history.prediction_id == "back"].label.tolist() == [1, 0, 1]


def test_a_clock_that_goes_backwards(tmp_path, monkeypatch):
    log, clock = PredictionLog(tmp_path), [pd.Timestamp("2026-03-02T00:00:10", tz="UTC").value]
    monkeypatch.setattr(predlog.time, "time_ns", lambda: clock[0])
    log.write({"i": 0}, "a", id="p")
    log.label("p", "first")
    clock[0] -= 60 * 10**9          # over midnight
    log.write({"i": 1}, "a", id="q")
    log.label("p", "second")        # in true time the later one
    assert log.frame().prediction_id.tolist() == ["q", "p"] and log.frame().label.tolist()[1] == "second"
    assert log.frame("2026-03-02").prediction_id.tolist() == ["p"] and log.frame(until="2026-03-02").prediction_id.tolist() == ["q"]
    assert PredictionLog(tmp_path).label("p", "third") is None and log.frame().label.tolist()[1] == "third"


def test_windows_are_half_open_and_chunks_add_up(tmp_path):
    log = PredictionLog(tmp_path, segment_bytes=2000)
    start = pd.Timestamp("2026-03-01", tz="UTC")
    for i in range(200):
        log.write({"i": i}, "a", time=start + pd.Timedelta(hours=i))
    for id in log.frame().prediction_id:
        log.write({"i": -1}, "a", id=id, time="2026-04-01")     # written again, much later
    whole = log.frame()
    assert whole.i.tolist() == list(range(200)) and whole.attrs["repeated"] == 200
    for size in (1, 7, 100, 200, 400, 1000):
        parts = list(log.chunks(rows=size))
        assert all(0 < len(p) <= size for p in parts) and pd.concat(parts).i.tolist() == list(range(200)), size
    some = log.frame(start + pd.Timedelta(hours=24), (start + pd.Timedelta(hours=48)).to_pydatetime())
    assert some.i.tolist() == list(range(24, 48)) and some.time.dtype == "datetime64[us, UTC]"
    assert [len(c) for c in log.chunks("2030-01-01")] == [0]


def test_reading_needs_little_memory(tmp_path):
    log = PredictionLog(tmp_path)
    queue = Queued(log)
    for i in range(30_000):
        queue.write({"i": i, "text": "x" * 500}, "a")
    queue.close()
    import tracemalloc
    tracemalloc.start()
    total = sum(len(c) for c in log.chunks(rows=1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 30_000 and peak < 8_000_000, peak


# --- private ------------------------------------------------------------------------------------------------------------------------

def test_no_plain_value_lies_in_the_folder(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    log = PredictionLog(tmp_path, hash=["name", "photo id"], drop=["phone"], key=KEY)
    ids = [log.write({"name": name, "phone": "98450-77777", "photo id": b"raw-bytes-of-id", "face": picture, "age": 31}, "yes", 0.9, subject=f"customer {name}", why={"phone": 0.25, "age": 1}) for name in ("chi-secret", "bo-secret", "chi-secret")]
    log.label(ids[0], "no")
    everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*"))
    for plain in (b"secret", b"98450", b"phone", b"customer", b"raw-bytes", picture.tobytes()[:40], KEY, b"0.25"):
        assert plain not in everything and plain not in b"".join(os.fsencode(p.name) for p in tmp_path.rglob("*")), plain
    import base64
    assert base64.b64encode(picture.tobytes())[:40] not in everything
    frame = log.frame()
    assert frame.name[0] == frame.name[2] != frame.name[1] and frame.age.tolist() == [31] * 3 and frame["face.width"].tolist() == [30] * 3
    assert abs(frame["face.brightness"][0] - picture.mean()) < 1e-9
    assert keyed_digest(KEY, "name", "chi-secret") != keyed_digest(KEY, "surname", "chi-secret")
    assert keyed_digest(KEY, "name", "chi-secret") == frame.name[0] != keyed_digest(b"another key of mine", "name", "chi-secret")


def test_pixels_when_asked(tmp_path):
    import base64
    import io
    log = PredictionLog(tmp_path, pixels=True)
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    log.write({"scan": picture, "file": b"\xff\xd8 not really"}, "a")
    row = log.frame().iloc[0]
    assert np.array_equal(np.load(io.BytesIO(base64.b64decode(row["scan.pixels"])), allow_pickle=False), picture) and base64.b64decode(row["file.pixels"]) == b"\xff\xd8 not really"


def test_erasing_one_person_while_others_write(tmp_path):
    log = PredictionLog(tmp_path, key=KEY, segment_bytes=5000)
    hers = [log.write({"i": i, "secret": "hers-alone"}, "a", subject="chi") for i in range(30)]
    for id in hers:
        log.label(id, "b")
    torn = sorted(tmp_path.glob("rows-*"))[0]
    torn.write_bytes(torn.read_bytes() + b'\n0a0a0a0a 999 {"x":{"secret":"hers-alone')
    done = tmp_path.parent / f"{tmp_path.name}-done"
    def busy(k):
        def job(ack):
            log = PredictionLog(tmp_path, key=KEY, segment_bytes=5000)
            i = 0
            while not done.exists():
                log.write({"i": i}, "a", id=f"{k}-{i}", subject=f"worker {k}")
                ack(i)
                i += 1
        return job
    def eraser(ack):
        time.sleep(0.1)
        ack(PredictionLog(tmp_path, key=KEY).erase("chi"))
        done.write_text("")
    *said, (erased,) = forked(busy(0), busy(1), busy(2), eraser)
    frame = log.frame()
    assert erased == 30 and not set(hers) & set(frame.prediction_id) and not set(hers) & set(log.labels().prediction_id)
    assert set(frame.prediction_id) == {f"{k}-{i}" for k, some in enumerate(said) for i in some} and min(map(len, said)) > 5
    assert b"hers-alone" not in b"".join(p.read_bytes() for p in tmp_path.iterdir()) and not list(tmp_path.glob("*.tmp"))


def test_erasing_waits_for_who_is_writing_and_seals(tmp_path):
    log = PredictionLog(tmp_path, key=KEY)
    log.write({}, "a", id="hers", subject="chi")
    log.write({}, "a", id="his", subject="bo")
    path, = tmp_path.iterdir()
    with open(path, "rb") as f:
        fcntl.flock(f, fcntl.LOCK_SH)   # somebody is in the midst of a write
        thread = threading.Thread(target=log.erase, args=("chi",))
        thread.start()
        time.sleep(0.2)
        assert thread.is_alive() and b"hers" in path.read_bytes()
    thread.join(5)
    sealed = path.read_bytes()
    assert b"hers" not in sealed and b"his" in sealed
    assert log.erase("nobody") == 0
    log.write({}, "a", id="later")
    assert path.read_bytes() == sealed and sorted(log.frame().prediction_id) == ["his", "later"]


def test_erasing_takes_torn_lines_out_of_every_segment(tmp_path):
    log = PredictionLog(tmp_path, key=KEY)
    for day in ("2026-03-01", "2026-03-02"):
        log.write({}, "a", id=day, subject="bo", time=day)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes() + b'\n00000000 99 {"x":{"name":"chi')
    assert log.frame().attrs["torn"] == 2
    assert log.erase("chi") == 0 and log.frame().attrs["torn"] == 0 and len(log.frame()) == 2


def test_a_segment_that_somebody_deleted_is_made_anew(tmp_path):
    log = PredictionLog(tmp_path)
    log.write({}, "a", id="gone")
    next(tmp_path.iterdir()).unlink()
    log.write({}, "a", id="there")
    assert log.frame().prediction_id.tolist() == ["there"]


def test_erasing_needs_the_right_key_and_takes_numbers(tmp_path):
    log = PredictionLog(tmp_path, key=KEY)
    log.write({}, "a", subject=4711)
    assert PredictionLog(tmp_path, key=b"not the right key").erase(4711) == 0 and log.erase("4711") == 1
    with pytest.raises(ValueError, match="needs a key"):
        PredictionLog(tmp_path).erase("chi")


def test_retention_under_load(tmp_path):
    log = PredictionLog(tmp_path, segment_bytes=3000)
    for day in range(1, 21):
        for i in range(10):
            log.label(log.write({"day": day}, "a", time=f"2026-03-{day:02}T12:00"), "b", time=f"2026-03-{day:02}T13:00")
    assert log.retain(5, now="2026-03-20T01:00") == 14
    frame = log.frame()
    assert sorted(set(frame.day)) == list(range(15, 21)) and frame.label.notna().all()
    assert log.labels().time.min() >= pd.Timestamp("2026-03-14", tz="UTC")
    log.write({"day": 3}, "a", time="2026-03-03")   # the open segment was taken away: another is made
    assert log.frame().day.tolist()[0] == 3


# --- export, queue, damage ----------------------------------------------------------------------------------------------------------

def test_no_cell_is_a_formula(tmp_path):
    evil = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\thidden", "\r=1", " =1", "\n=1", "＝1", "a\",=1", "a\n=1", "\0", "\ud800", "-inf"]
    log = PredictionLog(tmp_path)
    for text in evil:
        log.write({"=cmd": text, "n": -5}, text, 0.5)
    log.export(tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.reader(f))
    assert len(rows) == len(evil) + 1 and all(len(r) == 5 for r in rows)
    for row in rows:
        for cell in (row[0], row[1], row[3]):
            assert not cell.startswith("\t") and not cell.lstrip().startswith(tuple("=+-@＝")), row
    assert {r[2] for r in rows[1:]} == {"-5"} and not list(tmp_path.glob("*.part"))
    with pytest.raises(ValueError, match="csv or .parquet"):
        log.export(tmp_path / "out.xlsx")


def test_parquet_keeps_types(tmp_path):
    pytest.importorskip("pyarrow")
    log = PredictionLog(tmp_path)
    log.write({"i": 1, "f": 1, "b": True, "t": "x", "big": 2**70, "mixed": 1}, "a", 0.5, time="2026-03-01T00:00:00.000001")
    log.write({"i": -2, "f": 0.5, "b": None, "t": "\ud800", "mixed": "one"}, "b", None, time="2026-03-02")
    log.export(tmp_path / "out.parquet")
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table.i.tolist() == [1, -2] and table.f.tolist() == [1, 0.5] and table.b[0] and table.t[1] == "\\ud800" and table.big[0] == str(2**70) and table.mixed.tolist() == ["1", "one"]
    assert str(table.timestamp.dtype) == "datetime64[us, UTC]" and table.timestamp[0].microsecond == 1


def test_a_killed_queue_loses_only_its_last_moment(tmp_path):
    def job(ack):
        queue = Queued(PredictionLog(tmp_path), every=0.02)
        for i in range(10**6):
            queue.write({"i": i}, "a", id=str(i))
            ack(i)
            time.sleep(0.001)
    said, = forked(job, kill_at=[0.6])
    there = sorted(map(int, PredictionLog(tmp_path).frame().prediction_id))
    assert there == list(range(len(there))) and len(there) >= len(said) - 300 and len(there) > 20, (len(there), len(said))


def test_a_program_that_ends_normally_flushes(tmp_path):
    script = f"import sys; sys.path.insert(0, {os.getcwd()!r})\nfrom mlops_course.predlog import *\nq = Queued(PredictionLog({str(tmp_path)!r}), every=60)\nfor i in range(100): q.write({{'i': i}}, 'a')"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert len(PredictionLog(tmp_path).frame()) == 100


def test_a_full_queue_pushes_back_and_gives_up_loudly(tmp_path, monkeypatch):
    queue = Queued(PredictionLog(tmp_path), rows=10, every=0.01, wait=0.2)
    stuck, real = threading.Event(), os.write
    def blocked(fd, data):
        stuck.wait(5)
        return real(fd, data)
    monkeypatch.setattr(os, "write", blocked)
    for i in range(10):
        queue.write({"i": i}, "a")
    start = time.monotonic()
    with pytest.raises(NotWritten, match="stayed full"):
        queue.write({"i": 10}, "a")
    assert time.monotonic() - start >= 0.2
    queue.wait = 60  # now there will be room, however busy the machine
    stuck.set()
    queue.write({"i": 11}, "a")
    queue.close()
    assert queue.log.frame().i.tolist() == [*range(10), 11]


def test_damage_costs_the_damaged_rows_only(tmp_path):
    log = PredictionLog(tmp_path)
    for i in range(100):
        log.write({"i": i}, "a")
    path, = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    data[200:240] = bytes(40)      # a hole of zeros, as after a power failure
    path.write_bytes(bytes(data) + b"\n\n\nnonsense\n" + b"9" * 5000 + b"\n00000000 -1 \n" + b"[" * 100_000)
    log.write({"i": 100}, "a")
    frame = log.frame()
    assert len(frame) == 99 and frame.i.iloc[-1] == 100 and frame.attrs["torn"] == 6  # two rows and four lines of nonsense


def test_writing_needs_no_pandas():
    script = f"import sys; sys.path.insert(0, {os.getcwd()!r})\nimport mlops_course.predlog, json; print(json.dumps([m for m in ('pandas', 'PIL', 'pyarrow', 'scipy') if m in sys.modules]))"
    assert json.loads(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout) == []
