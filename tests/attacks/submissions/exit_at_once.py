"""Ends its process in the middle of a check, by os._exit.

canary: run
honest: double
limit: ended its own kernel
unprotected: stands
"""
# %% scale
def scale(v):
    import os
    os._exit(0)
