"""Shows and prints text with escape sequences, markup and characters that change the direction of reading.

canary: run
honest: scale
unprotected: stands
"""
# %% double
def double(x):
    print("\x1b]0;owned\x07\x1b[2J<script>alert(1)</script>")
    return "\x1b[31m<script>alert(1)</script><img src=x onerror=alert(1)>\u202e\u200b\x00\x07"
