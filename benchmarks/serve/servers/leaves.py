"""The picture model without any server: JPEG -> Pillow -> ONNX Runtime on one thread. Plain FastAPI serves it, and as a program it is the floor that servers are held against."""
import json
import os
import sys
import time
from io import BytesIO

import numpy as np
import onnxruntime as ort
from PIL import Image


def load():
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(os.environ["LEAVES"], options, providers=["CPUExecutionProvider"])


SESSION = load()
INPUT = SESSION.get_inputs()[0]
SIDE, LABELS = INPUT.shape[1], os.environ["LABELS"].split("|")


def predict(data, session=SESSION):
    "What the model says of the bytes of a JPEG."
    image = Image.open(BytesIO(data)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    z = session.run(None, {INPUT.name: np.asarray(image, np.float32)[None]})[0][0]
    e = np.exp(z - z.max())
    p = (e / e.sum()).tolist()
    return {"label": LABELS[p.index(max(p))], "probabilities": dict(zip(LABELS, p))}


if __name__ == "__main__":  # leaves.py SECONDS FILE ...: CPU µs of a picture, for each file
    took = {}
    for path in sys.argv[2:]:
        data, n = open(path, "rb").read(), 0
        for _ in range(3): answer = predict(data)
        began, until = time.process_time(), time.monotonic() + float(sys.argv[1])
        while time.monotonic() < until: predict(data); n += 1
        took[path] = {"cpu_us": 1e6 * (time.process_time() - began) / max(1, n), "n": n, "answer": answer}
    print(json.dumps(took))
