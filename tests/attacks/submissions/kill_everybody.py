"""Kills every process that it may kill, by -1 and by name of every process in /proc.

canary: run
alone: yes
"""
# %% own
import os, signal
for pid in sorted((int(p) for p in os.listdir("/proc") if p.isdigit()), reverse=True):
    try: pid == os.getpid() or os.kill(pid, signal.SIGKILL)
    except OSError: pass
os.kill(-1, signal.SIGKILL)
