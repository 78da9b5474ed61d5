"""Flask, whose documentation leaves validation to the application: the ten numbers are looked for by name."""
from flask import Flask, abort, request

import model

app = Flask(__name__)


@app.post("/predict")
def predict():
    features = request.get_json().get("features")
    if not isinstance(features, dict) or not all(isinstance(features.get(name), (int, float)) for name in model.NAMES): abort(422)
    return model.answer([features[name] for name in model.NAMES])
