"""Reads what others have put into shared memory.

canary: read shm
honest: scale
"""
# %% double
def double(x): return open(canary["shm"]).read()
