"""Takes as much memory as it gets.

canary: word
honest: scale
limit: used more than
"""
# %% double
def double(x):
    held = []
    for _ in range(canary["megabytes"] // 50): held.append(bytearray(b"x" * 50_000_000))
    return canary["word"]
