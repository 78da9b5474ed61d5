"""Answers in words from the lab to the total: nothing of them runs, and every sheet that leaves comes back as it was."""
import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_course.grading.gradebook import Grade, Gradebook
from mlops_course.grading.judge import Verdict, check_notebook, judge_submission, reference
from mlops_course.grading.labs import (lab_from_notebook, new_lab, public_set, question_cell, small_lab, small_written_lab, student_copy,
                                       submission_from, written_answers)
from mlops_course.grading.marks import marks, read_sheet, sheet_csv, to_mark, units_late

quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    """A student's copy with a right answer in code, and a free-text cell, split in two, of which the student made code."""
    lab, solved = lab_from_notebook(small_written_lab()), small_written_lab()
    ref = reference(lab, public_set(lab))
    nb, ran = student_copy(lab, solved, ref.values), tmp_path_factory.mktemp("ran") / "it ran"
    hole = next(c for c in nb.cells if "hole" in c.metadata.get("mlops_course", {}))
    hole.source = "def double(x): return x + x"
    cell = nb.cells.pop()
    for text in (f"open({str(ran)!r}, 'w')", "%%bash\ntouch it"):
        half = nbformat.v4.new_code_cell(text, metadata=cell.metadata)
        half.metadata.pop("editable", None)
        nb.cells.append(half)
    return lab, ref, nb, ran


def test_a_free_text_cell_never_runs(handed_in):
    lab, ref, nb, ran = handed_in
    submission = submission_from(json.loads(nbformat.writes(nb)))
    judged = judge_submission(lab, submission, public_set(lab), ref)
    assert [v.status for v in judged.verdicts] == ["right", "right"] and not ran.exists()
    assert "it ran" in written_answers(lab, submission)["why"] and "touch it" in written_answers(lab, submission)["why"]


def test_students_check_their_copy_without_the_solution(handed_in, tmp_path):
    _, _, nb, ran = handed_in
    nb = nbformat.from_dict(nb)
    nb.cells = [nbformat.v4.new_markdown_cell(c.source, metadata=c.metadata) if "answer" in c.metadata.get("mlops_course", {}) else c for c in nb.cells]
    nbformat.write(nb, tmp_path / "00_double.ipynb")
    judged = check_notebook(tmp_path / "00_double.ipynb")
    assert [v.status for v in judged.verdicts] == ["right"] and not ran.exists()


text = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20) | st.sampled_from(["=1+1", "'=x", "@a", "a;=b", "-3", "\t=", '"', "'", "007", "=a\n=b", " +"])
names = st.lists(text.filter(str.strip), min_size=1, max_size=4, unique_by=lambda s: " ".join(s.split()).casefold())


@quick
@given(names, names, text, st.data())
def test_what_leaves_in_a_sheet_comes_back(tmp_path_factory, students, criteria, answer, data):
    rubric = [{"criterion": c, "points": 2} for c in criteria]
    try:
        nb = small_lab()
        nb.cells.append(question_cell("Why?\n### BEGIN SOLUTION\nSo.\n### END SOLUTION", answer="why", points=2 * len(rubric), rubric=rubric))
        labs = {"00_double": lab_from_notebook(nb)}
    except Exception as e:
        assert "twice" in str(e)  # two criteria that differ only in blanks at their ends
        return
    with Gradebook(tmp_path_factory.mktemp("book") / "gradebook.db", write=True) as book:
        for student in students:
            book.record(Grade(student, "00_double", 1, "graded", "", (), (), "", 0.0), "d", "w", {"why": answer})
        given_ = [replace(r, mark=data.draw(st.sampled_from([0, 0.5, 1.25, 2])), comment=data.draw(text).strip()) for r in to_mark(book, labs)]
        back = read_sheet(sheet_csv(given_).encode("utf-8-sig"), book, labs, "zoe")
        assert {(g.student, g.criterion): g.mark for g in back} == {(r.student, r.criterion): r.mark for r in given_}
        book.keep_marks(back)
        assert all(m.complete for m in marks(book, labs)) and read_sheet(sheet_csv(to_mark(book, labs)).encode(), book, labs, "zoe") == []


@quick
@given(st.sampled_from(["Europe/Zurich", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]), st.integers(0, 365 * 24 * 60), st.integers(1, 40 * 24 * 60))
def test_a_day_of_lateness_ends_at_the_same_time_of_day(zone, start, passed):
    due = (datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(minutes=start)).astimezone(ZoneInfo(zone))
    at = due.astimezone(timezone.utc) + timedelta(minutes=passed)
    n = units_late(due, at)
    wall = lambda k: (due + timedelta(days=k)).astimezone(timezone.utc)
    assert n >= 1 and wall(n) >= at and (n == 1 or wall(n - 1) < at)
    assert abs(n - passed / 1440) <= 1 + 1 / 24 and units_late(due, at, "hour") == -(-passed // 60)


def test_lord_howe_moves_its_clocks_by_half_an_hour():
    due = datetime(2026, 4, 4, 23, 59, tzinfo=ZoneInfo("Australia/Lord_Howe"))  # the clocks go back in that night
    assert units_late(due, due.astimezone(timezone.utc) + timedelta(hours=24, minutes=30)) == 1
    assert units_late(due, due.astimezone(timezone.utc) + timedelta(hours=24, minutes=31)) == 2
