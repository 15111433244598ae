"""`/v1/images/edits`: the images of `Pipeline.inpaint`; images and masks that do not work."""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .conftest import Running, equal, error_of, images_of, mask, picture, png, running, tiny


def marked(image: Image.Image) -> np.ndarray:
    return np.asarray(image)[..., 3] == 0


@pytest.mark.parametrize("objective", ["raster", "masked"])
def test_transparent_pixels_are_replaced(objective: str) -> None:
    pipeline = tiny("label", objective=objective)
    with running(pipeline) as server:
        answer = server.edit(png(picture()), png(mask()), n=3, seed=5, prompt="red", top_k="4")
    expected = pipeline.inpaint(picture(), 3, mask=marked(mask()), seed=5, label="red", top_k=4)
    assert equal(answer, expected)
    for image in images_of(answer):
        assert (image[:8] == np.asarray(picture())[:8]).all()
        assert (image[8:] != np.asarray(picture())[8:]).any()
    own = answer.json()["imgtf"]
    assert (own["seed"], own["label"], own["notes"]) == (5, "red", [])


def test_without_a_class_an_edit_is_unconditional(server: Running) -> None:
    answer = server.edit(png(picture()), png(mask()), seed="5")
    assert equal(answer, server.pipeline.inpaint(picture(), mask=marked(mask()), seed=5))
    assert answer.json()["imgtf"]["labels"] is None


def test_another_size_is_cropped_and_said(server: Running) -> None:
    image, hole = picture(40, 32), np.zeros((32, 40), bool)
    hole[10:20, 10:20] = True
    shown = Image.fromarray(
        np.dstack([np.zeros((32, 40, 3), np.uint8), np.where(hole, 0, 255).astype(np.uint8)])
    )
    answer = server.edit(png(image), png(shown), seed=1)
    assert equal(answer, server.pipeline.inpaint(image, mask=hole, seed=1))
    assert "cropped and resized to 16x16 pixels" in answer.json()["imgtf"]["notes"][0]


def test_an_image_with_transparent_pixels_is_its_own_mask(server: Running) -> None:
    image = picture().convert("RGBA")
    image.putalpha(mask().getchannel("A"))
    answer = server.edit(png(image), seed=2)
    assert equal(answer, server.pipeline.inpaint(image, mask=marked(mask()), seed=2))


def test_images_with_the_same_mask_share_a_batch() -> None:
    from concurrent.futures import ThreadPoolExecutor

    pipeline = tiny("label")
    images = [picture(), picture().rotate(90), picture().rotate(180)]
    with running(pipeline, batch_wait=300.0, batch_size=3) as server, ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda image: server.edit(png(image), png(mask()), seed=3), images))
        assert "imgtf_batch_size_count 1.0" in server.client.get("/metrics").text
    for image, answer in zip(images, answers, strict=True):
        assert equal(answer, pipeline.inpaint(image, mask=marked(mask()), seed=3))


def test_the_form_of_the_openai_client_with_a_list_of_images(server: Running) -> None:
    files = [("image[]", ("a.png", png(picture()))), ("mask", ("b.png", png(mask())))]
    sent = {
        "prompt": "red",
        "n": "2",
        "size": "16x16",
        "response_format": "b64_json",
        "seed": "1",
        "stream": "false",
    }
    answer = server.client.post("/v1/images/edits", files=files, data=sent)
    assert equal(answer, server.pipeline.inpaint(picture(), 2, mask=marked(mask()), seed=1, label="red"))


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def gif() -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, "GIF")
    return buffer.getvalue()


IMAGE, MASK = png(picture()), png(mask())
TEXT_IMAGE = b'--a\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--a--\r\n'


@pytest.mark.parametrize(
    ("files", "fields", "param", "said"),
    [
        ({}, {}, "nothing", "unknown file"),
        ({"mask": MASK}, {}, "image", "image is missing"),
        ({"image": IMAGE}, {}, "mask", "mask is missing"),
        ({"image": IMAGE, "mask": png(mask(side=17))}, {}, "mask", "17x17 px and the image 16x16 px"),
        ({"image": IMAGE, "mask": IMAGE}, {}, "mask", "no transparent pixels"),
        ({"image": b"", "mask": MASK}, {}, "image", "empty"),
        ({"image": b"hello", "mask": MASK}, {}, "image", "not an image"),
        ({"image": IMAGE[:400], "mask": MASK}, {}, "image", "image: "),
        ({"image": IMAGE, "mask": MASK[:60]}, {}, "mask", "mask: "),
        ({"image": gif(), "mask": MASK}, {}, "image", "not GIF"),
        ({"image": bomb(), "mask": MASK}, {}, "image", "image: "),
        ({"image": png(Image.new("RGB", (1001, 1000))), "mask": MASK}, {}, "image", "1001x1000 px are too many"),
        ({"image": IMAGE, "mask": MASK}, {"size": "32x32"}, "size", "the model's size, 16x16"),
        ({"image": IMAGE, "mask": MASK}, {"n": "many"}, "n", "integer"),
        ({"image": IMAGE, "mask": MASK}, {"n": "11"}, "n", "1 to 10"),
        ({"image": IMAGE, "mask": MASK}, {"prompt": "blue"}, "prompt", "red, green, 7"),
        ({"image": IMAGE, "mask": MASK}, {"response_format": "url"}, "response_format", "b64_json only"),
        ({"image": IMAGE, "mask": MASK}, {"sed": "1"}, "sed", "did you mean seed"),
    ],
)  # fmt: skip
def test_what_does_not_work_is_one_line(
    small: Running, files: dict[str, bytes], fields: dict[str, str], param: str, said: str
) -> None:
    error = error_of(small.edit(**files, **fields))
    assert error["param"] == param
    assert said in error["message"]


@pytest.fixture(scope="module")
def small() -> Any:
    with running(tiny("label"), max_upload=1, max_pixels=1) as server:
        yield server


def test_a_mask_outside_what_the_model_reads_is_said(small: Running) -> None:
    hole = Image.new("RGBA", (48, 16), "white")
    hole.putpixel((0, 0), (0, 0, 0, 0))
    assert "centre" in error_of(small.edit(png(picture(48, 16)), png(hole)))["message"]


def test_a_request_that_is_too_large_is_refused(small: Running) -> None:
    error = error_of(small.edit(bytes(3 * 2**20), MASK))
    assert error["code"] == "request_too_large"
    assert "1 MB" in error["message"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=a", b"no boundary"),
        ("multipart/form-data; boundary=a", b"--a\r\nContent-Disposition: form-data\r\n\r\nx\r\n--a--\r\n"),
        ("multipart/form-data; boundary=a", TEXT_IMAGE),
        ("text/plain", b""),
    ],
)  # fmt: skip
def test_a_body_that_is_no_form_is_one_line(small: Running, kind: str, body: bytes) -> None:
    answer = small.client.post("/v1/images/edits", content=body, headers={"Content-Type": kind})
    assert error_of(answer)["code"] in ("invalid_content_type", "invalid_form", "missing_image")


def test_a_field_that_is_sent_twice_is_refused(small: Running) -> None:
    files = [("image", ("a.png", IMAGE)), ("image", ("b.png", IMAGE)), ("mask", ("c.png", MASK))]
    assert "twice" in error_of(small.client.post("/v1/images/edits", files=files))["message"]


def test_nothing_is_written_to_the_disk(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads beyond a megabyte, which Starlette would put into temporary files."""

    def refuse(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("a temporary file")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    image = Image.effect_noise((1400, 1400), 100)
    data = png(image)
    assert len(data) > 1.5 * 2**20
    hole = Image.new("RGBA", image.size, "white")
    hole.paste((0, 0, 0, 0), (600, 600, 800, 800))
    assert images_of(server.edit(data, png(hole)))
