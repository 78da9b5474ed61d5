"""The three graders get the same class and the same tests, and the figures are worked out as README.md says."""
import json
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

import run
import tasks
import tools
from mlops_course.grading.labs import lab_from_notebook

both = pytest.mark.parametrize("assignment", tasks.ASSIGNMENTS.values(), ids=lambda a: a.name)


@both
@pytest.mark.parametrize("seeds", [(3, 11), (4, 12), (2**31 - 1, 0)], ids=str)
def test_right_answers_agree_and_wrong_ones_do_not(assignment, seeds):
    if assignment.name == "heavy": pytest.importorskip("torch"), pytest.importorskip("tensorflow")
    right, alternative, wrong = (assignment.values(body, *seeds) for body in ("right", "alternative", "wrong"))
    for id in right:
        assert np.allclose(right[id], alternative[id], rtol=1e-6), id
        assert not np.allclose(right[id], wrong[id], rtol=1e-3), id


@both
def test_the_lab_is_small_and_has_no_judge(assignment):
    lab = lab_from_notebook(tasks.ours(assignment))
    assert 4 <= len(lab.holes) <= 6 and sum(c.hidden for c in lab.checks) == 1 and not any(c.judged for c in lab.checks)


@both
def test_all_three_hold_the_same_tests(assignment, monkeypatch):
    monkeypatch.setattr(tasks.Assignment, "expected", lambda self: {c.id: 0.25 for c in self.checks})
    for make in (tasks.ours, tasks.nbgrader, tasks.otter):
        sources = [c.source for c in make(assignment).cells if c.cell_type == "code"]
        for check in assignment.checks: assert sum(check.expression in s for s in sources if not s.startswith("def ")) == 1, (make.__name__, check.id)
        for task in assignment.tasks: assert sum(s.startswith(task.head) for s in sources) == 1
        assert sum(assignment.data in s for s in sources) == 1


def test_peers_compare_with_what_the_right_answers_give():
    expected = tasks.LIGHT.expected()
    assert np.allclose(expected["line-fit"], [2, 0.5], atol=0.1) and set(expected) == {c.id for c in tasks.LIGHT.checks}


def test_a_class_is_the_same_every_time_and_begins_like_a_larger_one():
    small, large = tasks.answers(tasks.LIGHT, 8), tasks.answers(tasks.LIGHT, 48)
    assert large == tasks.answers(tasks.LIGHT, 48) and small == {s: large[s] for s in list(large)[:8]}


def test_a_class_holds_every_kind_of_answer_and_no_two_submissions_are_equal():
    class_ = tasks.answers(tasks.HEAVY, 48)
    assert {state for own in class_.values() for state, _ in own.values()} == {"right", "alternative", "wrong", "raises", "unsolved"}
    texts = [json.dumps(own) for own in class_.values() if any(source for _, source in own.values())]
    assert len(set(texts)) == len(texts)


def test_unsolved_stays_as_handed_out_and_a_missing_cell_is_named():
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f"{t.head}\n    ...") for t in tasks.LIGHT.tasks])
    own = {t.name: ("right", t.source(t.right)) for t in tasks.LIGHT.tasks} | {"ks": ("unsolved", None)}
    filled = tasks.fill(nb, own, tasks.LIGHT)
    assert filled.cells[0].source.endswith("...") and filled.cells[1].source == own["line"][1]
    del nb.cells[2]
    with pytest.raises(ValueError, match="0 cells begin with 'def percentile"): tasks.fill(nb, own, tasks.LIGHT)


def test_the_start_is_told_from_the_slope():
    cost = lambda n: {"n": n, "cpu": 7 + 0.5 * n, "wall": 2.0 * n}
    took = run.split(cost(8), cost(48))
    assert took["cpu_per_submission"] == 0.5 and took["cpu_start_up"] == 7 and took["wall_per_submission"] == 2
    assert took["cpu_per_submission_with_start"] == round((7 + 24) / 48, 4)


def test_ratios_divide_theirs_by_ours():
    took = lambda x: {"cpu_per_submission": x, "cpu_per_submission_with_start": 2 * x}
    assert run.ratios({"nbgrader": took(3.0), "ours": took(0.5)}) == {"nbgrader": {"cpu_per_submission": 6, "cpu_per_submission_with_start": 6}}
    assert run.ratios({"nbgrader": took(3.0)}) == {}
    assert set(run.ratios({"otter": took(3.0), "ours": took(-0.1)})["otter"].values()) == {None}  # noise, not a ratio


def test_disagreements_name_the_answer_and_every_grader():
    class_ = tasks.answers(tasks.LIGHT, 8)
    fair = tasks.deserved(tasks.LIGHT, class_)
    assert fair["s001"] == {"ks": 3, "line": 1, "percentile": 1, "welch": 1}
    assert run.disagreements(tasks.LIGHT, class_, {"ours": fair}) == []
    unfair = {**fair, "s001": {**fair["s001"], "ks": 1}}
    row, = run.disagreements(tasks.LIGHT, class_, {"nbgrader": unfair, "ours": fair})
    assert row == {"student": "s001", "task": "ks", "answer": "right", "deserved": 3, "nbgrader": 1, "ours": 3}


def test_all_environments_hold_the_versions_that_the_project_pins():
    read = lambda path: dict(line.strip().split("==") for line in Path(path).read_text().splitlines() if "==" in line)
    here = Path(__file__).parent
    ours, common = read(here / "../../constraints.txt"), read(here / "requirements/common.txt")
    assert {"numpy", "scipy", "torch", "tensorflow", "ipykernel"} <= set(common)
    assert {k: v for k, v in common.items() if ours.get(k, v) != v} == {}


class Fake(tools.Tool):
    "A grader that gives what is deserved, or fails."
    def __init__(self, name, command): self.name, self.package, self.title, self._command = name, "pytest", name, command
    bin = Path(sys.executable).parent
    def folder(self, a, n): return self.root / self.name / f"{a.name}-{n}"
    def make(self, a): pass
    def hand_in(self, a, n):
        self.n = n
        self.folder(a, n).mkdir(parents=True)
        return self.folder(a, n)
    def command(self, a, folder, jobs): return [sys.executable, "-c", self._command.format(n=self.n)]
    def cwd(self, folder): return folder
    def done(self, folder): return 0
    def scores(self, a, folder): return tasks.deserved(a, tasks.answers(a, self.n))


@pytest.fixture
def graders(monkeypatch, tmp_path):
    monkeypatch.setattr(Fake, "root", tmp_path, raising=False)
    monkeypatch.setattr(tools, "FRAMEWORKS", ("numpy",))
    burn = "import time\nwhile time.process_time() < {cost} * {{n}}: pass"
    return Fake("nbgrader", burn.format(cost=0.1)), Fake("otter", "raise SystemExit('out of paper')"), Fake("ours", burn.format(cost=0.03))


def test_a_grader_that_fails_is_named_and_the_others_go_on(graders, capsys):
    failed = {}
    lab = run.compare(tasks.LIGHT, graders, 16, 1, failed)
    assert list(failed) == ["otter light"] and "out of paper" in failed["otter light"] and "otter is left out of light" in capsys.readouterr().err
    assert set(lab["tools"]) == {"nbgrader", "ours"} and lab["disagreements"] == [] and lab["answers"] == 64
    assert 0.07 < lab["tools"]["nbgrader"]["cpu_per_submission"] < 0.14 and 2 < lab["cpu_to_ours"]["nbgrader"]["cpu_per_submission"] < 5


def test_a_broken_environment_is_named_and_the_others_go_on(graders, monkeypatch, tmp_path, capsys):
    broken, absent = Fake("nbgrader", ""), Fake("otter", "")
    broken.package, absent.bin = "no-such-package", tmp_path / "nowhere"
    monkeypatch.setattr(run, "TOOLS", (broken, absent, graders[2]))
    failed = {}
    assert [t.name for t in run.usable(failed)] == ["ours"] and set(failed) == {"nbgrader", "otter"}
    said = capsys.readouterr().err
    assert "nbgrader: its environment is not whole" in said and f"otter: there is no environment {tmp_path}" in said


def test_the_table_says_what_was_measured_and_what_was_not(graders):
    failed = {}
    lab = run.compare(tasks.LIGHT, graders, 16, 1, failed)
    large = {"light": {**lab["tools"]["ours"]["full"], "mb_at": {"20": 100, "200": 120}, "target_wall": 40, "wall": 41.0}}
    results = {"date": "2026-01-31T00:00:00", "commit": "abc", "machine": run.machine(), "n": 16, "jobs": 1, "labs": {"light": lab},
               "large_class": large, "failed": failed, "versions": {t.name: {"package": "pytest", "pytest": "1.0"} for t in graders}}
    text = run.table(results)
    assert "| light | nbgrader autograde |" in text and "Not measured: otter light" in text and "| 41.0 | 40 (missed) |" in text and "64 answers, 0 of them" in text
    assert "was left out: not asked for" in run.table({**results, "large_class": {"left_out": "not asked for"}})


def test_the_large_class_is_held_against_the_clock(graders, monkeypatch):
    own, failed = graders[2], {}
    own.takes_jobs = False
    assert run.large_class(own, failed) == {"left_out": "this version has no --jobs"}
    own.takes_jobs, own.done = True, lambda folder: own.n
    monkeypatch.setattr(run, "LARGE", 20)
    monkeypatch.setattr(run, "MARKS", (10, 20))
    large = run.large_class(own, failed)
    assert set(large) == {"light", "heavy"} and not failed and large["light"]["jobs"] == 2
    assert set(large["light"]["mb_at"]) == {"10", "20"} and "(held)" in "\n".join(run._large(large))
