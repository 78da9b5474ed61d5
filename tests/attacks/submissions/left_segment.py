"""Leaves a System V shared memory segment, which belongs to nobody's folder and nobody's process.

canary: left
"""
# %% own
import ctypes, zlib
ctypes.CDLL(None).shmget(zlib.crc32(canary["name"].encode()) >> 1, 4096, 0o1666)
