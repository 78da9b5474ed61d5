"""Hands in a named pipe without a writer, on which a judge that opens it would wait for ever.

canary: run
unprotected: stands
"""
# %% report
def report(x):
    import os
    if os.path.lexists("answer.txt"): os.remove("answer.txt")
    os.mkfifo("answer.txt")
    return 3 * x
