"""FastAPI as its tutorial shows it: a Pydantic model in, a Pydantic model out, a function with `def` and one with `async def`."""
from fastapi import FastAPI
from pydantic import BaseModel

import model


class Features(BaseModel):
    x0: float
    x1: float
    x2: float
    x3: float
    x4: float
    x5: float
    x6: float
    x7: float
    x8: float
    x9: float


class Question(BaseModel):
    features: Features


class Prediction(BaseModel):
    label: str
    probabilities: dict[str, float]


app = FastAPI()


def predict(question): return model.answer(list(question.features.model_dump().values()))


@app.post("/predict-async")
async def predict_async(question: Question) -> Prediction: return predict(question)


@app.post("/predict-async-dict")
async def predict_async_dict(question: Question): return predict(question)  # no response model: FastAPI does not look at the answer


@app.post("/predict-def")
def predict_def(question: Question) -> Prediction: return predict(question)
