"""MLServer's custom runtime as its documentation shows it. The protocol (V2) sends tensors; MLServer validates them, the runtime their shape."""
import numpy as np
from mlserver import MLModel
from mlserver.codecs import decode_args
from mlserver.errors import InferenceError

import model


class Mlp(MLModel):
    async def load(self) -> bool: return True

    @decode_args
    async def predict(self, rows: np.ndarray) -> np.ndarray:
        if rows.ndim != 2 or rows.shape[1] != len(model.NAMES): raise InferenceError(f"rows of {len(model.NAMES)} numbers were expected; got shape {rows.shape}")
        return model.score(rows)
