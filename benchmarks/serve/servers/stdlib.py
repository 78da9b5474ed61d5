"""The standard library's server of chapter 04, with the same log behind it."""
import sys
import threading

from mlops_course.predlog import hooks
from mlops_course.server import App, ModelServer

from ours import log, mlp

with ModelServer(App(mlp, **hooks(log(), mlp.name)), port=int(sys.argv[1])): threading.Event().wait()
