"""`/v1/images/generations`: the images of `Pipeline.sample`, in the shape of OpenAI's API; wrong requests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from .conftest import Running, equal, error_of, images_of, running, tiny


def test_an_image_of_a_seed_is_that_of_the_pipeline(server: Running) -> None:
    answer = server.generate(label="green", n=3, seed=7, temperature=0.9, top_k=5)
    assert equal(answer, server.pipeline.sample(3, "green", seed=7, temperature=0.9, top_k=5))
    assert set(answer.json()) == {"created", "data", "imgtf"}


def test_the_answer_says_what_repeats_it(server: Running) -> None:
    first = server.generate(label="red", n=2, top_p=0.9, cfg_scale=1.5)
    own = first.json()["imgtf"]
    known = {
        "seed": own["seed"],
        "label": own["label"],
        "n": own["n"],
        "size": own["size"],
        **own["settings"],
    }
    again = server.generate(**known)
    assert [one["b64_json"] for one in again.json()["data"]] == [
        one["b64_json"] for one in first.json()["data"]
    ]
    assert equal(first, server.pipeline.sample(2, "red", seed=own["seed"], **own["settings"]))
    assert own["prior_sha256"] == server.pipeline.prior_sha256()
    assert server.generate(label="red").json()["imgtf"]["seed"] != own["seed"]


def test_without_a_class_all_classes_take_turns(server: Running) -> None:
    answer = server.generate(n=4, seed=1, prompt="")
    assert equal(answer, server.pipeline.sample(4, seed=1))
    assert answer.json()["imgtf"]["labels"] == ["red", "green", "7", "red"]


def test_a_prompt_names_a_class_where_there_are_no_captions(server: Running) -> None:
    assert equal(server.generate(prompt="green", seed=2), server.pipeline.sample(1, "green", seed=2))
    assert equal(server.generate(label=0, seed=2), server.pipeline.sample(1, 0, seed=2))
    assert equal(server.generate(label="7", seed=2), server.pipeline.sample(1, "7", seed=2))
    assert "red, green, 7" in error_of(server.generate(prompt="a cat"))["message"]
    assert error_of(server.generate(prompt="red", label="red"))["param"] == "prompt"


def test_other_sizes_are_width_times_height(server: Running) -> None:
    answer = server.generate(size="20x13", n=2, seed=3, label="red")
    assert images_of(answer)[0].shape == (13, 20, 3)
    assert equal(answer, server.pipeline.sample(2, "red", seed=3, size=(13, 20)))
    assert equal(server.generate(size="16x16", seed=3), server.pipeline.sample(1, seed=3))
    assert server.generate(size="auto").json()["imgtf"]["size"] == "16x16"


@pytest.mark.parametrize("objective", ["raster", "random", "masked"])
def test_requests_in_one_batch_do_not_change_each_other(objective: str) -> None:
    """Seeds, labels and captions differ in a batch; other settings and sizes get a batch of their own."""
    asked: list[dict[str, Any]] = [
        *({"seed": seed, "label": label, "n": 2} for seed, label in ((0, "red"), (1, "green"), (9, "7"))),
        {"seed": 4, "n": 3, "label": "red", "prompt": "a cat"},
        {"seed": 4, "n": 3, "prompt": "a dog"},
        {"seed": 5, "temperature": 0.5},
        {"seed": 6, "size": "20x20"},
    ]
    pipeline = tiny("label", "text", objective=objective)
    with running(pipeline, batch_wait=300.0) as server, ThreadPoolExecutor(len(asked)) as threads:
        answers = list(threads.map(lambda body: server.generate(**body), asked))
        text = server.client.get("/metrics").text
    for body, answer in zip(asked, answers, strict=True):
        given = {name: value for name, value in body.items() if name not in ("prompt", "size")}
        size = 20 if "size" in body else None
        assert equal(answer, pipeline.sample(text=body.get("prompt"), size=size, **given)), body
    assert "imgtf_images_total 14.0" in text
    assert "imgtf_batch_size_count 14.0" not in text


def test_captions_that_are_cut_are_said() -> None:
    pipeline = tiny("text")
    with running(pipeline) as server:
        server.service.warm_up()
        answer = server.generate(prompt="a very long caption", seed=1)
        assert equal(answer, pipeline.sample(1, text="a very long caption", seed=1))
        assert answer.json()["imgtf"]["notes"] == [
            "the prompt is cut to 8 bytes, the most that this model reads"
        ]
        assert server.generate(prompt="short").json()["imgtf"]["notes"] == []
        assert error_of(server.generate(label="red"))["param"] == "label"
        assert equal(server.generate(seed=1), pipeline.sample(1, seed=1))


def test_a_model_without_conditions_takes_no_prompt() -> None:
    pipeline = tiny()
    with running(pipeline) as server:
        assert error_of(server.generate(prompt="a cat"))["code"] == "unsupported_prompt"
        assert equal(server.generate(prompt="", seed=4), pipeline.sample(1, seed=4))
        assert server.generate().json()["imgtf"]["labels"] is None


def test_fields_of_openai_with_the_value_that_there_is(server: Running) -> None:
    body = {
        "model": "tiny",
        "user": "me",
        "response_format": "b64_json",
        "quality": "auto",
        "background": "auto",
    }
    assert images_of(server.generate(**body, output_format="png", stream=False, moderation="auto"))
    assert len(images_of(server.generate(n=None, size=None, seed=None, label=None))) == 1


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"response_format": "url"}, "response_format", "b64_json only"),
        ({"quality": "hd"}, "quality", "'auto'"),
        ({"stream": True}, "stream", "does not stream"),
        ({"n": 0}, "n", "1 to 10"),
        ({"n": 11}, "n", "1 to 10"),
        ({"n": 10**30}, "n", "1 to 10"),
        ({"n": "2"}, "n", "integer"),
        ({"n": True}, "n", "integer"),
        ({"n": 1.5}, "n", "integer"),
        ({"seed": -1}, "seed", "0 to"),
        ({"seed": 2**64}, "seed", "0 to"),
        ({"size": "16"}, "size", "WIDTHxHEIGHT"),
        ({"size": "0x16"}, "size", "WIDTHxHEIGHT"),
        ({"size": "33x16"}, "size", "up to 32 px"),
        ({"size": "999999x999999"}, "size", "up to 32 px"),
        ({"temperature": -1}, "temperature", "at least"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"temperature": float("nan")}, "temperature", "temperature"),
        ({"top_p": 2}, "top_p", "1"),
        ({"order": "confidence"}, "order", "raster"),
        ({"cfg_schedule": "square"}, "cfg_schedule", "linear"),
        ({"label": "blue"}, "label", "red, green, 7"),
        ({"label": 3}, "label", "red, green, 7"),
        ({"label": ["red"]}, "label", "valid string or"),
        ({"prompt": "x" * 4001}, "prompt", "4000"),
        ({"prompt": "\ud800"}, "prompt", "prompt"),
        ({"temprature": 1}, "temprature", "did you mean temperature"),
        ({"x" * 10_000: 1}, "x" * 60, "unknown field"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_in_one_line(
    server: Running, body: dict[str, Any], param: str, said: str
) -> None:
    import json

    sent = json.dumps(body).encode()
    error = error_of(server.client.post("/v1/images/generations", content=sent))
    assert error["param"] == param
    assert said in error["message"]
    assert len(error["message"]) < 300
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"n": ' + b"9" * 9999 + b"}"]
)
def test_a_body_that_is_no_object_is_one_line(server: Running, body: bytes) -> None:
    assert error_of(server.client.post("/v1/images/generations", content=body))["code"] in (
        "invalid_json",
        "invalid_value",
    )


def test_a_model_of_another_name_is_not_there(server: Running) -> None:
    error = error_of(server.generate(model="dall-e-3"), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert [one["id"] for one in server.client.get("/v1/models").json()["data"]] == ["tiny"]


def test_the_shortest_seed_is_as_good_as_the_longest(server: Running) -> None:
    for seed in (0, 2**64 - 1):
        assert equal(server.generate(seed=seed, label="red"), server.pipeline.sample(1, "red", seed=seed))
    assert not np.array_equal(*(images_of(server.generate(seed=s, label="red"))[0] for s in (0, 2**64 - 1)))
