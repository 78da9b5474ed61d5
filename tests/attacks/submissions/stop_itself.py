"""Stops its own process: whoever waits for it waits for ever.

canary: run
honest: double
limit: stopped after | this is nothing
unprotected: stands
"""
# %% scale
def scale(v):
    import os, signal
    os.kill(os.getpid(), signal.SIGSTOP)
