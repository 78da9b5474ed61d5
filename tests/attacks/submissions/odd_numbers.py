"""Shows numbers that are none, and numbers that are too long to be read.

canary: run, points
honest: scale
unprotected: stands
"""
# %% own
from IPython.display import display
from mlops_course.lab import MIME
odd = [float("nan"), float("inf"), 10 ** 4000, -0.0, {"float": "1e999999999"}, {"float": "nan" * 1000}, {"array": {"dtype": "f", "shape": [-1, 10 ** 9], "values": []}},
       {"array": {"dtype": "f", "shape": [10 ** 12, 0], "values": []}}, {"dict": 5}, {"set": [[[]]]}, {"frame": {"columns": [], "index": [1] * 1000, "values": []}}, {}, {"a": 1, "b": 2}]
# %% double
def double(x):
    for v in odd: display({MIME: v}, raw=True)
    return 10 ** 4000
