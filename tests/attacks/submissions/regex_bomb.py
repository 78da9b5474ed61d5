"""Uses a regular expression that takes longer than the world has time, inside C code that no signal interrupts at once.

canary: run
honest: double
limit: stopped after
unprotected: stands
"""
# %% scale
def scale(v):
    import re
    return re.match(r"(a+)+$", "a" * 60 + "b")
