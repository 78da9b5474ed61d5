"""Replaces the course's key by one of its own, and knows the hidden parameters from now on.

canary: write key
"""
# %% own
with open(canary["files"]["key"], "w") as f: f.write("00" * 32)
