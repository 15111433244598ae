"""Soak of `imgtf serve`: good and bad requests for minutes; is every answer right, and does the process stay as it is?

    python benchmarks/serving_soak.py MODEL [--seconds 600] [--clients 8]

- Good requests: generations of several seeds, classes, numbers, settings and sizes, and edits. Their images must be
  those of `Pipeline.sample` and `Pipeline.inpaint`, computed before in this process, within one grey level.
- Bad requests: broken JSON, unknown fields and routes, values out of range, damaged and giant images, missing masks,
  bodies beyond the limit, clients that leave. Each must get its status and one line in the shape of OpenAI's errors.
- The queue is short, so some requests are answered 429; their client tries again.
- Every 5 seconds: resident memory, threads and open files of the server.
- At the end: SIGTERM, exit code, tracebacks on stderr.

For models with classes. Prints a Markdown table and one JSON object; exit code 1 where something was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from imgtf import Pipeline

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
QUEUE = 24
EVERY = 5.0
LEAVES_AFTER = (0.005, 0.02, 0.1)
"""Seconds after which a client closes the connection."""
MOST_GROWTH = 2.0
"""Megabytes per minute of resident memory, over the last quarter, that are no leak."""


@dataclass(frozen=True)
class Call:
    """One request and what must come back."""

    name: str
    path: str
    sent: dict[str, Any]
    """Arguments of httpx."""
    status: int = 200
    images: tuple[np.ndarray, ...] = ()


def png(image: Image.Image) -> bytes:
    """Return an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def good_calls(pipeline: Pipeline) -> list[Call]:
    """Return requests with their images."""
    height, width = pipeline.tokenizer.config.size
    names = pipeline.prior.config.class_names
    settings: list[dict[str, Any]] = [
        {},
        {"temperature": 0.8},
        {"top_k": 20, "cfg_scale": 3.0},
        {"top_p": 0.9},
    ]
    calls = []
    for seed in range(24):
        body = {"n": 1 + seed % 4, "seed": seed, **settings[seed % len(settings)]}
        given = {} if seed % 5 == 0 else {"label": names[seed % len(names)]}
        images = pipeline.sample(**body, **given)
        calls.append(call("generation", GENERATIONS, {"json": body | given}, images))
    wide = (height, width + width // 2)
    images = pipeline.sample(1, names[0], seed=5, size=wide)
    body = {"prompt": names[0], "seed": 5, "size": f"{wide[1]}x{wide[0]}"}
    calls.append(call("another size", GENERATIONS, {"json": body}, images))
    for seed in range(8):
        (image,) = pipeline.sample(1, seed=100 + seed)
        marked = np.zeros((height, width), bool)
        marked[height // 2 :, : width // (1 + seed % 2)] = True
        images = pipeline.inpaint(image, 2, mask=marked, seed=seed)
        calls.append(call("edit", EDITS, form(image, marked, n="2", seed=str(seed)), images))
    return calls


def call(name: str, path: str, sent: dict[str, Any], images: list[Image.Image]) -> Call:
    """Return a good request."""
    return Call(name, path, sent, images=tuple(np.asarray(image) for image in images))


def form(image: Image.Image, marked: np.ndarray, **fields: str) -> dict[str, Any]:
    """Return the form of an edit."""
    mask = Image.fromarray(
        np.dstack([np.zeros((*marked.shape, 3), np.uint8), 255 * ~marked]).astype(np.uint8)
    )
    return {"files": {"image": ("a.png", png(image)), "mask": ("b.png", png(mask))}, "data": fields}


def bad_calls(size: tuple[int, int]) -> list[Call]:
    """Return requests that must be refused."""
    own, marked = Image.new("RGB", size[::-1]), np.ones(size, bool)
    good = form(own, marked)
    image, mask = good["files"]["image"], good["files"]["mask"]
    giant = png(Image.new("1", (16_000, 16_000)))
    bodies: dict[str, Any] = {
        "not JSON": {"content": b"{"},
        "unknown field": {"json": {"sed": 1}},
        "wrong label": {"json": {"label": "no such class"}},
        "n out of range": {"json": {"n": 1000}},
        "n no number": {"json": {"n": "many"}},
        "url": {"json": {"response_format": "url"}},
        "size": {"json": {"size": "99999x99999"}},
        "temperature": {"json": {"temperature": -1}},
        "large body": {"content": b"x" * (9 * 2**20)},
    }
    files: dict[str, Any] = {
        "no mask": {"files": {"image": image}},
        "no image": {"files": {"mask": mask}},
        "opaque mask": {"files": {"image": image, "mask": image}},
        "mask of another size": {"files": {"image": ("a.png", png(own.resize((7, 7)))), "mask": mask}},
        "damaged image": {"files": {"image": ("a.png", image[1][:60]), "mask": mask}},
        "giant image": {"files": {"image": ("a.png", giant), "mask": mask}},
        "no form": {"json": {}},
    }
    return [
        *(Call(name, GENERATIONS, sent, 400) for name, sent in bodies.items()),
        *(Call(name, EDITS, sent, 400) for name, sent in files.items()),
        Call("unknown route", "/v1/images/variations", {"json": {}}, 404),
        Call("unknown model", GENERATIONS, {"json": {"model": "dall-e-3"}}, 404),
    ]


class Soak:
    """Clients, and what they saw."""

    def __init__(self, address: str, good: list[Call], bad: list[Call]) -> None:
        self.address, self.good, self.bad = address, good, bad
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def run(self, clients: int, seconds: float, process: psutil.Process) -> list[dict[str, float]]:
        """Send requests for some seconds, and return the state of the server over time."""
        end = time.monotonic() + seconds
        limits = httpx.Limits(max_connections=4 * clients)
        async with httpx.AsyncClient(base_url=self.address, timeout=120, limits=limits) as connection:
            jobs = [asyncio.create_task(self._client(connection, end, seed)) for seed in range(clients)]
            states = await self._watch(process, end, connection)
            await asyncio.gather(*jobs)
        return states

    async def _client(self, connection: httpx.AsyncClient, end: float, seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < end:
            kind = chance.random()
            if kind < 0.6:
                await self._check(connection, chance.choice(self.good))
            elif kind < 0.9:
                await self._check(connection, chance.choice(self.bad))
            else:
                await self._leave(connection, chance)

    async def _check(self, connection: httpx.AsyncClient, one: Call) -> None:
        answer = await connection.post(one.path, **one.sent)
        while answer.status_code == 429 and one.status == 200:
            self.seen["429, tried again"] += 1
            await asyncio.sleep(min(2.0, float(answer.headers["retry-after"])))
            answer = await connection.post(one.path, **one.sent)
        self.seen[one.name] += 1
        fault = judge(answer, one)
        if fault:
            self.wrong.append(f"{one.name}: {fault}")

    async def _leave(self, connection: httpx.AsyncClient, chance: random.Random) -> None:
        one = chance.choice(self.good)
        try:
            await connection.post(one.path, **one.sent, timeout=chance.choice(LEAVES_AFTER))
        except httpx.TimeoutException:
            self.seen["client that left"] += 1

    async def _watch(
        self, process: psutil.Process, end: float, connection: httpx.AsyncClient
    ) -> list[dict[str, float]]:
        start, states = time.monotonic(), []
        while time.monotonic() < end:
            states.append(
                {
                    "seconds": time.monotonic() - start,
                    "megabytes": process.memory_info().rss / 2**20,
                    "threads": process.num_threads(),
                    "files": process.num_fds(),
                }
            )
            for path in ("/health", "/metrics"):
                if (await connection.get(path)).status_code != 200:
                    self.wrong.append(path)
            await asyncio.sleep(EVERY)
        return states


def judge(answer: httpx.Response, one: Call) -> str:
    """Return what is wrong with an answer; empty where it is right."""
    if answer.status_code != one.status:
        return f"status {answer.status_code}: {answer.text[:200]}"
    if one.status != 200:
        error = answer.json().get("error", {})
        right = set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
        return "" if right else f"error {answer.text[:200]}"
    encoded = (base64.b64decode(part["b64_json"]) for part in answer.json()["data"])
    images = [np.asarray(Image.open(io.BytesIO(data))) for data in encoded]
    same = len(images) == len(one.images) and all(map(nearly_equal, images, one.images))
    return "" if same else "other images"


def nearly_equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether images are the same but for rounding: a batch of another size changes a few values by one level."""
    difference = np.abs(one.astype(int) - other)
    return difference.max() <= 1 and (difference > 0).mean() < 0.01


def report(soak: Soak, states: list[dict[str, float]], code: int, log: str) -> dict[str, Any]:
    """Return all results, and whether they are right."""
    late = states[3 * len(states) // 4 :]
    times, sizes = ([state[key] for state in late] for key in ("seconds", "megabytes"))
    growth = float(np.polyfit(times, sizes, 1)[0]) * 60
    tracebacks = log.count("Traceback")
    return {
        "right": not soak.wrong and code == 0 and not tracebacks and growth < MOST_GROWTH,
        "requests": sum(soak.seen.values()), "by_kind": dict(soak.seen.most_common()), "wrong": soak.wrong[:20],
        "wrong_answers": len(soak.wrong), "tracebacks": tracebacks, "log_lines": len(log.splitlines()),
        "exit_code": code, "megabytes_per_minute": growth, "states": states,
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Return the state of the server over time as Markdown."""
    states = result["states"]
    shown = [states[round(i * (len(states) - 1) / 8)] for i in range(9)]
    lines = ["| seconds | resident memory | threads | open files |", "|---|---|---|---|"]
    for state in shown:
        lines.append(
            f"| {state['seconds']:.0f} | {state['megabytes']:.0f} MB | {state['threads']} | {state['files']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the soak, and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=600)
    given = parser.parse_args()
    pipeline = Pipeline.from_pretrained(given.model, "cpu", precision="fp32")
    good, bad = good_calls(pipeline), bad_calls(pipeline.tokenizer.config.size)
    command = [sys.executable, "-m", "imgtf", "serve", str(given.model), "--port", "0", "--json"]
    command += ["--device", "cpu", "--precision", "fp32", "--queue", str(QUEUE), "--max-n", "10"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        soak = Soak(json.loads(process.stdout.readline())["address"], good, bad)
        states = asyncio.run(soak.run(given.clients, given.seconds, psutil.Process(process.pid)))
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
        log.seek(0)
        result = report(soak, states, code, log.read())
    print(table(result))
    print(json.dumps(result))
    sys.exit(0 if result["right"] else 1)


if __name__ == "__main__":
    main()
