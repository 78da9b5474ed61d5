"""Opens a socket of the family by which a virtual machine talks to its host; no namespace holds these. Connects to nobody.

canary: word
honest: scale
"""
# %% double
def double(x):
    import socket
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    return canary["word"]
