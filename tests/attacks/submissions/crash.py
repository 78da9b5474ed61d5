"""Crashes the interpreter by reading address 0.

canary: run
honest: double
limit: ended its own kernel
unprotected: stands
"""
# %% scale
def scale(v):
    import ctypes
    ctypes.string_at(0)
