"""Loops for ever in a thread that does not let the others run, after its cell has ended.

canary: run
honest: double
limit: stopped after | not reached | put out more than
unprotected: stands
"""
# %% scale
def scale(v):
    import ctypes, sys, threading
    sys.setswitchinterval(1e6)
    libc = ctypes.PyDLL(None)  # holds the interpreter's lock while it sleeps
    libc.sleep(100_000)
