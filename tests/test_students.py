"""Solutions that others wrote from the student's lab alone, without sight of ours, lose no point for a right answer.

Each file in tests/students holds the answers of one of them: a line `# %% NAME` starts the answer for the hole of that name.
The lab has grown since they wrote. Their answers stand for the holes that are as they were; the others are filled with ours.
"""
import functools
import json
import re
from pathlib import Path

import pytest

from mlops_course.grading.judge import judge_submission, reference
from mlops_course.grading.labs import check_body, find_lab
from mlops_course.grading.verify import solution, submission, verify_set

ROOT = Path(__file__).parent.parent
STUDENTS = sorted((ROOT / "tests/students").glob("*.txt"))
SETS = (0, 7)


def checks(path):
    cells = json.loads(path.read_text())["cells"]
    return {own["check"]: "".join(c["source"]).strip() for c in cells if "check" in (own := c["metadata"].get("mlops_course", {}))}


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "labs").glob("*.ipynb")))
def test_an_untouched_check_is_taken_for_untouched(name):
    handed_out, ours = checks(ROOT / "labs" / name), checks(ROOT / "solutions/labs" / name)
    assert handed_out and all(check_body(source).strip() == ours[check] for check, source in handed_out.items())


def answers(path):
    parts = re.split(r"^# %% (\w+)\n", path.read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


@functools.cache
def lab():
    return find_lab(ROOT, "09_drift")


@functools.cache
def reference_of(i):
    return reference(lab(), verify_set(lab(), i))


def test_three_students():
    assert len(STUDENTS) >= 3 and all(set(answers(p)) <= set(lab().holes) and len(answers(p)) >= 7 for p in STUDENTS)


@pytest.mark.parametrize("i", SETS)
@pytest.mark.parametrize("path", STUDENTS, ids=lambda p: p.stem)
def test_no_point_is_lost(path, i):
    judgement = judge_submission(lab(), submission(lab(), {**solution(lab()), **answers(path)}), verify_set(lab(), i), reference_of(i))
    assert [(v.check, v.status, v.reason) for v in judgement.verdicts if v.earned < v.points] == []
