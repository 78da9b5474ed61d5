"""Raises an error whose name, message and traceback carry markup, escape sequences and a message without end.

canary: run
honest: scale
unprotected: stands
"""
# %% double
def double(x):
    raise type("<script>alert(1)</script>", (Exception,), {"__str__": lambda self: "\x1b[2J<img src=x onerror=alert(1)>" + "e" * 100_000})()
