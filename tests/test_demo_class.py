"""The demo class: each of the 24 submissions gets the score that it deserves, with the reason, and nothing that is hidden gets out."""
import csv
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from mlops_course.grading.gradebook import Gradebook
from mlops_course.grading.labs import find_lab
from mlops_course.lab import readable, decode

ROOT = Path(__file__).parent.parent
LAB = "09_drift"

# points of 41, and a word of the reason or remark
EXPECTED = {
    "s01-right": (41, ""),
    "s02-right-in-another-way": (41, ""),
    "s03-right-with-own-cells": (41, ""),
    "s04-right-with-warnings": (41, ""),
    "s05-right-never-run": (41, ""),
    "s06-right-in-a-web-editor": (41, ""),
    "s07-half-done": (15, "still as it was handed out"),
    "s08-last-one-missing": (35, "still as it was handed out"),
    "s09-unsolved": (0, "still as it was handed out"),
    "s10-unsolved-never-run": (0, "still as it was handed out"),
    "s11-syntax-error": (38, "NameError"),
    "s12-exception": (38, "NameError"),
    "s13-public-values-as-constants": (0, "differ"),
    "s14-imported-from-the-package": (0, "shape"),
    "s15-right-after-a-wrong-answer": (37, "shape"),
    "s16-deleted-checks": (41, "missing and put back"),
    "s17-moved-checks": (41, "moved and put back"),
    "s18-doubled-checks": (41, "counted once"),
    "s19-edited-checks": (41, "edited and restored"),
    "s20-edited-checks-unsolved": (0, "edited and restored"),
    "s21-endless-loop": (38, "stopped after"),
    "s22-endless-output": (35, "put out more than"),
    "s23-not-a-notebook": (None, "it is not JSON"),
    "s24-empty-file": (None, "is empty"),
}


def course(*words):
    return subprocess.run([sys.executable, "-c", "from mlops_course.cli import main; main()", *map(str, words)], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    assert course("demo-class", folder / "class").returncode == 0
    done = course("grade", folder / "class", "--lab", LAB, "--out", folder / "graded")
    assert done.returncode == 3, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def grades(graded):
    with Gradebook(graded / "graded/gradebook.db") as book:
        return {g.student: g for g in book.grades()}


def test_everybody_is_graded(grades):
    assert set(grades) == set(EXPECTED) and len(EXPECTED) == 24


@pytest.mark.parametrize("student", EXPECTED)
def test_score_and_reason(grades, student):
    points, word = EXPECTED[student]
    grade = grades[student]
    said = " / ".join([grade.reason, *grade.notes, *(v.reason for v in grade.verdicts)])
    assert word in said, said
    if points is None:
        assert grade.status == "refused" and not grade.verdicts
    else:
        assert grade.earned == points, [(v.check, v.status, v.reason) for v in grade.verdicts if v.earned < v.points]
        assert all(v.reason for v in grade.verdicts if v.earned < v.points)


def test_right_after_a_wrong_answer_says_what_was_put_in_place(grades):
    filled = [v for v in grades["s15-right-after-a-wrong-answer"].verdicts if v.filled]
    assert filled and all(v.yours is None for v in filled)


def test_feedback_for_every_student_and_nothing_hidden(graded, grades):
    from mlops_course.grading.report import feedback_name
    lab = find_lab(ROOT, LAB)
    hidden = {c.id for c in lab.checks if c.hidden}
    assert len(hidden) >= 3
    import sqlite3
    with sqlite3.connect(graded / "graded/gradebook.db") as db:
        secrets = [readable(decode(v)) for data, in db.execute("select data from refs") for id, values in json.loads(data)["values"].items() if id in hidden for v in values]
    telling = {s for s in secrets if len(s) > 5}
    assert telling
    for student in EXPECTED:
        page = (graded / "graded/report/feedback" / feedback_name(student, LAB)).read_text()
        assert student in page
        assert not [s for s in telling if s in page]
        assert not any(c.judge[:60] in page for c in lab.checks if c.judge)


def test_student_text_is_never_markup(graded):
    page = (graded / "graded/report/feedback/s12-exception.09_drift.html").read_text()
    assert "<b>how</b>" not in page
    for page in (graded / "graded/report").rglob("*.html"):
        assert not re.search(r"(?:src|href)=.?https?:|url\(|@import", page.read_text())  # stands alone: nothing is fetched


def test_exports_agree_with_the_gradebook(graded, grades):
    rows = {r["student"]: r for r in csv.DictReader((graded / "graded/report/grades.csv").open(encoding="utf-8-sig"))}
    data = {g["student"]: g for g in json.loads((graded / "graded/report/grades.json").read_text())["grades"]}
    suites = ET.parse(graded / "graded/report/junit.xml").getroot()
    for student, (points, _) in EXPECTED.items():
        if points is not None:
            assert float(rows[student]["earned"]) == points == sum(v["earned"] for v in data[student]["verdicts"])
    assert len(suites.findall(".//testsuite")) == 24


def test_second_run_has_nothing_to_do(graded):
    before = os.times().children_user
    assert course("demo-class", graded / "class").returncode == 0  # another process writes the same files
    done = course("grade", graded / "class", "--lab", LAB, "--out", graded / "graded")
    assert "0 graded, 24 unchanged, 2 refused" in done.stdout
    assert os.times().children_user - before < 5 * 3  # CPU seconds: two programs that start, and no kernel


def test_changed_submission_alone_is_graded_again(graded, grades):
    target = graded / "class/s09-unsolved"
    target = target / f"{LAB}.ipynb" if target.is_dir() else target.with_suffix(".ipynb")
    right = graded / "class/s01-right.ipynb"
    target.write_bytes(right.read_bytes())
    done = course("grade", graded / "class", "--lab", LAB, "--out", graded / "graded")
    assert "1 graded, 23 unchanged" in done.stdout
    with Gradebook(graded / "graded/gradebook.db") as book:
        again = {g.student: g for g in book.grades()}
    assert (again["s09-unsolved"].earned, again["s09-unsolved"].round) == (41, 2)
    assert again["s01-right"].graded_at == grades["s01-right"].graded_at


def test_two_files_for_one_student_are_named_and_the_rest_is_graded(graded):
    extra = graded / "class/s10-unsolved-never-run"
    extra.mkdir(exist_ok=True)
    twin = graded / "class/s10-unsolved-never-run.ipynb"
    for path in (twin, extra / f"{LAB}.ipynb"):
        if not path.exists():
            path.write_bytes((graded / "class/s01-right.ipynb").read_bytes())
    done = course("grade", graded / "class", "--lab", LAB, "--out", graded / "graded")
    assert done.returncode == 3 and "two files for s10-unsolved-never-run" in done.stderr
