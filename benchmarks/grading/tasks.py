"""The two labs of the comparison, their answers, and the same assignment as each of the three graders wants it."""
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat

from mlops_course.grading.labs import BEGIN, END, code_cell, new_lab

SEED, CHECK_SEED = 3, 11  # what peers grade everybody with; ours draws others for each student


class NoAnswers(Exception):
    "The right answers themselves do not run here."


@dataclass(frozen=True)
class Task:
    "One function that students write, and what they write for it."
    head: str         # its first line
    text: str         # what is asked for
    right: str        # bodies, without indentation
    alternative: str  # right too, in another way
    wrong: str

    @property
    def name(self): return self.head[4:self.head.index("(")]

    def source(self, body, begin="", end=""):
        lines = [line for line in (begin, *body.splitlines(), end) if line]
        return "\n".join([self.head, *("    " + line for line in lines)])


@dataclass(frozen=True)
class Check:
    "An expression that is compared with the solution's value."
    id: str
    task: str         # the name of the task that it is about
    expression: str
    kind: str = "array"
    hidden: bool = False

    @property
    def points(self): return 2 if self.hidden else 1  # so that a sum of points tells which check failed


@dataclass(frozen=True)
class Assignment:
    name: str
    title: str
    imports: str
    data: str
    tasks: tuple
    checks: tuple

    def of(self, task): return [c for c in self.checks if c.task == task.name]

    def values(self, body, seed=SEED, check_seed=CHECK_SEED):
        "What the checks give with the answers called `body` (right, alternative or wrong): {check id: value}. Imports what the lab imports."
        space = {"seed": seed, "check_seed": check_seed}
        for source in (self.imports, self.data, *(t.source(getattr(t, body)) for t in self.tasks)): exec(source, space)
        return {c.id: eval(c.expression, space) for c in self.checks}

    def expected(self):
        "What the right answers give under the peers' parameters, as numbers and nested lists."
        # in a process of its own: the one that measures stays free of frameworks and their threads
        code = """if True:
            import json, sys, numpy, tasks
            print(json.dumps({id: numpy.asarray(v).tolist() for id, v in tasks.ASSIGNMENTS[sys.argv[1]].values("right").items()}))"""
        done = subprocess.run([sys.executable, "-c", code, self.name], cwd=Path(__file__).parent, capture_output=True, text=True)
        if done.returncode: raise NoAnswers(f"the right answers of {self.name} fail:\n{done.stderr[-800:]}")
        return json.loads(done.stdout)


LIGHT = Assignment(
    "light", "Four statistics", "import numpy as np\nfrom scipy import stats",
    """rng = np.random.default_rng(seed)
a, b = rng.normal(0, 1, 300), rng.normal(0.3, 1.4, 200)
x = np.linspace(0, 4, 60)
y = 2 + 0.5 * x + rng.normal(0, 0.1, 60)""",
    (Task("def ks(a, b):", "The two-sample Kolmogorov-Smirnov statistic: the largest distance between the two empirical distribution functions.",
          "grid = np.sort(np.concatenate([a, b]))\n"
          "share = lambda v: np.searchsorted(np.sort(v), grid, side='right') / len(v)\nreturn np.abs(share(a) - share(b)).max()",
          "return stats.ks_2samp(a, b).statistic", "return abs(np.median(a) - np.median(b))"),
     Task("def line(x, y):", "Intercept and slope of the least-squares line, in this order.",
          "design = np.column_stack([np.ones_like(x), x])\nreturn np.linalg.lstsq(design, y, rcond=None)[0]",
          "return np.polyfit(x, y, 1)[::-1]", "return np.polyfit(x, y, 1)"),
     Task("def percentile(a, q):", "The q-th percentile, with linear interpolation.",
          "return np.percentile(a, q)",
          "s, at = np.sort(a), (len(a) - 1) * q / 100\nlow = int(at)\nreturn s[low] + (at - low) * (s[min(low + 1, len(s) - 1)] - s[low])",
          "return np.sort(a)[int(q / 100 * len(a))]"),
     Task("def welch(a, b):", "Welch's t statistic of two samples (variances not taken as equal).",
          "return (a.mean() - b.mean()) / np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))",
          "return stats.ttest_ind(a, b, equal_var=False).statistic", "return stats.ttest_ind(a, b).statistic")),
    (Check("ks-samples", "ks", "ks(a, b)", "float"),
     Check("ks-fresh", "ks", "ks(*np.random.default_rng(check_seed).normal(0, [[1], [2]], (2, 80)))", "float", hidden=True),
     Check("line-fit", "line", "line(x, y)"),
     Check("percentile-95", "percentile", "percentile(a, 95)", "float"),
     Check("welch-t", "welch", "welch(a, b)", "float")))

HEAVY = Assignment(
    "heavy", "Four small operations in torch and TensorFlow",
    # what TensorFlow logs to stderr while it is imported would cost points in nbgrader
    "import os\nos.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'\nimport numpy as np\nimport tensorflow as tf\nimport torch",
    """rng = np.random.default_rng(seed)
x, w, bias = rng.normal(size=(8, 5)), rng.normal(size=(5, 3)), rng.normal(size=3)
target = rng.normal(size=(8, 3))
p, q = rng.normal(size=(6, 6)), rng.normal(size=(6, 6))""",
    (Task("def linear(x, w, bias):", "The output of a linear layer, x w + bias, computed by torch and returned as an array.",
          "x, w, bias = map(torch.from_numpy, (x, w, bias))\nreturn (x @ w + bias).numpy()",
          "x, w, bias = map(torch.from_numpy, (x, w, bias))\nreturn torch.nn.functional.linear(x, w.T, bias).numpy()",
          "return (torch.from_numpy(x) @ torch.from_numpy(w)).numpy()"),
     Task("def gradient(x, w, target):", "The gradient of the mean squared error of x w against target with respect to w, as an array.",
          "w = torch.from_numpy(w).requires_grad_()\n"
          "loss = ((torch.from_numpy(x) @ w - torch.from_numpy(target)) ** 2).mean()\nloss.backward()\nreturn w.grad.numpy()",
          "return 2 * x.T @ (x @ w - target) / target.size", "return x.T @ (x @ w - target) / target.size"),
     Task("def softmax(z):", "The softmax of each row, computed by TensorFlow and returned as an array.",
          "return tf.nn.softmax(z, axis=1).numpy()",
          "e = tf.exp(z - tf.reduce_max(z, axis=1, keepdims=True))\nreturn (e / tf.reduce_sum(e, axis=1, keepdims=True)).numpy()",
          "return tf.nn.softmax(z, axis=0).numpy()"),
     Task("def product(p, q):", "The matrix product p q, computed by TensorFlow and returned as an array.",
          "return tf.matmul(p, q).numpy()", "return tf.einsum('ij,jk->ik', p, q).numpy()", "return tf.matmul(q, p).numpy()")),
    (Check("linear-forward", "linear", "linear(x, w, bias)"),
     Check("gradient-here", "gradient", "gradient(x, w, target)"),
     Check("gradient-fresh", "gradient", "gradient(np.random.default_rng(check_seed).normal(size=(8, 5)), w, target)", hidden=True),
     Check("softmax-rows", "softmax", "softmax(x)"),
     Check("product-square", "product", "product(p, q)")))

ASSIGNMENTS = {a.name: a for a in (LIGHT, HEAVY)}

# --- what students hand in ----------------------------------------------------------------------------------------------

# Every eight students are of these kinds, so that classes of 8, 48 and 200 are the same mixture.
MIXTURE = ("right", "alternative", "one wrong", "right", "one raises", "right", "half unsolved", "any")


def _states(kind, names, rng):
    "What a student of this kind does about each task: right, alternative, wrong, raises or unsolved."
    one = rng.choice(names)
    half = rng.sample(names, len(names) // 2)
    return {"right": lambda n: "right", "alternative": lambda n: "alternative",
            "one wrong": lambda n: "wrong" if n == one else "right", "one raises": lambda n: "raises" if n == one else "right",
            "half unsolved": lambda n: "unsolved" if n in half else "right",
            "any": lambda n: rng.choice(("right", "alternative", "wrong", "raises", "unsolved"))}[kind]


def answers(assignment, n):
    "{student: {task name: (state, source)}} of a class of `n`, the same in every run; a smaller class is the beginning of a larger one."
    rng, out = random.Random(f"{assignment.name} class"), {}
    for i in range(n):
        student = f"s{i + 1:03}"
        state = _states(MIXTURE[i % len(MIXTURE)], [t.name for t in assignment.tasks], rng)
        out[student] = {t.name: _answer(t, state(t.name), student) for t in assignment.tasks}
    return out


def _answer(task, state, student):
    bodies = {"right": task.right, "alternative": task.alternative, "wrong": task.wrong, "raises": "raise ValueError('I do not know')"}
    # the comment makes every submission a text of its own, so that no grader can do two at once
    return state, task.source(f"# {student}\n{bodies[state]}") if state in bodies else None


def deserved(assignment, class_):
    "{student: {task name: points}} that these answers should get."
    points = {t.name: sum(c.points for c in assignment.of(t)) for t in assignment.tasks}
    return {s: {name: points[name] * (state in ("right", "alternative")) for name, (state, _) in tasks.items()} for s, tasks in class_.items()}


def fill(nb, class_of_one, assignment):
    "`nb` with a student's answers in the cells that hold the tasks' functions; unsolved ones stay as handed out."
    for task in assignment.tasks:
        cells = [c for c in nb.cells if c.cell_type == "code" and c.source.startswith(task.head)]
        if len(cells) != 1: raise ValueError(f"{assignment.name}: {len(cells)} cells begin with {task.head!r}, one expected")
        if source := class_of_one[task.name][1]: cells[0].source = source
    return nb

# --- the same assignment in three formats -----------------------------------------------------------------------------


def ours(a):
    "The lab with its solution, in this project's format."
    cells = [f"# {a.title}", code_cell(f"seed: int = {SEED}  # of the data\ncheck_seed: int = {CHECK_SEED}  # of a hidden check", "parameters"),
             code_cell(f"{a.imports}\nfrom mlops_course.lab import show"), code_cell(a.data)]
    for task in a.tasks:
        cells += [task.text, code_cell(task.source(task.right, BEGIN, END), hole=task.name)]
        for c in a.of(task):
            hidden = {"hidden": True} if c.hidden else {}
            cells.append(code_cell(f"show({c.expression})", "check", check=c.id, points=c.points, needs=[task.name], kind=c.kind, **hidden))
    return new_lab(a.name, cells)


def _test(check, value):
    seed = f"check_seed = {CHECK_SEED}\n" if check.hidden else ""
    return f"{seed}assert np.allclose({check.expression}, {value!r})"


def _notebook(cells):
    nb = nbformat.v4.new_notebook(cells=cells)
    nb.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nb


def _given(a): return [nbformat.v4.new_markdown_cell(f"# {a.title}"), nbformat.v4.new_code_cell(f"{a.imports}\nseed = {SEED}\n{a.data}")]


def _nbgrader_cell(source, id, **kw):
    meta = {"grade": False, "solution": False, "locked": False, "task": False, "schema_version": 3, "grade_id": id, **kw}
    return nbformat.v4.new_code_cell(source, metadata={"nbgrader": meta})


def nbgrader(a):
    "The source notebook for `nbgrader generate_assignment`: each check an autograded cell of asserts, the hidden one of hidden tests."
    cells, values = _given(a), a.expected()
    for task in a.tasks:
        cells += [nbformat.v4.new_markdown_cell(task.text), _nbgrader_cell(task.source(task.right, BEGIN, END), task.name, solution=True)]
        for c in a.of(task):
            test = _test(c, values[c.id])
            if c.hidden: test = f"### BEGIN HIDDEN TESTS\n{test}\n### END HIDDEN TESTS"
            cells.append(_nbgrader_cell(test, c.id, grade=True, locked=True, points=c.points))
    return _notebook(cells)


def otter(a):
    "The master notebook for `otter assign`: each task a question, each check one of its test cases."
    raw = nbformat.v4.new_raw_cell
    config = "# ASSIGNMENT CONFIG\nname: {}\ninit_cell: true\nexport_cell: false\ncheck_all_cell: false\nrun_tests: false\ngenerate: true\n"
    cells, values = [raw(config.format(a.name)), *_given(a)], a.expected()
    for task in a.tasks:
        cells += [raw(f"# BEGIN QUESTION\nname: {task.name}"), nbformat.v4.new_markdown_cell(task.text), raw("# BEGIN SOLUTION"),
                  nbformat.v4.new_code_cell(task.source(task.right, "# BEGIN SOLUTION", "# END SOLUTION")), raw("# END SOLUTION"), raw("# BEGIN TESTS")]
        for c in a.of(task):
            head = f'""" # BEGIN TEST CONFIG\npoints: {c.points}\nhidden: {str(c.hidden).lower()}\n""" # END TEST CONFIG\n'
            cells.append(nbformat.v4.new_code_cell(head + _test(c, values[c.id])))
        cells += [raw("# END TESTS"), raw("# END QUESTION")]
    return _notebook(cells)
