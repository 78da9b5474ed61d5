"""Closes every file descriptor of its process.

canary: run
honest: double
limit: ended its own kernel | stopped after
unprotected: stands
"""
# %% scale
def scale(v):
    import os
    os.closerange(0, 4096)
    return v
