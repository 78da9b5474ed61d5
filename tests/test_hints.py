"""Hints look at what hostile students hand in: they must come back in time, with plain sentences, and name no honest work."""
import ast
import json
import re
import time
from pathlib import Path

import pytest

from mlops_course.grading.hints import class_hints, hints_html, hints_json, similar, suspicious
from mlops_course.grading.labs import find_lab
from mlops_course.grading.verify import right_answers, submission

ROOT = Path(__file__).parent.parent
LAB = find_lab(ROOT, "09_drift")
STUDENTS = sorted((ROOT / "tests/students").glob("*.txt"))


def answers(path):
    parts = re.split(r"^# %% (\w+)\n", path.read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def renamed(source):
    "`source` with another name for every variable and parameter."
    tree = ast.parse(source)
    own = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} | {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    return re.sub(r"(?<!\.)\b(" + "|".join(sorted(own)) + r")\b", r"my_\1", ast.unparse(tree))


@pytest.mark.parametrize("work", [*map(answers, STUDENTS), *right_answers(LAB).values()])
def test_honest_work_is_not_suspicious(work):
    assert suspicious(submission(LAB, work), LAB) == []


def test_independent_authors_are_no_pair_and_a_copy_is():
    works = {p.stem: submission(LAB, answers(p)) for p in STUDENTS}
    assert similar(works, LAB) == []
    copy = {h: renamed(s) for h, s in answers(STUDENTS[0]).items()}
    assert [(p.a, p.b) for p in similar({**works, "zoe": submission(LAB, copy)}, LAB)] == [(STUDENTS[0].stem, "zoe")]


HOSTILE = {
    "brackets": "x = " + "(" * 9000,
    "closed brackets": "x = " + "[" * 9000 + "]" * 9000,
    "signs": "x = " + "-" * 19_000 + "1",
    "nots": "x = " + "not " * 4000 + "1",
    "attributes": "x" + ".y" * 9000,
    "sums": "x = 1" + " + 1" * 4000,
    "quotes": "'''" * 6000,
    "one quote": '"' + "\\" * 19_000,
    "blanks": " " * 19_000 + "x",
    "zero bytes": "\0" * 1000,
    "a large number": "x = " + "9" * 15_000,
    "half a megabyte": "x = 1\n" * 80_000,
    "magics": "%" * 19_000,
    "timed": "%timeit" + " -n 1" * 3500,
    "names": "a" * 19_000,
    "elses": "if a: pass\n" + "elif b: pass\n" * 1500,
    "commas": "x, " * 6000 + "!",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_cells_cost_little(name):
    start = time.process_time()
    works = {who: submission(LAB, {"psi": HOSTILE[name]}, HOSTILE[name]) for who in ("ada", "bo")}
    found = [h for s in works.values() for h in suspicious(s, LAB)]
    similar(works, LAB)
    assert time.process_time() - start < 5
    assert all(len(h) < 300 and h.isprintable() and not set("<>") & set(h) for h in found)


def test_a_folder_of_submissions(tmp_path):
    cells = lambda work, extra: [{"cell_type": "code", "id": c["id"], "metadata": {"mlops_course": {"hole": c["hole"]}} if "hole" in c else {}, "source": c["source"],
                                  "outputs": [], "execution_count": None} for c in submission(LAB, work, extra).cells if c["type"] == "code"]
    write = lambda who, work, extra="": (tmp_path / f"{who}.ipynb").write_text(json.dumps({"cells": cells(work, extra), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    write("ada", answers(STUDENTS[0]))
    write("bo", answers(STUDENTS[0]), "import socket\nsocket.create_connection(('<script>', 1))")
    write("chi", answers(STUDENTS[1]))
    (tmp_path / "dee.ipynb").write_bytes(b"%PDF")
    found = class_hints(tmp_path, ROOT, "09_drift")
    assert found.students == 3 and [(p.a, p.b) for p in found.pairs] == [("ada", "bo")] and list(found.suspicions) == ["bo"]
    assert json.loads(hints_json(found))["students"] == 3 and "<script" not in hints_html(found) and "opens a connection" in hints_html(found)
