"""Leaves files beside the devices, where a small file system of the sandbox may be writable and shared.

canary: next
unprotected: not run
"""
# %% own
import os
for folder in ("/dev", "/dev/pts", "/run", "/var", "/etc", "/", "/home", "/proc/self/cwd/..", "/usr", "/lib", "/opt", "/root", "/mnt", "/sys", "/srv", "/run/lock", "/dev/mqueue"):
    try: open(os.path.join(folder, canary["poison"]), "w").close()
    except OSError: pass
