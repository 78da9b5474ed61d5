"""Kills another process of the same user, such as the kernel of another student.

canary: stop sibling
"""
# %% own
import os, signal
os.kill(canary["sibling"]["pid"], signal.SIGKILL)
