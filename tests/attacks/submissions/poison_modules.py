"""Changes modules, builtins, the environment and the random numbers of its process, for the next student in the same process.

canary: next
unprotected: stands
"""
# %% own
import builtins, os, random, sys, types
import numpy as np
setattr(builtins, canary["poison"], 1)
os.environ[canary["poison"]] = "1"
os.environ["NUMPY_EXPERIMENTAL_DTYPE_API"] = canary["poison"]
sys.modules[canary["poison"]] = types.ModuleType("x")
sys.path.insert(0, "/" + canary["poison"])
setattr(np, canary["poison"], 1)
random.seed(1), np.random.seed(1)
import mlops_course.lab as lab
show = lab.show
get_ipython().events.register("post_execute", lambda: setattr(lab, "show", lambda v: show(canary["poison"])))
