"""The three graders: how each gets a class, which command grades it, and where its scores are."""
import hashlib
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import nbformat

import tasks

HERE = Path(__file__).resolve().parent
COURSE = HERE / "course"  # ours: solutions/labs/*.ipynb and what is derived from them
WORK = HERE / "work"      # classes and results; made anew in every run
FRAMEWORKS = ("numpy", "scipy", "torch", "tensorflow", "ipykernel")


class ToolFailed(Exception):
    "A grader that cannot be used here, or that failed; says which and why."


def _write(nb, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)


class Tool:
    name = package = ""

    @property
    def bin(self): return HERE.parent / f".venv-{self.name}" / "bin"

    def environment(self):
        "Environment variables: this environment's programs, and none of the user's own settings of Jupyter."
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "PYTHON", "VIRTUAL_ENV", "MAKE"))}
        own = {k: str(WORK / "home" / k.lower()) for k in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
        return {**kept, **own, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}

    def call(self, *words, cwd):
        "Run a command of this environment that is not measured; returns what it printed. Raises `ToolFailed`."
        try: done = subprocess.run(list(map(str, words)), cwd=cwd, env=self.environment(), capture_output=True, text=True, timeout=600)
        except (OSError, subprocess.TimeoutExpired) as e: raise ToolFailed(f"{self.name}: {words[0]} could not be run ({e})") from None
        if done.returncode: raise ToolFailed(f"{self.name}: {' '.join(map(str, words[:3]))} … gave {done.returncode}:\n{(done.stdout + done.stderr)[-800:]}")
        return done.stdout

    def versions(self):
        "Versions of the grader and of what both labs import. Raises `ToolFailed` where the environment is not whole."
        code = "import json, sys; from importlib.metadata import version; print(json.dumps({p: version(p) for p in sys.argv[1:]}))"
        if not (self.bin / "python").exists(): raise ToolFailed(f"{self.name}: there is no environment {self.bin.parent}; run  make bench-grading")
        try: return json.loads(self.call(self.bin / "python", "-c", code, self.package, *FRAMEWORKS, cwd=HERE))
        except ToolFailed as e:
            raise ToolFailed(f"{self.name}: its environment is not whole. Remove {self.bin.parent} and run  make bench-grading  again. It said:\n{e}") from None

    def folder(self, assignment, n): return WORK / self.name / f"{assignment.name}-{n}"

    def hand_in(self, assignment, n):
        "Write a class of `n`, as if just collected, and nothing of an earlier run; returns its folder."
        folder = self.folder(assignment, n)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        class_ = tasks.answers(assignment, n)
        for student, own in class_.items():
            _write(tasks.fill(nbformat.read(self.handed_out(assignment), as_version=4), own, assignment), self.place(folder, assignment, student))
        self.settle(assignment, folder)
        return folder

    def settle(self, assignment, folder): "Whatever else has to be in a class's folder."


class Nbgrader(Tool):
    name = package = "nbgrader"
    title = "nbgrader autograde"

    def _course(self, a): return WORK / self.name / f"{a.name}-course"

    def make(self, a):
        course = self._course(a)
        _write(tasks.nbgrader(a), course / "source" / a.name / f"{a.name}.ipynb")
        (course / "nbgrader_config.py").write_text("c = get_config()\n")
        self.call(self.bin / "nbgrader", "generate_assignment", a.name, "--create", cwd=course)

    def handed_out(self, a): return self._course(a) / "release" / a.name / f"{a.name}.ipynb"
    def place(self, folder, a, student): return folder / "submitted" / student / a.name / f"{a.name}.ipynb"

    def settle(self, a, folder):
        for name in ("gradebook.db", "nbgrader_config.py"): shutil.copy(self._course(a) / name, folder)
        for name in ("source", "release"): shutil.copytree(self._course(a) / name, folder / name)

    def command(self, a, folder, jobs): return [self.bin / "nbgrader", "autograde", a.name]
    def cwd(self, folder): return folder
    def done(self, folder): return len(list((folder / "autograded").glob("*"))) if (folder / "autograded").exists() else 0

    _SCORES = """if True:
        import json, sys
        from nbgrader.api import Gradebook
        with Gradebook("sqlite:///gradebook.db") as book:
            print(json.dumps({s.student.id: {g.name: g.auto_score for n in s.notebooks for g in n.grades} for s in book.assignment_submissions(sys.argv[1])}))"""

    def scores(self, a, folder):
        found = json.loads(self.call(self.bin / "python", "-c", self._SCORES, a.name, cwd=folder))
        return {s: {t.name: sum(points.get(c.id) or 0 for c in a.of(t)) for t in a.tasks} for s, points in found.items()}


class Otter(Tool):
    name, package = "otter", "otter-grader"
    title = "otter run"

    def _dist(self, a): return WORK / self.name / f"{a.name}-dist"

    def make(self, a):
        master = WORK / self.name / f"{a.name}-master" / f"{a.name}.ipynb"
        _write(tasks.otter(a), master)
        self.call(self.bin / "otter", "assign", master, self._dist(a), cwd=master.parent)
        made, = (self._dist(a) / "autograder").glob("*.zip")
        made.rename(self._dist(a) / "autograder.zip")  # its own name holds the time

    def handed_out(self, a): return self._dist(a) / "student" / f"{a.name}.ipynb"
    def place(self, folder, a, student): return folder / "submitted" / f"{student}.ipynb"

    def command(self, a, folder, jobs):
        "One `otter run` for each submission: it takes no more than one."
        otter, autograder = shlex.quote(str(self.bin / "otter")), shlex.quote(str(self._dist(a) / "autograder.zip"))
        return ["sh", "-c", f'for f in submitted/*.ipynb; do {otter} run "$f" -a {autograder} -o "graded/$(basename "$f" .ipynb)" --no-logo || exit 1; done']

    def settle(self, a, folder):
        for path in (folder / "submitted").iterdir(): (folder / "graded" / path.stem).mkdir(parents=True)

    def cwd(self, folder): return folder
    def done(self, folder): return len(list(folder.glob("graded/*/results.json")))

    def scores(self, a, folder):
        found = {p.parent.name: json.loads(p.read_text())["tests"] for p in sorted(folder.glob("graded/*/results.json"))}
        return {s: {t["name"]: t.get("score", 0) for t in tests if t["name"] in {x.name for x in a.tasks}} for s, tests in found.items()}


class Ours(Tool):
    name, package = "ours", "mlops_course"
    title = "mlops-course grade"
    takes_jobs = True

    def make(self, a):
        _write(tasks.ours(a), COURSE / "solutions" / "labs" / f"{a.name}.ipynb")
        key = COURSE / ".course-key"  # a fixed one: every run draws the same parameters for the same student
        key.write_text(hashlib.sha256(b"bench-grading").hexdigest() + "\n")
        key.chmod(0o600)
        self.call(self.bin / "mlops-course", "derive", a.name, cwd=COURSE)

    def handed_out(self, a): return COURSE / "labs" / f"{a.name}.ipynb"
    def place(self, folder, a, student): return folder / "submitted" / f"{student}.ipynb"

    def command(self, a, folder, jobs):
        with_jobs = ["--jobs", jobs] if self.takes_jobs else []
        return [self.bin / "mlops-course", "grade", folder / "submitted", "--lab", a.name, "--out", folder / "graded", *with_jobs]

    def cwd(self, folder): return COURSE

    def done(self, folder):
        book = folder / "graded" / "gradebook.db"
        if not book.exists(): return 0
        query = "select count(*) from submissions where status in ('graded', 'refused')"
        try:
            with closing(sqlite3.connect(f"file:{book}?mode=ro", uri=True)) as db: return db.execute(query).fetchone()[0]
        except sqlite3.Error: return 0  # it is being made

    def scores(self, a, folder):
        grades = json.loads(self.call(self.bin / "mlops-course", "export", folder / "graded", "--format", "json", cwd=COURSE))["grades"]
        earned = {g["student"]: {v["check"]: v["earned"] for v in g["verdicts"]} for g in grades}
        return {s: {t.name: sum(checks.get(c.id, 0) for c in a.of(t)) for t in a.tasks} for s, checks in earned.items()}


TOOLS = (Nbgrader(), Otter(), Ours())
