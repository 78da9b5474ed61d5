"""The command line as an instructor uses it: from the zip of a platform to the file that the platform takes back."""
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import nbformat
import pytest

from mlops_course.cli import main
from mlops_course.grading.gradebook import course_key
from mlops_course.grading.labs import small_written_lab
from mlops_course.grading.roster import pseudonyms

LAB = "00_double"
ROSTER = "student id,name,e-mail,Canvas ID\nada,Ada Doe,ada@example.org,11\nbo,Bo Roe,bo@example.org,12\nchi,Chi Poe,chi@example.org,13\ndee,Dee Foe,dee@example.org,14\n"
TEMPLATE = "Student,ID,SIS Login ID,Section,00_double (7)\n    Points Possible,,,,6\nDoe Ada,11,ada,A,\nRoe Bo,12,bo,A,\nPoe Chi,13,chi,A,\nFoe Dee,14,dee,A,\n"
POLICY = '[late]\nzone = "UTC"\npercent_per_day = 50\n\n[late.labs.00_double]\ndue = 2026-11-20T12:00:00\n'
SNOOPING = "import os\n\ndef double(x):\n    return x + x if os.environ else 0"


class Course:
    """A folder with a course, in which commands run as they would in a terminal."""
    def __init__(self, root):
        self.root = root

    def run(self, *words, code=0):
        words = [sys.executable, "-c", "from mlops_course.cli import main; main()", *map(str, words)]
        done = subprocess.run(words, cwd=self.root, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"})
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        self.complaints = done.stderr
        return done.stdout

    def handed_in(self, code, words):
        nb = nbformat.read(self.root / f"labs/{LAB}.ipynb", 4)
        for cell in nb.cells:
            own = cell.metadata.get("mlops_course", {})
            if "hole" in own: cell.source = code
            if "answer" in own: cell.source = words
        return nbformat.writes(nb)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course whose class has handed in by Canvas, collected and graded."""
    it = Course(tmp_path_factory.mktemp("course"))
    (it.root / "solutions/labs").mkdir(parents=True)
    nbformat.write(small_written_lab(), it.root / f"solutions/labs/{LAB}.ipynb")
    it.run("derive")
    for name, text in (("roster.csv", ROSTER), ("canvas.csv", TEMPLATE)): (it.root / name).write_text(text)
    files = {"doeada_11_501": it.handed_in("def double(x): return x + x", "For numbers, yes. For a list as well."),
             "roebo_12_502": it.handed_in("def double(x): return 3 * x", "No."), "poechi_13_503": it.handed_in(SNOOPING, "Yes, it is."), "foedee_14_504": "see attachment"}
    with zipfile.ZipFile(it.root / "submissions.zip", "w") as z:
        for who, text in files.items(): z.writestr(zipfile.ZipInfo(f"{who}_{LAB}.ipynb", (2026, 11, 20, 10, 0, 0)), text)
    it.collected = it.run("collect", "submissions.zip", "class", "--roster", "roster.csv", "--lab", LAB)
    it.graded = json.loads(it.run("grade", "class", "--json", "--jobs", 1, code=3))
    return it


def grades_of(course):
    return {g["student"]: g for g in json.loads(course.run("export", "class-graded", "--format", "json"))["grades"]}


def test_collect_puts_files_where_grade_looks(course):
    assert "4 notebooks from canvas" in course.collected
    assert sorted(p.parent.name for p in (course.root / "class").rglob("*.ipynb")) == ["ada", "bo", "chi", "dee"]
    assert (course.root / "class-handed-in.csv").read_text().count("2026-11-20") == 4


def test_grade_says_what_it_did(course):
    assert course.graded["graded"] == 4 and list(course.graded["refused"]) == ["dee"] and course.graded["no_hints"] == []
    grades = grades_of(course)
    assert {s: g["earned"] for s, g in grades.items() if g["status"] == "graded"} == {"ada": 3, "bo": 0, "chi": 3}
    assert {g["protection"] for g in grades.values() if g["status"] == "graded"} == {"sandbox"}


def test_hints_are_for_the_instructor_alone(course):
    (found,) = course.graded["hints"]
    assert found["lab"] == LAB and found["hints"] >= 1
    report = course.root / "class-graded/report"
    hints = json.loads((report / f"hints.{LAB}.json").read_text())
    assert hints["students"] == 3 and list(hints["suspicions"]) == ["chi"]
    assert "os.environ" in (report / f"hints.{LAB}.html").read_text()
    assert f'href="hints.{LAB}.html"' in (report / "index.html").read_text()
    pages = list((report / "feedback").iterdir())
    assert len(pages) == 4 and not any("hints" in p.read_text() or "environ" in p.read_text() for p in pages)


def test_a_second_run_repeats_nothing_and_says_the_hints_again(course):
    page = course.root / f"class-graded/report/hints.{LAB}.html"
    before = page.stat().st_mtime_ns
    said = course.run("grade", "class", code=3)
    assert "0 graded, 4 unchanged, 1 refused" in said and f"{course.graded['hints'][0]['hints']} hints: " in said and str(page) in said
    assert "refused  dee" in course.complaints and page.stat().st_mtime_ns == before


def test_a_failing_hint_costs_no_grade(course, tmp_path):
    shutil.copytree(course.root / "class", tmp_path / "class")
    broken = "import mlops_course.grading.hints as h\ndef class_hints(*a): raise RecursionError('too deep')\nh.class_hints = class_hints\nfrom mlops_course.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", broken, "grade", tmp_path / "class", "--course", course.root, "--jobs", "1"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3 and "4 graded" in done.stdout and "no new hints on 00_double" in done.stderr and "too deep" in done.stderr
    assert (tmp_path / "class-graded/report/index.html").exists() and not list((tmp_path / "class-graded/report").glob("hints*"))


def test_the_hints_command(course):
    said = course.run("hints", "class", "--lab", LAB, "--out", "look.html")
    assert "3 submissions" in said and "chi: Cell" in said and "wrote look.html" in said and (course.root / "look.html").exists()


def test_estimate(course):
    said = json.loads(course.run("grade", "class", "--estimate", "--json"))
    assert said["submissions"] == 0 and said["told_from"] == 3


def test_marks_go_all_the_way_to_canvas(course):
    course.run("export", "class-graded", "--format", "canvas", "--template", "canvas.csv", code=2)
    assert "nothing of these labs is marked yet" in course.complaints

    course.run("mark", "class-graded", "--csv", "marks.csv", "--blind")
    sheet = (course.root / "marks.csv").read_text(encoding="utf-8-sig")
    words = set(re.findall(r"\w+", sheet.lower()))  # whole words, as a pseudonym may well be sadad
    assert (course.root / "marks.html").exists() and not words & {"ada", "bo", "chi", "dee", "doe", "roe", "poe", "foe", "11", "12", "13", "14"}
    rows = list(csv.DictReader(io.StringIO(sheet, newline="")))
    assert len(rows) == 6
    alias = pseudonyms(["ada", "bo", "chi"], course_key(course.root))
    good = {(alias["ada"], "says yes for numbers"), (alias["ada"], "names another type"), (alias["chi"], "says yes for numbers")}
    for row in rows: row["mark"] = row["points"] if (row["student"], row["criterion"]) in good else "0"
    write_sheet(course.root / "marked.csv", rows)
    assert "6 new marks; 0 of 4 submissions are not marked yet" in course.run("mark", "class-graded", "--read", "marked.csv")
    course.run("mark", "class-graded", "--csv", "marks.csv", code=2)
    assert "marks in it" in course.complaints

    points = canvas_points(course)
    assert {k: points[k] for k in ("11", "12", "13", "14")} == {"11": "6", "12": "0", "13": "4", "14": ""}
    assert "left out  dee: was refused" in course.complaints
    table = list(csv.DictReader(io.StringIO(course.run("export", "class-graded"), newline="")))
    assert {row["student"]: row["total"] for row in table} == {"ada": "6.0", "bo": "0.0", "chi": "4.0", "dee": ""}


def test_lateness_reaches_canvas_too(course):
    assert grades_of(course)["ada"]["mark"]["total"] == 6
    (course.root / "grading.toml").write_text(POLICY)
    times = course.root / "class-handed-in.csv"
    kept = times.read_text()
    try:
        times.write_text("\n".join(line.replace("2026-11-20", "2026-11-21") if line.startswith("ada,") else line for line in kept.splitlines()) + "\n")
        assert canvas_points(course)["11"] == "3"
        assert "Report:" in course.run("report", "class-graded", "--title", "Week 1") and "Week 1" in (course.root / "class-graded/report/index.html").read_text()
    finally:
        (course.root / "grading.toml").unlink()
        times.write_text(kept)


def test_without_a_sandbox_the_report_says_so(course, tmp_path):
    (tmp_path / "class").mkdir()
    shutil.copy(course.root / f"class/ada/{LAB}.ipynb", tmp_path / "class/ada.ipynb")
    course.run("grade", tmp_path / "class", "--no-sandbox", "--jobs", 1)
    assert "Graded without a sandbox" in (tmp_path / "class-graded/report/index.html").read_text()
    (row,) = csv.DictReader(io.StringIO(course.run("export", tmp_path / "class-graded"), newline=""))
    assert row["protection"] == "none" and row["earned"] == "3.0"
    assert "without a sandbox" not in (course.root / "class-graded/report/index.html").read_text()


def write_sheet(path, rows):
    with open(path, "w", newline="", encoding="utf8") as f:
        writer = csv.DictWriter(f, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def canvas_points(course):
    text = course.run("export", "class-graded", "--format", "canvas", "--template", "canvas.csv", "--roster", "roster.csv", code=3)
    return {row["ID"]: row["00_double (7)"] for row in csv.DictReader(io.StringIO(text, newline=""))}


@pytest.mark.parametrize("words, said", [
    (["export", "class-graded", "--format", "xml"], "there is no format 'xml'; there are: csv, json, junit, canvas, moodle, github"),
    (["export", "class-graded", "--feedback", "f.zip"], "--feedback goes with --format moodle"),
    (["export", "nowhere"], "there is no gradebook"),
    (["collect", "nowhere.zip", "out"], "nowhere.zip"),
    (["collect", "submissions.zip", "out", "--from", "blackboard"], "there is no platform 'blackboard'"),
    (["collect", "submissions.zip", "out", "--roster", "canvas.csv"], "has no column"),
    (["mark", "class-graded"], "say one of two"),
    (["hints", "class", "--lab", "99_none"], "99_none"),
    (["grade", "nowhere"], "there is no folder nowhere"),
])
def test_bad_input_is_one_message_and_code_2(course, words, said, monkeypatch, capsys):
    monkeypatch.chdir(course.root)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["mlops-course", *words])
    with pytest.raises(SystemExit) as stop: main()
    out, complaint = capsys.readouterr()
    assert stop.value.code == 2 and not out and said in " ".join(complaint.replace("│", " ").split())
    assert not (course.root / "out").exists()


def test_help_groups_the_commands(course):
    text = course.run("--help")
    at = [text.index(word) for word in ("For students", " check ", "For instructors", " collect ", " grade ", " mark ", " export ", "For authors", " derive ", " verify ")]
    assert at == sorted(at)


def test_help_loads_nothing_heavy(course):
    code = "import sys\nfrom mlops_course.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, cwd=course.root)
    assert not {"numpy", "pandas", "nbformat", "jinja2", "papermill", "IPython", "sqlite3"} & set(done.stderr.split())
