"""What `async` gains and costs: routes that wait 50 ms, as for a database, and routes that compute 5 ms, each with `def` and `async def`."""
import asyncio
import time

from fastapi import FastAPI

WAIT, COMPUTE = 0.05, 0.005
app = FastAPI()


def compute():
    until = time.thread_time() + COMPUTE
    while time.thread_time() < until: pass


@app.get("/health")
async def health(): return {"status": "ok"}


@app.get("/wait-async")
async def wait_async(): await asyncio.sleep(WAIT); return {}


@app.get("/wait-def")
def wait_def(): time.sleep(WAIT); return {}


@app.get("/wait-blocking")
async def wait_blocking(): time.sleep(WAIT); return {}  # the mistake: the one thread that serves everybody sleeps


@app.get("/compute-async")
async def compute_async(): compute(); return {}


@app.get("/compute-def")
def compute_def(): compute(); return {}
