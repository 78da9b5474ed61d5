"""Starts processes until it cannot.

canary: word
honest: scale
limit: started more than
"""
# %% double
def double(x):
    import os, time
    children = []
    try:
        for _ in range(canary["processes"]):
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
            children.append(child)
    finally:
        for child in children: os.kill(child, 9), os.waitpid(child, 0)
    return canary["word"]
