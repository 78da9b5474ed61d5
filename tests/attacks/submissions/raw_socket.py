"""Opens sockets that see and forge the packets of everybody.

canary: word
honest: scale
"""
# %% double
def double(x):
    import socket
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3).close()
    return canary["word"]
