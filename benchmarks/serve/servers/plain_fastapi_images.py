"""FastAPI's UploadFile as its tutorial shows it, with `def` and with `async def`; and what loading the model for every request makes of it."""
from fastapi import FastAPI, UploadFile

import leaves

app = FastAPI()


@app.post("/predict-def")
def predict_def(file: UploadFile): return leaves.predict(file.file.read())


@app.post("/predict-async")
async def predict_async(file: UploadFile): return leaves.predict(await file.read())


@app.post("/predict-load")
def predict_load(file: UploadFile): return leaves.predict(file.file.read(), leaves.load())
