"""Asks for input that nobody will give.

canary: run
honest: double
unprotected: stands
"""
# %% scale
def scale(v):
    import os, sys
    try: input("answer? ")
    except Exception: pass
    try: sys.__stdin__.read()
    except Exception: pass
    return os.read(0, 10)
