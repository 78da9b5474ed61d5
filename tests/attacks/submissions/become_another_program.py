"""Replaces the interpreter by another program, which inherits its descriptors.

canary: run
honest: double
limit: ended its own kernel | stopped after
unprotected: stands
"""
# %% scale
def scale(v):
    import os
    for fd in map(int, os.listdir("/proc/self/fd")):
        try: os.set_inheritable(fd, True)
        except OSError: pass
    os.execv("/bin/sh", ["sh", "-c", "exit 0"])
