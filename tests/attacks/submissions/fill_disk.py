"""Fills the disk from its work folder.

canary: word
honest: scale
limit: used more than | wrote more than
"""
# %% double
def double(x):
    import os
    try:
        with open("big", "wb") as f:
            for _ in range(canary["disk_megabytes"] // 10): f.write(bytes(10_000_000))
    finally: os.remove("big")
    return canary["word"]
