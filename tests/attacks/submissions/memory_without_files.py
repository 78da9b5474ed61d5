"""Fills memory through files that have no name (memfd), which no quota of a file system counts.

canary: word
honest: scale
limit: used more than | PermissionError
"""
# %% double
def double(x):
    import os
    fds = []
    for i in range(canary["megabytes"] // 50):
        fds.append(os.memfd_create("x"))
        for _ in range(5): os.write(fds[-1], bytes(10_000_000))
    return canary["word"]
