"""Takes memory in many processes, each of which holds little.

canary: word
honest: scale
limit: used more than
"""
# %% double
def double(x):
    import os, time
    children, pipes = [], []
    for _ in range(canary["megabytes"] // 100):
        r, w = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                held = b"x" * 30_000_000
                os.write(w, b"1")
                time.sleep(10)
            finally: os._exit(0)
        os.close(w)
        children.append(child), pipes.append(r)
    held = sum(len(os.read(r, 1)) for r in pipes)  # all at the same time
    for child in children: os.kill(child, 9), os.waitpid(child, 0)
    return canary["word"] if held == len(children) else held
