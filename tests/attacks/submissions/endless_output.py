"""Prints without end, faster than anybody reads.

canary: run
honest: double
limit: put out more than
unprotected: stands
"""
# %% scale
def scale(v):
    while True: print("and again " * 100)
