"""Ours as `from_environment` sets it up: validation, limits, metrics, and every prediction in a PredictionLog before it is answered. Run by uvicorn with what `serve` gives it."""
import os
import sys

from mlops_course.api import UVICORN, Api, served_model, settle_gc
from mlops_course.predlog import PredictionLog, Together, hooks
from mlops_course.serialize import given
from mlops_course.server import Number, Served

import model

mlp = Served("mlp", "1", "2026-11-20", model.LABELS, features={name: Number(0.5) for name in model.NAMES}, score=model.score)


def settled(app):
    settle_gc()
    return app


def log(): return PredictionLog(os.environ["LOG"])
def logged(served): return hooks(Together(log()), served.name)
def features(): return settled(Api(mlp, **logged(mlp)))
def documented(): return settled(Api(mlp, **logged(mlp), hot=False))


def images():
    leaves = served_model(given("leaves.onnx"), trained="2026-11-20")
    return settled(Api(leaves, **logged(leaves)))


if __name__ == "__main__":
    import uvicorn
    uvicorn.run(f"ours:{sys.argv[1]}", factory=True, port=int(sys.argv[2]), log_level="warning", **UVICORN)
