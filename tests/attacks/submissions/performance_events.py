"""Opens performance counters, a door with a long history of holes.

canary: word
honest: scale
"""
# %% double
def double(x):
    import ctypes, os, struct
    attr = struct.pack("IIQ", 1, 112, 0) + bytes(96)  # a software clock of this process
    fd = ctypes.CDLL(None, use_errno=True).syscall(298, ctypes.create_string_buffer(attr), 0, -1, -1, 0)
    if fd < 0: return None
    os.close(fd)
    return canary["word"]
