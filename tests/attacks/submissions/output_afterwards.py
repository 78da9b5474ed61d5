"""Goes on printing from a thread while other cells run, so that they are blamed for it.

canary: run
unprotected: stands
"""
# %% report
import threading
def flood():
    while True: print("x" * 1000)
def report(x):
    threading.Thread(target=flood, daemon=True).start()
    return 3 * x
