"""The same, asynchronous. Run by `opentelemetry-instrument`."""

import asyncio
import os
import random
import time
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import BackgroundTasks, FastAPI, Response

OUT = os.environ["OUT"]


@asynccontextmanager
async def lifespan(app):
    # One pool for everybody.
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx.AsyncClient(limits=limits, timeout=30) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


async def call(kind, user):
    headers = {"x-sent-at": str(time.monotonic_ns())}
    return await app.state.client.get(f"{OUT}/{kind}/{user}", headers=headers)


@app.get("/direct")
@app.get("/anon/direct")
async def direct(user: str, delay: float = 0):
    await asyncio.sleep(random.random() * delay / 1000)
    called = await call("direct", user)
    return Response(called.content, called.status_code, media_type="application/json")


async def after_the_answer(user, after):
    await asyncio.sleep(after)
    await call("later", user)


@app.get("/later")
async def later(user: str, tasks: BackgroundTasks, after: float = 0.3):
    tasks.add_task(after_the_answer, user, after)
    return {"later": user}


@app.get("/ready")
async def ready():
    return "ready"


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
