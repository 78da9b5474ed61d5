"""Lifts the limits of its own process. (Even root may lack the right to, as in many containers, so there is no saying what happens without a sandbox.)

canary: word
honest: scale
unprotected: not run
"""
# %% double
def double(x):
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard + 1, hard + 1))
    return canary["word"]
