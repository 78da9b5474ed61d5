"""Adds a line to the source of a package that every kernel imports, where it runs in the next student's process.

canary: next
"""
# %% own
import importlib.util, os
for name in ("IPython", "traitlets", "numpy"):
    folder = os.path.dirname(importlib.util.find_spec(name).origin)
    try: open(os.path.join(folder, canary["poison"] + ".py"), "w").close()
    except OSError: pass
    path = os.path.join(folder, "__init__.py")
    if name == "traitlets":
        try:
            with open(path, "a") as f: f.write(f"\nimport builtins; setattr(builtins, {canary['poison']!r}, 1)\n")
        except OSError: pass
