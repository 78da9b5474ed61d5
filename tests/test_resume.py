"""A grading run that is killed at any moment goes on where it was: one verdict for each submission and check, and the same final gradebook."""
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import nbformat
import pytest

from mlops_course.grading.derive import derive
from mlops_course.grading.labs import code_cell, new_lab

KILLS = 6


def slow_lab():
    """Three holes and checks of a third of a second each: time enough to be killed in the middle of a submission."""
    hole = lambda name, code: code_cell(f"### BEGIN SOLUTION\n{code}\n### END SOLUTION", hole=name)
    cells = [code_cell("seed: int = 3  # a number", "parameters"), code_cell("import time\nfrom mlops_course.lab import show")]
    for name in "abc":
        cells += [hole(name, f"{name} = seed * {ord(name)}"), code_cell(f"time.sleep(0.3)\nshow({name})", "check", check=name, points=1, needs=[name], kind="int")]
    return new_lab("00_slow", cells)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    root = tmp_path_factory.mktemp("course")
    (root / "solutions/labs").mkdir(parents=True)
    (root / "class").mkdir()
    nbformat.write(slow_lab(), root / "solutions/labs/00_slow.ipynb")
    derive(root, "00_slow")
    right = nbformat.read(root / "solutions/labs/00_slow.ipynb", 4)
    for i in range(6):
        nb = nbformat.read(root / "labs/00_slow.ipynb", 4)
        for mine, theirs in zip([c for c in nb.cells if "hole" in c.metadata.get("mlops_course", {})], [c for c in right.cells if "hole" in c.metadata.get("mlops_course", {})]):
            mine.source = theirs.source.replace("### BEGIN SOLUTION", "").replace("### END SOLUTION", "")
        if i % 2:
            nb.cells[5].source = "b = 'wrong'"
        nbformat.write(nb, root / f"class/s{i}.ipynb")
    (root / "class/s6.ipynb").write_text("not a notebook")
    return root


def grade(course, out):
    return subprocess.Popen([sys.executable, "-c", "from mlops_course.cli import main; main()", "grade", "class", "--out", out], cwd=course,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a shell's background jobs ignore Ctrl-C


def rows(course, out, table, columns):
    with sqlite3.connect(course / out / "gradebook.db") as db:
        return sorted(db.execute(f"select {columns} from {table}").fetchall())


def written(course, out):
    """How much is in the gradebook so far: changes with every verdict and submission."""
    if not (course / out / "gradebook.db").exists():
        return None
    try:
        return rows(course, out, "submissions", "student, status"), rows(course, out, "verdicts", "student, check_id")
    except sqlite3.OperationalError:  # the tables are just being made
        return None


CONTENT = {"submissions": "student, lab, round, digest, work, status, reason, notes", "verdicts": "student, lab, round, check_id, status, points, earned, data"}


def finished_in(course, out):
    """When each finished submission was graded, by student."""
    if written(course, out) is None:
        return {}
    return {r[0]: r[1] for r in rows(course, out, "submissions", "student, graded_at || seconds, status") if r[2] != "in flight"}


def test_killed_runs_end_in_the_same_gradebook(course):
    assert grade(course, "straight").wait() == 3
    moments, finished, hits = random.Random(1), {}, 0
    for k in range(KILLS):
        # every other time one more submission may be finished, so that the class gets on; else a verdict or less
        state = finished_in if k % 2 else written
        before = state(course, "killed")
        run = grade(course, "killed")
        while run.poll() is None and state(course, "killed") == before:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.6))
        hits += run.poll() is None
        run.send_signal(signal.SIGKILL)
        run.wait()
        now = finished_in(course, "killed")
        assert finished.items() <= now.items(), "a finished submission was lost or graded again"
        finished = now
    assert hits >= KILLS // 2 and finished, "the kills came too late or too early to test anything"
    assert grade(course, "killed").wait() == 3
    for table, columns in CONTENT.items():
        assert rows(course, "killed", table, columns) == rows(course, "straight", table, columns)
    verdicts = rows(course, "killed", "verdicts", "student, check_id")
    assert len(verdicts) == len(set(verdicts)) == 6 * 3
    shutil.rmtree(course / "killed")


def test_ctrl_c_leaves_a_gradebook_that_resumes(course):
    run = grade(course, "stopped")
    deadline = time.time() + 60
    while time.time() < deadline and not ((course / "stopped/gradebook.db").exists() and rows(course, "stopped", "verdicts", "check_id")):
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    assert run.wait(20) == 130
    assert 1 <= len(rows(course, "stopped", "verdicts", "check_id")) < 18
    assert grade(course, "stopped").wait() == 3
    assert rows(course, "stopped", "verdicts", CONTENT["verdicts"]) == rows(course, "straight", "verdicts", CONTENT["verdicts"])
