"""papermill, nbval and the release work on the same files, as instructors and CI already use them."""
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat

from mlops_course.grading.labs import find_lab
from mlops_course.grading.plugin import shown

ROOT = Path(__file__).parent.parent
LAB = "09_drift"


def run(*words, cwd=ROOT):
    return subprocess.run([sys.executable, "-m", *map(str, words)], cwd=cwd, capture_output=True, text=True)


def checks(path):
    return {c.metadata.mlops_course.check: shown(c.outputs) for c in nbformat.read(path, 4).cells if "check" in c.metadata.get("mlops_course", {})}


def test_papermill_runs_a_lab_under_other_parameters(tmp_path):
    done = run("papermill", f"solutions/labs/{LAB}.ipynb", tmp_path / "out.ipynb", "-p", "seed", "7")
    assert done.returncode == 0, done.stderr
    theirs, stored = checks(tmp_path / "out.ipynb"), checks(ROOT / f"solutions/labs/{LAB}.ipynb")
    assert theirs.keys() == stored.keys() and all(theirs.values())
    public = [c.id for c in find_lab(ROOT, LAB).checks if not c.hidden]  # hidden checks may depend on check_seed alone
    assert public and not [id for id in public if theirs[id] == stored[id]], "what is asked for depends on the seed"


def test_nbval_compares_a_solution_and_sums_up_points():
    done = run("pytest", "--nbval", f"solutions/labs/{LAB}.ipynb", "-q", "-p", "no:cacheprovider")
    points = f"{find_lab(ROOT, LAB).points:g}"
    assert done.returncode == 0 and f"{points} of {points} points" in done.stdout, done.stdout


def test_nbval_fails_on_the_unsolved_lab():
    done = run("pytest", "--nbval", f"labs/{LAB}.ipynb", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 1 and "0 of " in done.stdout, done.stdout


def test_the_papermill_engine_grades_one_notebook(tmp_path):
    done = run("papermill", f"labs/{LAB}.ipynb", tmp_path / "out.ipynb", "--engine", "mlops_course", "-p", "seed", "7")
    assert done.returncode == 0, done.stderr
    out = nbformat.read(tmp_path / "out.ipynb", 4)
    assert out.metadata.mlops_course.earned == 0 and {v["status"] for v in out.metadata.mlops_course.verdicts} == {"not started"}
    assert "0 of" in out.cells[0].source


def test_release_holds_no_solution(tmp_path):
    done = subprocess.run([sys.executable, "-c", "from mlops_course.cli import main; main()", "release", str(tmp_path / "course.zip")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lab = find_lab(ROOT, LAB)
    with zipfile.ZipFile(tmp_path / "course.zip") as z:
        names = z.namelist()
        text = z.read(f"labs/{LAB}.ipynb").decode()
    assert f"labs/{LAB}.ipynb" in names and "requirements.txt" in names and "mlops_course/lab.py" in names
    assert not [n for n in names if "solution" in n or "course-key" in n or n.startswith("tests")]
    nb = json.loads(text)
    source = "\n".join("".join(c["source"]) for c in nb["cells"])
    assert not [c.id for c in lab.checks if c.hidden and (f'"{c.id}"' in source or c.judge and c.judge[:50] in source)]
    for hole in lab.holes.values():
        mine = {line.strip() for line in hole.solution.splitlines() if len(line.strip()) > 25} - {line.strip() for line in hole.stub.splitlines()}
        assert not [line for line in mine if line in source], hole.name


def test_a_student_checks_a_released_lab_without_any_solution(tmp_path):
    command = [sys.executable, "-c", "from mlops_course.cli import main; main()"]
    subprocess.run([*command, "release", str(tmp_path / "course")], cwd=ROOT, check=True, capture_output=True)
    assert not (tmp_path / "course/solutions").exists()
    lab = find_lab(ROOT, LAB)
    path = tmp_path / f"course/labs/{LAB}.ipynb"
    nb = nbformat.read(path, 4)
    first = list(lab.holes)[0]
    next(c for c in nb.cells if c.metadata.get("mlops_course", {}).get("hole") == first).source = lab.holes[first].solution
    nbformat.write(nb, path)
    done = subprocess.run([*command, "check", f"labs/{LAB}.ipynb", "--json"], cwd=tmp_path / "course", capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    status = {c["check"]: c["status"] for c in json.loads(done.stdout)["checks"]}
    own = {c.id for c in lab.checks if not c.hidden and not c.judge and lab.own_hole(c) == first}
    assert own and {id for id, s in status.items() if s == "right"} == own
    assert {s for id, s in status.items() if id not in own} == {"not started"}
