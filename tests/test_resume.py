"""A grading run that is killed at any moment, or loses its warm process or a worker, goes on where it was: one verdict for each submission and check, the same final gradebook, and no process left."""
import ctypes
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

from mlops_course.grading.derive import derive
from mlops_course.grading.labs import code_cell, new_lab

STUDENTS, CHECKS, SUBREAPER = 3, "ab", 36
# one seed is one test: five runs that are struck, each in one of these ways, at a random moment
WAYS = ("kill -9", "Ctrl-C", "kill -9 with workers", "warm process", "worker")
SEEDS = range(10)


def slow_lab():
    """Two holes and checks of a tenth of a second each: time enough to be struck in the middle of a submission."""
    hole = lambda name, code: code_cell(f"### BEGIN SOLUTION\n{code}\n### END SOLUTION", hole=name)
    cells = [code_cell("seed: int = 3  # a number", "parameters"), code_cell("import time\nfrom mlops_course.lab import show")]
    for name in CHECKS:
        cells += [hole(name, f"{name} = seed * {ord(name)}"), code_cell(f"time.sleep(0.1)\nshow({name})", "check", check=name, points=1, needs=[name], kind="int")]
    return new_lab("00_slow", cells)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    root = tmp_path_factory.mktemp("course")
    for folder in ("solutions/labs", "class", "tmp"):
        (root / folder).mkdir(parents=True)
    nbformat.write(slow_lab(), root / "solutions/labs/00_slow.ipynb")
    derive(root, "00_slow")
    right = nbformat.read(root / "solutions/labs/00_slow.ipynb", 4)
    for i in range(STUDENTS):
        nb = nbformat.read(root / "labs/00_slow.ipynb", 4)
        for mine, theirs in zip([c for c in nb.cells if "hole" in c.metadata.get("mlops_course", {})], [c for c in right.cells if "hole" in c.metadata.get("mlops_course", {})]):
            mine.source = theirs.source.replace("### BEGIN SOLUTION", "").replace("### END SOLUTION", "")
        if i % 2:
            next(c for c in nb.cells if c.metadata.get("mlops_course", {}).get("hole") == "b").source = "b = 'wrong'"
        nbformat.write(nb, root / f"class/s{i}.ipynb")
    (root / "class/none.ipynb").write_text("not a notebook")
    # orphans of a killed run become our children, so that none can hide
    assert ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0) == 0
    yield root
    ctypes.CDLL(None).prctl(SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def straight(course):
    """Everything that an undisturbed run writes, and the seconds that it takes."""
    start = time.monotonic()
    assert grade(course, "straight").wait(60) == 3
    return content(course, "straight"), time.monotonic() - start


# jsonschema, which reads notebooks' formats, would spend most of a short run on the grammar of web addresses
COMMAND = "import sys; sys.modules['rfc3987_syntax'] = None; from mlops_course.cli import main; main()"


def grade(course, out, jobs=1):
    return subprocess.Popen([sys.executable, "-c", COMMAND, "grade", "class", "--out", out, "--jobs", str(jobs)], cwd=course, env={**os.environ, "TMPDIR": str(course / "tmp")},
                            stdout=subprocess.DEVNULL, stderr=open(course / f"{out}.log", "a"),
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a shell's background jobs ignore Ctrl-C


COLUMNS = {"submissions": "student, lab, round, digest, work, status, reason, notes", "verdicts": "student, lab, round, check_id, status, points, earned, data"}


def rows(course, out, table, columns):
    if not (course / out / "gradebook.db").exists():
        return []
    with sqlite3.connect(course / out / "gradebook.db") as db:
        try:
            return sorted(db.execute(f"select {columns} from {table}").fetchall())
        except sqlite3.OperationalError:  # the tables are just being made
            return []


def content(course, out): return {table: rows(course, out, table, columns) for table, columns in COLUMNS.items()}


def finished(course, out):
    """When each finished submission was graded, by student."""
    return {student: at for student, at, status in rows(course, out, "submissions", "student, graded_at || '/' || seconds, status") if status != "in flight"}


def below(pid):
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def called(process, text):
    try:
        return text in " ".join(process.cmdline())
    except psutil.Error:
        return False


def left(before):
    """Processes that were started since `before` and are still there; those that ended are reaped."""
    alive = []
    for process in set(psutil.Process().children(recursive=True)) - before:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)
            else:
                alive.append(process)
        except (ChildProcessError, psutil.NoSuchProcess):
            pass
    return alive


def nobody_left(before, seconds=3):
    deadline = time.monotonic() + seconds
    while (alive := left(before)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [(p.pid, p.cmdline()[:4]) for p in alive if p.is_running()]


def victims(run, way):
    """The processes to choose from: the two of which a warm process consists, once it has forked a kernel, or the workers."""
    if way == "worker":
        return [p for p in below(run.pid) if called(p, "spawn_main")]
    warm = [p for p in below(run.pid) if called(p, "grading.warm")]
    return warm[:2] if len(warm) > 2 else []


def strike(run, way, after, moments):
    """Do the damage; False where there was nothing left to damage."""
    if way in ("warm process", "worker"):
        while run.poll() is None and not victims(run, way):
            time.sleep(0.01)
        time.sleep(after / 4)
        while run.poll() is None and not (found := victims(run, way)):
            time.sleep(0.01)
        if run.poll() is not None:
            return False
        moments.choice(found).kill()
        return True
    time.sleep(after)
    if run.poll() is not None:
        return False
    run.send_signal(signal.SIGINT if way == "Ctrl-C" else signal.SIGKILL)
    return True


@pytest.mark.parametrize("seed", SEEDS)
def test_struck_runs_end_in_the_same_gradebook(course, straight, seed):
    expected, seconds = straight
    moments, before = random.Random(seed), set(psutil.Process().children(recursive=True))
    hits, book, done = [], 0, {}
    for way in moments.sample(WAYS, len(WAYS)):
        out, after = f"seed-{seed}-{book}", moments.uniform(0.2, seconds)
        told = f"seed {seed}, {way} after {after:.2f} s, in {out}"
        run = grade(course, out, 2 if "worker" in way else 1)
        hit = strike(run, way, after, moments)
        code = run.wait(60)
        hits.append((way, hit))
        assert nobody_left(before) == [], told
        if not hit or way in ("warm process", "worker"):
            assert code == 3, f"{told}: ended with {code}: {(course / (out + '.log')).read_text()[-500:]}"  # one submission is no notebook, and all others are graded
        now = finished(course, out)
        assert done.items() <= now.items(), f"{told}: a finished submission was lost or graded again"
        verdicts = rows(course, out, "verdicts", "student, check_id")
        assert len(verdicts) == len(set(verdicts)), told
        done = now
        if len(now) == STUDENTS + 1:
            assert content(course, out) == expected, told
            book, done = book + 1, {}
    assert sum(hit for _, hit in hits) >= 2, f"seed {seed}: the strikes came too late to test anything: {hits}"
    if done:
        assert grade(course, out).wait(60) == 3
        assert done.items() <= finished(course, out).items() and content(course, out) == expected, f"seed {seed}"
        assert nobody_left(before) == [], f"seed {seed}"


def test_ctrl_c_leaves_a_gradebook_that_resumes(course, straight):
    run, expected = grade(course, "stopped"), straight[0]
    while run.poll() is None and not rows(course, "stopped", "verdicts", "check_id"):
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    assert run.wait(20) == 130
    assert 1 <= len(rows(course, "stopped", "verdicts", "check_id")) < len(expected["verdicts"])
    assert grade(course, "stopped").wait(60) == 3
    assert content(course, "stopped") == expected and len(expected["verdicts"]) == STUDENTS * len(CHECKS)
