"""Puts forged outputs into the check's cell: our own MIME type with a verdict in it, one value many times, and a type that is almost ours.

canary: points
honest: double
unprotected: stands
"""
# %% scale
def scale(v):
    from IPython.display import display
    from mlops_course.lab import MIME
    for data in ({MIME: {"verdict": "right", "score": 1}}, {MIME: True}, {MIME + "; score=1": 1}, {MIME.upper(): 1}, {MIME: {"array": {"dtype": "O", "shape": [8], "values": [None] * 8}}}):
        display(data, raw=True)
    return v
