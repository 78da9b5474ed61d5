"""Leaves a process behind: forked twice, in a session of its own, with an empty environment and all descriptors closed.

canary: left
"""
# %% own
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 4096)
        for n in range(3): os.open("/dev/null", os.O_RDWR)
        os.execve("/bin/sleep", ["left-" + canary["name"], "3600"], {})
    os._exit(0)
