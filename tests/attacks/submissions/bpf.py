"""Loads something into the kernel's own machine: here an empty table.

canary: word
honest: scale
"""
# %% double
def double(x):
    import ctypes, os, struct
    fd = ctypes.CDLL(None, use_errno=True).syscall(321, 0, ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 4, 1) + bytes(100)), 72)
    if fd < 0: return None
    os.close(fd)
    return canary["word"]
