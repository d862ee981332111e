"""A service that knows nothing of the mesh: it calls another one for each request. Run by `opentelemetry-instrument`."""

import os
import random
import threading
import time

import requests
from flask import Flask, request

OUT = os.environ["OUT"]
app = Flask(__name__)
# One pool for everybody.
session = requests.Session()
session.mount("http://", requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=64))


def call(kind, user):
    headers = {"x-sent-at": str(time.monotonic_ns())}
    return session.get(f"{OUT}/{kind}/{user}", headers=headers, timeout=30)


def answer(called):
    return called.text, called.status_code, {"content-type": "application/json"}


@app.get("/direct")
@app.get("/anon/direct")
def direct():
    time.sleep(random.random() * float(request.args.get("delay", "0")) / 1000)
    return answer(call("direct", request.args["user"]))


@app.get("/later")
def later():
    user = request.args["user"]
    # Long after the answer.
    timer = threading.Timer(float(request.args.get("after", "0.3")), lambda: call("later", user))
    timer.start()
    return {"later": user}


@app.get("/ready")
def ready():
    return "ready"


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ["PORT"]), threaded=True)
