"""Deletes every file that it may delete of those that matter.

canary: write solution, write gradebook, write neighbour, write shadow, write key, write kernel
"""
# %% own
import os, shutil
shutil.rmtree(os.path.dirname(canary["files"]["solution"]), ignore_errors=True)
