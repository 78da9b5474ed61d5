"""Writes without end to the process's own standard output and error, past Python's.

canary: run
honest: double
limit: put out more than | stopped after
unprotected: stands
"""
# %% scale
def scale(v):
    import os
    while True:
        for fd in (1, 2): os.write(fd, b"x" * 65536)
