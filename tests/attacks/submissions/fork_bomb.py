"""Starts processes that start processes, and waits for none of them; bounded here, for the sake of those who run this suite.

canary: word
honest: scale
limit: started more than | used more than | stopped after | a number is wanted
"""
# %% double
def double(x):
    import math, os, time
    r, w = os.pipe()
    for _ in range(math.ceil(math.log2(canary["processes"]))):
        try: os.fork()
        except OSError: pass
    os.write(w, b"1") if os.getpid() != me else None
    if os.getpid() != me:
        time.sleep(1)
        os._exit(0)
    time.sleep(0.5)
    os.close(w)
    return canary["word"] if len(os.read(r, 4096)) >= canary["processes"] - 1 else None
# %% own
import os
me = os.getpid()
