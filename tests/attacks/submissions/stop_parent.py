"""Stops the process that started it.

canary: run
alone: yes
"""
# %% own
import os, signal
os.kill(os.getppid() or 1, signal.SIGSTOP)
