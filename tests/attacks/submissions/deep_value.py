"""Shows a value that is nested so deeply that whoever reads it runs out of stack.

canary: run
honest: double
unprotected: stands
"""
# %% scale
def scale(v):
    from IPython.display import display
    from mlops_course.lab import MIME
    for depth in (50, 900, 5000):
        value = 1.0
        for _ in range(depth): value = {"list": [value]}
        try: display({MIME: value}, raw=True)
        except RecursionError: pass
    return v
