"""Writes a password of its own into a file that belongs to the grader's user.

canary: write shadow
"""
# %% own
with open(canary["files"]["shadow"], "a") as f: f.write("me::0:0:::::\n")
