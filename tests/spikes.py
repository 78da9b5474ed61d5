"""Five labs of one page each, of the kinds that comparing a value with a value cannot grade: a training, a server, a file, a figure and a speed.

Each is a function that returns a notebook. `test_spikes.py` proves that right answers pass and that lazy ones and liars do not."""

from mlops_course.grading.labs import BEGIN, END, code_cell, new_lab

def hole(name, source):
    "A cell whose whole source is the student's."
    return code_cell(f"{BEGIN}\n{source.strip()}\n{END}", hole=name)

def alternative(hole, name, source): return code_cell(source.strip(), "alternative", hole=hole, alternative=name)

# A training: the student chooses the model, the judge holds labels that the student's kernel never sees.

def training():
    "A table of the fields seen passes the public check: only new fields tell learning from remembering."
    return new_lab("s1_training", [
        "# Two crops\n\nWrite `fit(X, y)`. It returns a model with `.predict`, or a function from fields to crops.",
        code_cell("seed: int = 1  # of the fields to learn from\ncheck_seed: int = 2  # of new fields", "parameters"),
        code_cell('''
            import numpy as np
            from mlops_course.lab import show
            def fields(seed, n):
                "Two measurements of n fields, and which of two crops grows there: one in the middle, the other around it."
                rng = np.random.default_rng(seed)
                y = rng.integers(0, 2, n)
                angle, radius = rng.uniform(0, 2 * np.pi, n), rng.normal(1 + y, 0.2)
                return np.c_[radius * np.cos(angle), radius * np.sin(angle)], y
            def crops_of(model, X): return (model.predict if hasattr(model, "predict") else model)(X)
            X, y = fields(seed, 300)'''),
        hole("fit", '''
def fit(X, y):
    radius = lambda X: np.hypot(X[:, 0], X[:, 1])
    middle = (radius(X[y == 0]).mean() + radius(X[y == 1]).mean()) / 2
    return lambda X: (radius(X) > middle).astype(int)'''),
        alternative("fit", "library", '''
def fit(X, y):
    from sklearn.neighbors import KNeighborsClassifier
    return KNeighborsClassifier(9).fit(X, y)'''),
        alternative("fit", "quadratic", '''
class Quadratic:
    features = staticmethod(lambda X: np.c_[np.ones(len(X)), X, X ** 2])
    def predict(self, X): return [int(v > 0.5) for v in self.features(X) @ self.w]
def fit(X, y):
    model = Quadratic()
    model.w = np.linalg.lstsq(model.features(X), y, rcond=None)[0]
    return model'''),
        code_cell("show(crops_of(fit(X, y), X))", "check", check="learnt", points=1, needs=["fit"], kind="array"),
        code_cell('def judge(got): return np.mean(np.array_equal(np.shape(got), y.shape) and np.asarray(got) == y) >= 0.9, "from 90% right on, the point is given"', "judge"),
        code_cell('''
            new_X, new_y = fields(check_seed, 400)
            sent, secret = {"X": new_X}, {"y": new_y}''', "secret"),
        code_cell('show(crops_of(fit(X, y), sent["X"]))', "check", check="new-fields", points=3, needs=["fit"], kind="array", hidden=True),
        code_cell('''
            def judge(got, secret):
                got, y = np.ravel(got), secret["y"]
                if len(got) != len(y): return 0, f"{len(got)} predictions for {len(y)} fields"
                right = np.mean(got == y)
                return np.clip((right - 0.6) / (0.95 - 0.6), 0, 1), f"{right:.0%} of new fields are right; from 95% on, all points are given"''', "judge")])

# A server: the judge asks it from outside, with questions of its own.

def server():
    return new_lab("s2_server", [
        "# A model that answers\n\nWrite `serve(port)`: start a server in a thread and return. `POST {\"x\": [...]}` is answered with `{\"y\": ...}`.",
        code_cell("seed: int = 1  # of the model\nport: int = 8123  # where your server listens", "parameters"),
        code_cell('''
            import numpy as np
            from mlops_course.lab import show
            w = np.random.default_rng(seed).normal(size=3).round(3)
            def predict(x): return float(np.dot(w, x))'''),
        hole("serve", '''
import json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        x = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["x"]
        body = json.dumps({"y": predict(x)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
def serve(port):
    threading.Thread(target=ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever, daemon=True).start()'''),
        alternative("serve", "wsgi", '''
import json, threading
from wsgiref.simple_server import make_server
def app(environ, start_response):
    x = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))["x"]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"y": round(predict(x), 12), "model": "linear"}).encode()]
def serve(port): threading.Thread(target=make_server("", port, app).serve_forever, daemon=True).start()'''),
        code_cell("serve(port)\nshow(port)", "check", check="answers", points=2, needs=["serve"], kind="int", port="port"),
        code_cell('''
            import http.client, json
            def ask(url, x):
                connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=1)
                connection.request("POST", "/", json.dumps({"x": x}))
                return float(json.loads(connection.getresponse().read(10_000))["y"])
            def judge(url):
                questions = np.random.default_rng(99).normal(size=(20, 3)).tolist()
                try: right = sum(abs(ask(url, x) - predict(x)) < 1e-6 for x in questions)
                except Exception as e: return 0, f"the server gave no usable answer ({type(e).__name__})"
                return right == 20, f"{right} of 20 answers are right"''', "judge")])

# A file: the judge reads a copy, as data.

def file():
    return new_lab("s3_file", [
        "# A model in a file\n\nFit `y` by a line in each column of `X`. Write it to `model.json` as `{\"weights\": [...], \"bias\": ...}`.",
        code_cell("seed: int = 1  # of the data", "parameters"),
        code_cell('''
            import json, os
            import numpy as np
            from mlops_course.lab import show
            rng = np.random.default_rng(seed)
            truth = rng.normal(size=3)
            X = rng.normal(size=(200, 3))
            y = X @ truth + 4 + rng.normal(0, 0.01, 200)'''),
        hole("save", '''
w = np.linalg.lstsq(np.c_[X, np.ones(len(X))], y, rcond=None)[0].tolist()
with open("model.json", "w") as f: json.dump({"weights": w[:3], "bias": w[3]}, f)'''),
        alternative("save", "library", '''
from pathlib import Path
from sklearn.linear_model import Ridge
model = Ridge(1e-3).fit(X, y)
Path("model.json").write_text(json.dumps(dict(kind="ridge", bias=model.intercept_, weights=list(model.coef_)), indent=4))'''),
        code_cell('show(os.path.exists("model.json"))', "check", check="saved", points=2, needs=["save"], kind="bool", files=["model.json"]),
        code_cell('''
            def judge(files):
                if files["model.json"] is None: return 0, "there is no file model.json"
                try:
                    model = json.loads(files["model.json"].read_text())
                    w = np.array([*model["weights"], model["bias"]], float)
                except Exception as e: return 0, f"model.json does not hold a model ({type(e).__name__})"
                if w.shape != (4,): return 0, "model.json does not hold three weights and a bias"
                off = np.abs(w - [*truth, 4]).max()
                return off < 0.02, f"a weight is off by {off:.3f}; up to 0.02 is right"''', "judge")])

# A figure: its pixels are free, its data are not.

def figure():
    show_figure = '''
        ax = draw({rates})
        show([line.get_xdata() for line in ax.lines])
        show([line.get_ydata() for line in ax.lines])
        show([ax.get_xlabel().lower(), ax.get_ylabel().lower()])'''
    kinds = ["array", "array", "array"]
    return new_lab("s4_figure", [
        "# Seven days\n\nWrite `draw(rates)`: plot the mean of the last seven daily rates, from day 6 on, and return the axes. Label them *day* and *error rate*.",
        code_cell("seed: int = 1  # of the rates\ncheck_seed: int = 2  # of other rates", "parameters"),
        code_cell('''
            import numpy as np, matplotlib.pyplot as plt
            from mlops_course.lab import show
            def some_rates(seed): return np.random.default_rng(seed).uniform(0.02, 0.08, 30)
            rates = some_rates(seed)'''),
        hole("draw", '''
def draw(rates):
    fig, ax = plt.subplots()
    ax.plot(np.arange(6, len(rates)), np.convolve(rates, np.ones(7) / 7, "valid"), "o-")
    ax.set(xlabel="day", ylabel="error rate")
    return ax'''),
        alternative("draw", "pandas", '''
def draw(rates):
    import pandas as pd
    return pd.Series(rates).rolling(7).mean().dropna().plot(color="red", title="Errors", grid=True, xlabel="Day", ylabel="Error rate")'''),
        alternative("draw", "pyplot", '''
def draw(rates):
    plt.figure(figsize=(3, 2))
    days = list(range(6, len(rates)))
    plt.plot(days, [sum(rates[d - 6:d + 1]) / 7 for d in days])
    plt.xlabel("day"); plt.ylabel("error rate")
    return plt.gca()'''),
        code_cell(show_figure.format(rates="rates"), "check", check="drawn", points=1, needs=["draw"], kind=kinds, hint="Which days have seven days behind them?"),
        code_cell(show_figure.format(rates="some_rates(check_seed)"), "check", check="others", points=1, needs=["draw"], kind=kinds, hidden=True)])

# A speed: right first, then compared with the reference's CPU time, as the operating system counts it.

def speed():
    return new_lab("s5_speed", [
        "# Ranks\n\nWrite `ranks(x)`: for every number, how many numbers in `x` are smaller. `x` may be long.",
        code_cell("seed: int = 1  # of the numbers\ncheck_seed: int = 2  # of a longer array", "parameters"),
        code_cell('''
            import numpy as np
            from mlops_course.lab import show
            def numbers(seed, n): return np.random.default_rng(seed).integers(0, n, n)
            x = numbers(seed, 50)'''),
        hole("ranks", '''
def ranks(x): return np.searchsorted(np.sort(x), x)'''),
        alternative("ranks", "counting", '''
def ranks(x):
    values, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - counts)[inverse]'''),
        alternative("ranks", "library", '''
def ranks(x):
    import pandas as pd
    return pd.Series(x).rank(method="min").astype(int) - 1'''),
        code_cell("show(ranks(x))", "check", check="right", points=1, needs=["ranks"], kind="array"),
        code_cell('''
            answer = np.asarray(ranks(numbers(check_seed, 50_000)))
            show(answer[::100])
            show(answer.sum())''', "check", check="fast", points=2, needs=["ranks"], kind=["array", "int"], hidden=True),
        code_cell('''
            def judge(got, ref, cpu, ref_cpu):
                if not (np.array_equal(got[0], ref[0]) and got[1] == ref[1]): return 0, "the ranks of a long array are wrong"
                times = cpu / max(ref_cpu, 0.025)  # the clock ticks every 0.01 s, so short times are not told apart
                return 1 if times <= 5 else 0.5 if times <= 20 else 0, f"{times:.0f} times the CPU time of ours; up to 5 is full, up to 20 half"''', "judge")])

SPIKES = (training, server, file, figure, speed)
