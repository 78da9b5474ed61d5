"""Connects to a service on the loopback network, such as a database or another student's server.

canary: reach tcp
"""
# %% own
import socket
s = socket.create_connection(("127.0.0.1", canary["tcp"]), 1)
s.sendall(canary["name"].encode())
s.recv(10)
