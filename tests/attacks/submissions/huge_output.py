"""Puts out one value of 30 MB, in the MIME type that is read.

canary: run
honest: double
limit: put out more than
unprotected: stands
"""
# %% scale
def scale(v):
    from IPython.display import display
    from mlops_course.lab import MIME
    display({MIME: {"list": ["x" * 30_000_000]}}, raw=True)
    return v
