"""LitServe as its documentation shows it: setup, decode_request with a Pydantic model, predict, encode_response."""
import sys

import litserve as ls
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


class Mlp(ls.LitAPI):
    def setup(self, device): self.answer = model.answer
    def decode_request(self, request: Question): return list(request.features.model_dump().values())
    def predict(self, row): return self.answer(row)
    def encode_response(self, output): return output


if __name__ == "__main__":
    server = ls.LitServer(Mlp(), accelerator="cpu", fast_queue="fast" in sys.argv)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False, generate_client_file=False)
