"One gRPC request again and again from many callers over one connection; the result as one line of JSON, as load.lua prints it. python grpc_load.py ADDRESS FILE SECONDS CALLERS"
import asyncio
import json
import sys
import time
from pathlib import Path

import grpc

LARGE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


async def load(address, request, seconds, callers):
    waits, failed = [], 0
    async with grpc.aio.insecure_channel(address, options=LARGE) as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")  # bytes to bytes: the client takes nothing apart
        async def caller():
            nonlocal failed
            while (began := time.perf_counter()) < until:
                try: await call(request, timeout=10)
                except grpc.RpcError: failed += 1
                else: waits.append(time.perf_counter() - began)
        began = time.perf_counter()
        until = began + seconds
        await asyncio.gather(*(caller() for _ in range(callers)))
        took = time.perf_counter() - began
    waits.sort()
    at = lambda q: int(1e6 * waits[min(len(waits) - 1, int(q * len(waits)))]) if waits else 0
    return {"answered": len(waits), "microseconds": int(1e6 * took), "p50_us": at(0.5), "p99_us": at(0.99), "max_us": at(1), "errors": {"status": failed}}


if __name__ == "__main__": print("JSON", json.dumps(asyncio.run(load(sys.argv[1], Path(sys.argv[2]).read_bytes(), float(sys.argv[3]), int(sys.argv[4])))))
