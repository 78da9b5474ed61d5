"""Uses the kernel's keyrings, which outlive a process and are shared by those with the same user id.

canary: word
honest: scale
"""
# %% double
def double(x):
    import ctypes
    key = ctypes.CDLL(None, use_errno=True).syscall(248, b"user", canary["name"].encode(), b"x", 1, ctypes.c_long(-2))  # into the process's own keyring: gone with it
    return canary["word"] if key > 0 else None
