"""Connects to a socket without a file: Unix's abstract names, which no file system hides.

canary: reach abstract
"""
# %% own
import socket
s = socket.socket(socket.AF_UNIX)
s.settimeout(1)
s.connect(canary["abstract"])
s.sendall(canary["name"].encode())
s.recv(10)
