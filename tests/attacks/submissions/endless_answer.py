"""Hands in a sparse file of 40 GB, which costs nothing to write and everything to read.

canary: run
unprotected: stands
"""
# %% report
def report(x):
    with open("answer.txt", "w") as f:
        try: f.truncate(40_000_000_000)
        except OSError: pass
    return 3 * x
