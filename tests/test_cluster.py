"""A class graded on a Dask cluster, one of whose workers is killed in the middle, comes out as it does at home: every verdict once, the same grades."""
import os
import signal
import time

import nbformat
import psutil
import pytest

from mlops_course.grading.classroom import grade_class
from mlops_course.grading.cluster import Cluster, Here
from mlops_course.grading.derive import derive
from mlops_course.grading.gradebook import Gradebook
from mlops_course.grading.labs import BEGIN, END, code_cell, new_lab

distributed = pytest.importorskip("distributed")

ANSWERS = ("n = seed * 2", "n = seed + 1", "n = str(seed)", "raise ValueError(seed)", "import time; time.sleep(0.5); n = 2 * seed", "import os; os._exit(1)", "n = None", "n = seed + seed")


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    root = tmp_path_factory.mktemp("course")
    for folder in ("solutions/labs", "class"):
        (root / folder).mkdir(parents=True)
    lab = new_lab("00_twice", [code_cell("seed: int = 3  # a number", "parameters"), code_cell("import time\nfrom mlops_course.lab import show"),
                               code_cell(f"{BEGIN}\nn = 2 * seed\n{END}", hole="n"),
                               *(code_cell(f"time.sleep(0.1)\nshow({'-' * (i % 2)}n)", "check", check=f"c{i}", points=1 + i, needs=["n"], kind="int") for i in range(3))])
    nbformat.write(lab, root / "solutions/labs/00_twice.ipynb")
    derive(root, "00_twice")
    for i, answer in enumerate(ANSWERS):
        nb = nbformat.read(root / "labs/00_twice.ipynb", 4)
        next(c for c in nb.cells if "hole" in c.metadata.get("mlops_course", {})).source = answer
        nbformat.write(nb, root / f"class/s{i}.ipynb")
    return root


def grades(course, executor, name, on_done=lambda job: None):
    with Gradebook(course / name, write=True) as book, executor:
        summary = grade_class(course / "class", course, book, executor=executor, on_done=on_done)
        assert (summary.graded, summary.refused, summary.broken) == (len(ANSWERS), (), ())
        return {g.student: (g.status, g.earned, g.reason, g.notes, [(v.check, v.status, v.earned, v.reason, v.yours) for v in g.verdicts]) for g in book.grades()}


def test_a_worker_that_is_killed_changes_nothing(course):
    at_home = grades(course, Here(), "here.db")
    assert {earned for _, earned, *_ in at_home.values()} >= {0, 6}
    struck, below = [], []

    def strike(job):
        """After the first verdict: the worker that holds kernels of its own is in the middle of a submission."""
        if struck:
            return
        busy = [pid for pid in (n.pid for n in cluster.workers.values()) if (down := psutil.Process(pid).children(recursive=True))]
        below.extend(psutil.Process(busy[0]).children(recursive=True))
        struck.append(busy[0])
        os.kill(busy[0], signal.SIGKILL)

    with distributed.LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        away = grades(course, Cluster(cluster.scheduler_address), "cluster.db", strike)
        assert struck and below
        psutil.wait_procs(below, timeout=3)
        assert [p for p in below if p.is_running() and p.status() != "zombie"] == []  # its warm process and kernels go with it
    assert away == at_home
