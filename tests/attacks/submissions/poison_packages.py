"""Puts a .pth file and a usercustomize into the environment's packages: Python runs them whenever anybody starts it.

canary: next
"""
# %% own
import site, sys, sysconfig
line = f"import builtins; setattr(builtins, {canary['poison']!r}, 1)\n"
for folder in {sysconfig.get_path("purelib"), site.getusersitepackages(), *(p for p in sys.path if p.endswith("-packages"))}:
    import os
    for name in (canary["poison"] + ".pth", "usercustomize.py", "sitecustomize.py"):
        try:
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, name), "w") as f: f.write(line)
        except OSError: pass
