"""Becomes root, and gives up nothing.

canary: word
honest: scale
"""
# %% double
def double(x):
    import os
    for call in (os.setuid, os.setgid):
        try: call(0)
        except OSError: pass
    try: os.setresuid(0, 0, 0)
    except OSError: pass
    mapped = open("/proc/self/uid_map").read().split()
    return canary["word"] if os.geteuid() == 0 or mapped[0] == "0" and mapped[1] == "0" and mapped[2] == "1" else None
