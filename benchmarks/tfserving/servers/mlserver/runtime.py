"MLServer's custom runtime as its documentation shows it, over the SavedModel's signature or the Keras model (KIND). MLServer validates the tensors of the protocol (V2), the runtime their shape."
import os

import numpy as np
from mlserver import MLModel
from mlserver.codecs import decode_args
from mlserver.errors import InferenceError


class Mlp(MLModel):
    async def load(self) -> bool:
        import tensorflow as tf
        if os.environ["KIND"] == "keras":
            import keras
            network = keras.models.load_model(os.environ["KERAS_MODEL"])
            self.call = lambda rows: network(rows, training=False).numpy()
        else:
            self.loaded = tf.saved_model.load(os.environ["SAVED_MODEL"])
            signature = self.loaded.signatures["serving_default"]
            name = next(iter(signature.structured_input_signature[1]))
            self.call = lambda rows: next(iter(signature(**{name: tf.constant(rows)}).values())).numpy()
        return True

    @decode_args
    async def predict(self, rows: np.ndarray) -> np.ndarray:
        if rows.ndim != 2 or rows.shape[1] != 10: raise InferenceError(f"rows of 10 numbers were expected; got shape {rows.shape}")
        return self.call(rows.astype(np.float32))
