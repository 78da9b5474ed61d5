"""Changes a setting of the machine's kernel in /proc/sys; here the name of the host.

canary: word
honest: scale
"""
# %% double
def double(x):
    with open("/proc/sys/kernel/hostname", "w") as f: f.write("mine")
    return canary["word"] if open("/proc/sys/kernel/hostname").read().strip() == "mine" else None
