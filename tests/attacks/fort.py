"""The lab that the attacks are handed in for: three answers, four checks, light enough to be graded in an instant."""
from mlops_course.grading.labs import BEGIN, END, code_cell, new_lab

NAME = "00_fort"
POINTS = {"double": 1, "scale": 6, "report": 8}  # by hole; any sum of them tells which answers were counted
LIMITS = {"cell_seconds": 2, "total_seconds": 30, "output_bytes": 1_000_000, "memory_bytes": 200_000_000, "processes": 32, "file_bytes": 50_000_000}
SOLUTION = {
    "double": "def double(x): return 2 * x",
    "scale": "def scale(v): return (v - v.mean()) / v.std()",
    "report": "def report(x):\n    with open('answer.txt', 'w') as f: f.write(str(3 * x))\n    return 3 * x",
}


def fort(secret):
    "The lab as a notebook; `secret` is a word in its solution by which a theft is known."
    hole = lambda name: code_cell(f"{BEGIN}\n{SOLUTION[name]}\n{END}", hole=name)
    return new_lab(NAME, [
        "# A small fort",
        code_cell("seed: int = 3  # of the numbers\ncheck_seed: int = 4  # of numbers that nobody has seen", "parameters"),
        code_cell("import numpy as np\nfrom mlops_course.lab import show\ndef numbers(seed): return np.random.default_rng(seed).normal(size=8)"),
        hole("double"),
        code_cell("show(double(seed))", "check", check="double", points=1, needs=["double"]),
        hole("scale"),
        code_cell("show(scale(numbers(seed)))", "check", check="scale", points=2, needs=["scale"], kind="array"),
        code_cell("show(scale(numbers(check_seed)))", "check", check="unseen", points=4, needs=["scale"], kind="array", hidden=True),
        hole("report"),
        code_cell("show(report(seed))", "check", check="report", points=8, needs=["report"], files=["answer.txt"]),
        code_cell(f"""
            def judge(got, ref, files):  # {secret}
                path = files["answer.txt"]
                if path is None: return 0, "there is no file answer.txt"
                return (1, "") if float(path.read_text()) == ref == got else (0, "answer.txt holds something else")""", "judge"),
    ], limits=LIMITS)
