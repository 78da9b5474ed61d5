"""Fills memory through file systems that lie in memory: shared memory and the work folder.

canary: word
honest: scale
limit: used more than | wrote more than
"""
# %% double
def double(x):
    import os
    name = f"/dev/shm/{canary['name']}"
    try:
        with open(name, "wb") as f:
            for _ in range(canary["megabytes"] // 10): f.write(bytes(10_000_000))
    finally:
        if os.path.exists(name): os.remove(name)
    return canary["word"]
