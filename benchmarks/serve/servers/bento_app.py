"""BentoML as its documentation shows it: a service, an API method, a Pydantic model. Its own metrics are on, as they are by default; its access log is off."""
import bentoml
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


class Prediction(BaseModel):
    label: str
    probabilities: dict[str, float]


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Mlp:
    @bentoml.api
    def predict(self, features: Features) -> Prediction: return Prediction(**model.answer(list(features.model_dump().values())))

    @bentoml.api
    async def predict_async(self, features: Features) -> Prediction: return Prediction(**model.answer(list(features.model_dump().values())))
