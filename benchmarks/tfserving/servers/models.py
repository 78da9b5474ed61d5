"The models that are served: `python models.py FOLDER` makes them, in the environment of ours. One small network as Keras file and as SavedModel, and what the protocols are measured with."
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf


def saved(folder, f, shape, weights=()):
    module = tf.Module()
    module.weights = list(weights)
    module.call = tf.function(f, input_signature=[tf.TensorSpec([None, *shape], tf.float32, name="x")])
    tf.saved_model.save(module, str(folder), signatures=module.call)


def layers(sizes, rng): return [tf.Variable(rng.normal(0, (2 / a) ** 0.5, (a, b)).astype("f4")) for a, b in zip(sizes, sizes[1:])]


def wide(folder, rng):
    "Ten numbers in, three layers of 1024, three numbers out: what a batch is good for."
    weights = layers([10, 1024, 1024, 1024, 3], rng)
    def f(x):
        for w in weights: x = tf.nn.relu(x @ w)
        return {"y": x}
    saved(folder, f, [10], weights)


def main(folder):
    folder, rng = Path(folder), np.random.default_rng(7)
    keras.utils.set_random_seed(7)
    mlp = keras.Sequential([keras.layers.Input((10,), name="rows"), keras.layers.Dense(64, "relu"), keras.layers.Dense(64, "relu"), keras.layers.Dense(3, "softmax")])
    mlp.export(str(folder / "mlp" / "1"), verbose=False)
    mlp.save(folder / "mlp.keras")
    rows = rng.normal(0, 2, (5, 10)).round(3).astype("f4")
    np.savez(folder / "expected.npz", rows=rows, y=mlp(rows).numpy())
    saved(folder / "row" / "1", lambda x: {"y": tf.reduce_sum(x, 1)}, [10])
    saved(folder / "image" / "1", lambda x: {"y": tf.reduce_sum(x, [1, 2, 3])}, [224, 224, 3])
    wide(folder / "wide" / "1", rng)


if __name__ == "__main__": main(sys.argv[1])
