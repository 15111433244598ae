"""Files that are sound although Pillow's defaults refuse them, and headers that are read without the pixels."""

from __future__ import annotations

import io
import sys
import types

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from imgtf.data import decode
from imgtf.data.decode import TRUNCATED, BadImage, load_image, open_image
from imgtf.data.image import to_pixels
from imgtf.data.image_bytes import without_text

from .reading import opened
from .test_image import encoded


def png_with_text(image: Image.Image, *texts: str, compressed: bool = True, kind: str = "text") -> bytes:
    info = PngImagePlugin.PngInfo()
    for number, text in enumerate(texts):
        (info.add_itxt if kind == "itxt" else info.add_text)(f"prompt{number}", text, zip=compressed)
    return encoded(image, pnginfo=info)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["text", "itxt"])
def test_pngs_with_megabytes_of_text_are_sound(noise, kind, compressed):
    image = noise(9, 7)
    data = png_with_text(image, "x" * 2**21, compressed=compressed, kind=kind)
    assert (to_pixels(load_image(data, "here"), 3) == np.asarray(image)).all()
    assert open_image(data, "here").size == (9, 7)


def test_pngs_with_more_text_in_all_than_pillow_allows_are_sound(noise):
    image = noise(9, 7)
    data = png_with_text(image, *["y" * 2**20] * 70)
    assert (to_pixels(load_image(data, "here"), 3) == np.asarray(image)).all()
    assert open_image(data, "here").size == (9, 7)


def test_large_colour_profiles_are_ignored(noise):
    image = noise(9, 7)
    data = encoded(image, icc_profile=bytes(2**21))
    assert (to_pixels(load_image(data, "here"), 3) == np.asarray(image)).all()


def test_the_orientation_in_the_text_of_a_png_is_kept(noise):
    image, info = noise(6, 4), PngImagePlugin.PngInfo()
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    info.add_itxt("XML:com.adobe.xmp", xmp)
    info.add_text("workflow", "x" * 2**21, zip=True)
    rotated = to_pixels(load_image(encoded(image, pnginfo=info), "here"), 3)
    assert (rotated == np.rot90(np.asarray(image), -1)).all()


def test_other_files_keep_their_bytes(noise):
    for data in (encoded(noise(8, 8), "JPEG"), encoded(noise(8, 8)), b"", b"tEXt"):
        assert without_text(data) == data


def test_headers_are_read_from_the_start_of_a_file(tmp_path, noise, monkeypatch):
    path = tmp_path / "large.png"
    path.write_bytes(encoded(noise(400, 300)))
    read = []
    monkeypatch.setattr(decode, "read_cell", lambda cell: read.append(cell))
    header = open_image(str(path), "here")
    assert (header.size, header.mode, header.format) == ((400, 300), "RGB", "PNG")
    assert read == []


@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "BMP", "GIF", "WEBP", "ICO"])
def test_headers_of_other_formats(kind, noise):
    data = encoded(noise(200, 200), kind, **({"sizes": [(200, 200)]} if kind == "ICO" else {}))
    assert open_image(data, "here").size == (200, 200)
    assert not open_image(data, "here").info[TRUNCATED]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("lost", [0.1, 0.5])
def test_truncated_files_are_found_from_header_and_end(kind, lost, noise, tmp_path):
    data = encoded(noise(300, 300), kind)
    assert not open_image(data, "here").info[TRUNCATED]
    path = tmp_path / "cut"
    path.write_bytes(data[: int(len(data) * (1 - lost))])
    try:
        assert open_image(str(path), "here").info[TRUNCATED]
    except BadImage:
        assert kind == "WEBP"  # its header cannot be read without the rest


def test_files_of_plugins_name_the_package(monkeypatch):
    decode._register_plugins.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name not in ("HEIF", "JXL")])
    heic = b"\0\0\0\x18ftypheic" + bytes(100)
    with pytest.raises(BadImage, match=r"a\.heic: .*pip install pillow-heif"):
        load_image(heic, "a.heic")
    with pytest.raises(BadImage, match=r"a\.jxl: .*pip install pillow-jxl-plugin"):
        open_image(b"\xff\x0a" + bytes(100), "a.jxl")
    decode._register_plugins.cache_clear()


def test_installed_plugins_are_used(monkeypatch, noise):
    """A plugin that registers a format when its function is called, as pillow-heif does."""
    inner = encoded(noise(5, 4))

    class Plugged(Image.Image):
        pass

    def register() -> None:
        Image.register_open(
            "PLUGGED",
            lambda file, name: Image.open(io.BytesIO(inner)),
            lambda head: head[4:12] == b"ftypheic",
        )

    plugin = types.ModuleType("pillow_heif")
    plugin.register_heif_opener = register
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    decode._register_plugins.cache_clear()
    assert load_image(b"\0\0\0\x18ftypheic" + bytes(100), "a.heic").size == (5, 4)
    decode._register_plugins.cache_clear()


@pytest.mark.parametrize("suffix", ["heic", "avif", "jxl"])
def test_files_that_plugins_write_are_read(suffix, noise, tmp_path):
    """Real files, alone and in a folder with captions."""
    heif, _ = pytest.importorskip("pillow_heif"), pytest.importorskip("pillow_jxl")
    heif.register_heif_opener()
    path = tmp_path / f"a.{suffix}"
    noise(64, 48).resize((128, 96)).save(path)
    decode._register_plugins.cache_clear()
    assert (open_image(str(path), "here").size, load_image(path.read_bytes(), "here").size) == (
        (128, 96),
    ) * 2
    (tmp_path / "a.txt").write_text("a cat")
    train, _ = opened(tmp_path)
    assert train.header(0).size == (128, 96)
    assert train.text(0) == "a cat"
    with pytest.raises(BadImage):
        load_image(path.read_bytes()[:-40], "here")


def test_uncompressed_ycbcr_tiffs_are_read():
    """Pillow before 13 finds them truncated."""
    image = Image.new("RGB", (40, 32), (220, 30, 30))
    pixels = to_pixels(load_image(encoded(image.convert("YCbCr"), "TIFF"), "here"), 3)
    assert pixels.shape == (32, 40, 3)
    assert np.abs(pixels.astype(int) - np.asarray(image)).max() <= 4
    cut = encoded(image.convert("YCbCr"), "TIFF")[:-100]
    with pytest.raises(BadImage):
        load_image(cut, "here")
