"""The model that every server serves: 10 features -> 3 classes, one hidden layer of 16, in numpy. Weights come from a seed, so that every environment has the same."""
import numpy as np

NAMES, LABELS = [f"x{i}" for i in range(10)], ("setosa", "versicolor", "virginica")
_rng = np.random.default_rng(0)
W0, B0, W1, B1 = (0.3 * _rng.standard_normal(shape) for shape in ((10, 16), 16, (16, 3), 3))
W0, B0, W1, B1 = (w.astype(np.float32) for w in (W0, B0, W1, B1))


def score(rows):
    "Probabilities, shape (n, 3), of rows of 10 numbers."
    z = np.maximum(np.asarray(rows, np.float32) @ W0 + B0, 0) @ W1 + B1
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def answer(row):
    "What a server says of one row."
    p = score([row])[0].tolist()
    return {"label": LABELS[p.index(max(p))], "probabilities": dict(zip(LABELS, p))}
