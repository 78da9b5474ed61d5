"""The lab format carries five kinds of tasks: right answers get all points, lazy ones and liars what they deserve."""

import json, re
from functools import cache

import nbformat, pytest

from mlops_course.grading.judge import JudgeKernel, judge_submission, reference
from mlops_course.grading.labs import draw_set, lab_from_notebook, public_set, student_copy, submission_from
from spikes import SPIKES, figure, file, server, speed, training

by_name = lambda values: pytest.mark.parametrize("spike", values, ids=lambda s: s.__name__)

@cache
def lab_of(spike): return lab_from_notebook(spike())

@cache
def set_of(spike, number): return draw_set(lab_of(spike), b"a key for tests", 1, number) if number else public_set(lab_of(spike))

@cache
def reference_of(spike, number): return reference(lab_of(spike), set_of(spike, number))

def copy_of(spike): return student_copy(lab_of(spike), spike(), reference_of(spike, 0).values)

def submission(spike, answer=None):
    "The student's copy with `answer` as the source of its hole; as handed out without one."
    nb = copy_of(spike)
    for cell in nb.cells:
        if answer is not None and "hole" in cell.metadata.get("mlops_course", {}): cell.source = answer.strip()
    return submission_from(json.loads(nbformat.writes(nb)))

def verdicts(spike, answer=None, number=1):
    "{check id: verdict} under parameter set `number`; 0 is the public one."
    judgement = judge_submission(lab_of(spike), submission(spike, answer), set_of(spike, number), reference_of(spike, number))
    return {v.check: v for v in judgement.verdicts}

def earned(marks): return {id: v.earned / v.points for id, v in marks.items()}

def full(spike): return {c.id: 1 for c in lab_of(spike).checks}

# Right answers

@pytest.mark.parametrize("number", [1, 2])
@by_name(SPIKES)
def test_solution(spike, number):
    hole, = lab_of(spike).holes.values()
    assert earned(verdicts(spike, hole.solution, number)) == full(spike)

ALTERNATIVES = [pytest.param(s, a.source, id=f"{s.__name__}-{a.name}") for s in SPIKES for a in lab_of(s).alternatives]

@pytest.mark.parametrize("spike, answer", ALTERNATIVES)
def test_another_right_answer(spike, answer): assert earned(verdicts(spike, answer)) == full(spike)

# Nothing done, nothing leaked

@by_name(SPIKES)
def test_unsolved(spike):
    for v in verdicts(spike).values(): assert (v.earned, v.status) == (0, "not started"), v

@by_name(SPIKES)
def test_copy_tells_nothing(spike):
    "Nothing that only the author knows stands in the student's file, neither as a cell nor as a line of one."
    lab, nb = lab_of(spike), copy_of(spike)
    hidden = {c.id for c in lab.checks if c.hidden}
    own = [c for c in lab.cells if c.role in ("judge", "secret", "alternative") or (c.role == "check" and c.name in hidden)]
    assert {c.role for c in own} >= {"alternative"} and (hidden or any(c.role == "judge" for c in own))
    text = "\n".join(c.source for c in nb.cells)
    known = {line.strip() for c in lab.cells if c.role == "given" or (c.role == "check" and c.name not in hidden) for line in c.source.splitlines()}
    lines = {line.strip() for c in own for line in c.source.splitlines()} | {line.strip() for h in lab.holes.values() for line in h.solution.splitlines()}
    for line in lines - known: assert line not in text, line
    assert not {id for id in hidden if f'"{id}"' in nbformat.writes(nb)}

# Wrong, lazy and lying ones: (lab, name, answer, what each check is worth, what the reason of the last check says)

WRONG = []
def wrong(spike, name, worth, reason, answer): WRONG.append(pytest.param(spike, answer, worth, reason, id=f"{spike.__name__}-{name}"))

wrong(training, "constant", {"learnt": 0, "new-fields": 0}, "are right", "def fit(X, y): return lambda X: np.zeros(len(X))")
wrong(training, "lookup table", {"learnt": 1, "new-fields": 0}, "are right", '''
def fit(X, y):
    seen = {tuple(x): label for x, label in zip(X, y)}
    return lambda X: [seen.get(tuple(x), 0) for x in X]''')
wrong(training, "one column", {"learnt": 0, "new-fields": (0.1, 0.9)}, "are right", "def fit(X, y): return lambda X: np.abs(X[:, 0]) > 1")

wrong(server, "no server", {"answers": 0}, "ConnectionRefusedError", "def serve(port): pass")
wrong(server, "silent", {"answers": 0}, "Timeout", '''
import socket
def serve(port):
    global listening
    listening = socket.create_server(("127.0.0.1", port))''')
SERVER = lab_of(server).holes["serve"].solution
wrong(server, "constant", {"answers": 0}, "0 of 20", SERVER.replace("predict(x)", "predict([1, 1, 1])"))

wrong(file, "no file", {"saved": 0}, "no file", "w = 0")
wrong(file, "empty", {"saved": 0}, "does not hold a model", "open('model.json', 'w').close()")
wrong(file, "endless nesting", {"saved": 0}, "RecursionError", "open('model.json', 'w').write('[' * 1_000_000)")
wrong(file, "a link", {"saved": 0}, "no file", "os.symlink('/etc/hostname', 'model.json')")
wrong(file, "not a number", {"saved": 0}, "off by nan", "json.dump({'weights': [float('nan')] * 3, 'bias': 4}, open('model.json', 'w'))")
wrong(file, "weights of another seed", {"saved": 0}, "off by", "json.dump({'weights': [0.346, 0.822, 0.33], 'bias': 4}, open('model.json', 'w'))")

FIGURE = lab_of(figure).holes["draw"].solution
wrong(figure, "raw data", {"drawn": 0, "others": 0}, "shape", "def draw(rates):\n    ax = plt.subplot(xlabel='day', ylabel='error rate')\n    ax.plot(rates)\n    return ax")
wrong(figure, "always the same data", {"drawn": 1, "others": 0}, "value 2: .* differ", FIGURE.replace("rates, np.ones", "globals()['rates'], np.ones"))
wrong(figure, "one day early", {"drawn": 0, "others": 0}, "value 1", FIGURE.replace("6, len(rates)", "5, len(rates) - 1"))
wrong(figure, "no labels", {"drawn": 0, "others": 0}, "value 3", FIGURE.replace("ax.set", "dict"))

wrong(speed, "slow", {"right": 1, "fast": 0}, "times the CPU time", "def ranks(x): return np.array([(x < v).sum() for v in x])")
wrong(speed, "slow in another process", {"right": 1, "fast": 0}, "times the CPU time", '''
import subprocess, sys
def ranks(x):
    code = "import numpy as np; x = np.load('x.npy'); np.save('ranks.npy', [(x < v).sum() for v in x])"
    np.save("x.npy", x)
    subprocess.run([sys.executable, "-c", code])
    return np.load("ranks.npy")''')
wrong(speed, "fast and wrong with ties", {"right": 0, "fast": 0}, "are wrong", "def ranks(x): return np.argsort(np.argsort(x))")
wrong(speed, "remembers the public input", {"right": 1, "fast": 0}, "are wrong", '''
known = np.array([(x < v).sum() for v in x])
def ranks(x): return known if len(x) == len(known) else np.zeros(len(x), int)''')

def fits(worth, expected): return expected[0] <= worth <= expected[1] if isinstance(expected, tuple) else worth == expected

@pytest.mark.parametrize("spike, answer, worth, reason", WRONG)
def test_wrong_answer(spike, answer, worth, reason):
    marks = verdicts(spike, answer)
    for id, expected in worth.items(): assert fits(earned(marks)[id], expected), marks[id]
    assert set(marks) == set(worth) and re.search(reason, list(marks.values())[-1].reason), marks

@by_name(SPIKES)
def test_replayed_values(spike):
    "A `show` of the student's own that hands in what the public copy expects, whatever it is given, earns nothing under other parameters."
    values = [v for shown in reference_of(spike, 0).values.values() for v in shown]
    marks = verdicts(spike, f'''
from mlops_course import lab as course
from unittest.mock import MagicMock
fit = serve = draw = ranks = MagicMock()
replayed = iter({values!r})
def show(value): course.show(course.decode(next(replayed)))''')
    assert set(earned(marks).values()) == {0} and all(v.reason for v in marks.values()), marks

def test_pickle_stays_shut(tmp_path):
    "A file that would run code if it were unpickled is read as text, by the judge and by everybody else."
    marks = verdicts(file, f'''
import pickle
class Trap:
    def __reduce__(self): return open, ({str(tmp_path / "sprung")!r}, "w")
pickle.dump(Trap(), open("model.json", "wb"))''')
    assert marks["saved"].earned == 0 and "does not hold a model" in marks["saved"].reason and not list(tmp_path.iterdir())

# What a clock says is not the same twice, so the steps between full and no points are tried on given times

def test_steps_of_speed():
    check, values = lab_of(speed).check("fast"), reference_of(speed, 1).values["fast"]
    judge, both = JudgeKernel(lab_of(speed), set_of(speed, 1)), {"list": values}
    try: scores = [judge.score(check, {"got": both, "ref": both, "cpu": cpu, "ref_cpu": 0.1}, {})[0] for cpu in (0.01, 0.5, 0.6, 2, 2.1)]
    finally: judge.stop()
    assert scores == [1, 1, 0.5, 0.5, 0]

# What once earned points, or stopped the grading.

def trick(spike, name, worth, answer): return pytest.param(spike, answer, worth, id=f"{spike.__name__}-{name}")

SLOW = "def slow(x): return np.array([(x < v).sum() for v in x])"

def unguarded():
    "The file lab with a judge that expects a well-formed file, as its author may well do."
    nb = file()
    judge = next(c for c in nb.cells if "judge" in c.metadata.get("tags", []))
    judge.source = "def judge(files): return abs(json.loads(files['model.json'].read_text())['bias'] - 4) < 0.02, 'the bias'"
    return nb

def patient():
    "The server lab with time for one cell cut to a second, so that a judge that waits is noticed soon."
    nb = server()
    nb.metadata.mlops_course.limits = {"cell_seconds": 1}
    return nb

TRICKS = [
    trick(training, "draws the truth", {"learnt": 1, "new-fields": 0},
        "def fit(X, y): return lambda new: y if len(new) == len(y) else fields(check_seed, len(new))[1]"),
    trick(speed, "works before the clock starts", {"right": 1, "fast": 0}, SLOW + """
known = {}
def ranks(x): return known[check_seed] if len(x) > 1000 else slow(x)
def early(*_):
    seed = globals().get("check_seed")
    if seed is not None and seed not in known: known[seed] = slow(numbers(seed, 50_000))
get_ipython().events.register("post_run_cell", early)"""),
    trick(speed, "works in a daemon", {"right": 1, "fast": 0}, SLOW + """
import os, subprocess, sys, time
def ranks(x):
    if len(x) < 1000: return slow(x)
    np.save("x.npy", x)
    code = "import os\\nif os.fork(): os._exit(0)\\nimport numpy as np; x = np.load('x.npy'); np.save('y.npy', [(x < v).sum() for v in x]); os.rename('y.npy', 'ranks.npy')"
    subprocess.run([sys.executable, "-c", code])
    while not os.path.exists("ranks.npy"): time.sleep(0.05)
    return np.load("ranks.npy")"""),
    trick(unguarded, "malformed", {"saved": 0}, "open('model.json', 'w').write('{')"),
    trick(training, "says to skip it", {"learnt": 0, "new-fields": 0}, "# NBVAL_SKIP\nraise ValueError"),
    trick(patient, "drips", {"answers": 0}, """
import socket, threading, time
def drip(listening):
    connection, _ = listening.accept()
    connection.sendall(b"HTTP/1.0 200 OK\\r\\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.3)
def serve(port): threading.Thread(target=drip, args=[socket.create_server(("127.0.0.1", port))], daemon=True).start()"""),
]

@pytest.mark.parametrize("spike, answer, worth", TRICKS)
def test_trick(spike, answer, worth): assert earned(verdicts(spike, answer)) == worth
