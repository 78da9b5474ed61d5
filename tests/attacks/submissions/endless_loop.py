"""Loops for ever, swallows every exception and ignores every signal that can be ignored.

canary: run
honest: double
limit: stopped after
unprotected: stands
"""
# %% own
import signal
for n in range(1, 65):
    try: signal.signal(n, signal.SIG_IGN)
    except (OSError, ValueError): pass
# %% scale
def scale(v):
    while True:
        try:
            while True: pass
        except BaseException: pass
