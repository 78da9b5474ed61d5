"""Starts threads until it cannot.

canary: word
honest: scale
limit: started more than
"""
# %% double
def double(x):
    import threading
    done = threading.Event()
    try:
        for _ in range(canary["processes"]): threading.Thread(target=done.wait, daemon=True).start()
    finally: done.set()
    return canary["word"]
