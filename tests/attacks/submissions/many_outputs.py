"""Puts out a hundred thousand small values.

canary: run
honest: double
limit: put out more than | stopped after | values shown
unprotected: stands
"""
# %% scale
def scale(v):
    from IPython.display import display
    from mlops_course.lab import MIME
    for _ in range(100_000): display({MIME: 1.0}, raw=True)
    return v
