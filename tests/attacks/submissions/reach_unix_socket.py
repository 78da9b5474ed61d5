"""Connects to a socket in the file system, such as that of docker or of a desktop.

canary: reach unix
"""
# %% own
import socket
s = socket.socket(socket.AF_UNIX)
s.settimeout(1)
s.connect(canary["unix"])
s.sendall(canary["name"].encode())
s.recv(10)
