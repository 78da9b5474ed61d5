"""Is a source that no parser likes: parentheses nested a hundred thousand deep.

canary: run
honest: double
unprotected: stands
"""
# %% scale
scale = eval("(" * 100_000 + "1" + ")" * 100_000)
