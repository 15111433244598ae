import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from imgtf.data.config import AugmentationConfig
from imgtf.data.decode import BadImage, load_image, open_image
from imgtf.data.image import Crop, check_background, cropped, to_pil, to_pixels, transform
from imgtf.data.images import draw_crop
from imgtf.errors import ConfigError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def through_file(image: Image.Image, kind: str = "PNG", **options: object) -> Image.Image:
    return load_image(encoded(image, kind, **options), "here")


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_plain_pixels(mode, channels):
    image = Image.new(mode, (6, 4))
    pixels = to_pixels(image, channels)
    assert pixels.shape == (4, 6, channels)
    assert pixels.dtype == np.uint8
    tensor = transform(image, 4, channels)
    assert tensor.shape == (channels, 4, 4)
    assert tensor.dtype == torch.float32
    assert -1 <= tensor.min() <= tensor.max() <= 1


def test_transparent_pixels_show_the_background():
    for image in (Image.new("RGBA", (4, 4), (9, 9, 9, 0)), Image.new("LA", (4, 4), (9, 0))):
        assert (to_pixels(image, 3, "#ff0080") == [255, 0, 128]).all()
        assert (to_pixels(image, 3, "white") == 255).all()
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert abs(int(to_pixels(half, 1, "white")[0, 0, 0]) - 127) <= 1


def test_transparent_palette_and_colour_key():
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 0, 255, 0])
    clear = through_file(palette, transparency=1)
    assert clear.mode == "P"
    assert (to_pixels(clear, 3, "blue") == [0, 0, 255]).all()
    keyed = through_file(Image.new("L", (4, 4), 7), transparency=7)
    assert (to_pixels(keyed, 1, "white") == 255).all()


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bits_keep_their_range(order):
    values = np.array([[0, 255], [256, 65535]], order)
    image = through_file(Image.fromarray(values), "TIFF")
    assert image.mode.startswith("I;16")
    pixels = to_pixels(image, 1)
    assert pixels.dtype == np.float32
    assert np.allclose(pixels[:, :, 0], values.astype(float) / 65535)
    assert to_pixels(image, 3).shape == (2, 2, 3)
    assert transform(image, 2, 3)[0, 0, 1].item() == pytest.approx(2 * 255 / 65535 - 1)


def test_16_bit_png_and_int32():
    values = np.array([[0, 1], [300, 65535]], np.uint16)
    assert np.allclose(to_pixels(through_file(Image.fromarray(values)), 1)[:, :, 0] * 65535, values)
    assert np.allclose(to_pixels(Image.fromarray(values.astype(np.int32)), 1)[:, :, 0] * 65535, values)


@pytest.mark.parametrize("values", [[[0.0, 2.0]], [[-0.1, 0.5]], [[float("nan"), 0.5]]])
def test_float_pixels_must_be_in_range(values):
    assert to_pixels(Image.fromarray(np.array([[0.0, 1.0]], np.float32)), 1).max() == 1
    with pytest.raises(BadImage, match="mode F from"):
        to_pixels(Image.fromarray(np.array(values, np.float32)), 1)


def test_lab_keeps_its_colours():
    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    red = Image.new("RGB", (4, 4), (200, 40, 40))
    image = ImageCms.profileToProfile(red, rgb, lab, outputMode="LAB")
    assert np.abs(to_pixels(image, 3).astype(int) - [200, 40, 40]).max() <= 3


def test_exif_orientation_is_applied(noise):
    image = noise(6, 4)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate clockwise
    rotated = to_pixels(through_file(image, "PNG", exif=exif), 3)
    assert (rotated == np.rot90(np.asarray(image), -1)).all()


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (to_pixels(load_image(data, "here"), 3) == [255, 0, 0]).all()


def test_grey_and_colour(noise):
    image = noise(4, 4)
    assert (to_pixels(image, 1)[:, :, 0] == np.asarray(image.convert("L"))).all()
    grey = to_pixels(image.convert("L"), 3)
    assert (grey[:, :, 0] == grey[:, :, 2]).all()
    with pytest.raises(ConfigError, match="1 or 3 channels, not 4"):
        to_pixels(image, 4)


def test_no_resampling_at_the_right_size(noise):
    image = noise(9, 6)
    assert (np.asarray(cropped(image, 6)) == np.asarray(image)[:, 1:7]).all()


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((4, 6), (0, 1, 9, 7)),  # left, top, right, bottom of 9 x 8 pixels
        ((8, 3), (3, 0, 6, 8)),
        ((1, 9), (0, 3, 9, 4)),
        ((16, 18), (0, 0, 9, 8)),
        (3, (0, 0, 8, 8)),
    ],
)
def test_the_centre_crop_is_the_largest_of_the_shape(noise, size, box):
    image = noise(9, 8)
    H, W = (size, size) if isinstance(size, int) else size
    expected = image.resize((W, H), Image.Resampling.BICUBIC, box=box)
    assert (np.asarray(cropped(image, size)) == np.asarray(expected)).all()
    assert transform(image, size, 3).shape == (3, H, W)


def test_no_resampling_at_the_right_height_and_width(noise):
    image = noise(12, 10)
    assert (np.asarray(cropped(image, (8, 12))) == np.asarray(image)[1:9]).all()
    assert (np.asarray(cropped(image, (5, 6), Crop(0.0, 0.999, 0.5))) == np.asarray(image)[5:, :6]).all()


@pytest.mark.parametrize("size", [(8, 12), (12, 8), (5, 7), (1, 30)])
def test_random_crops_stay_inside_and_keep_their_shape(size):
    """Pixels outside the image would be black; grey levels are those of the whole crop."""
    white = Image.new("L", (31, 23), 255)
    config = AugmentationConfig(crop="random", crop_scale=0.3)
    for i in range(60):
        crop = draw_crop(np.random.default_rng(i), config, flip=True)
        assert transform(white, size, 1, crop=crop).min() == 1


def test_square_crops_are_those_of_a_side(noise):
    image, crop = noise(40, 25), Crop(0.3, 0.8, 0.6)
    assert cropped(image, (8, 8), crop).tobytes() == cropped(image, 8, crop).tobytes()
    side = round(0.6 * 25)
    left, top = int(0.3 * (40 - side + 1)), int(0.8 * (25 - side + 1))
    box = (left, top, left + side, top + side)
    expected = image.resize((8, 8), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    assert cropped(image, 8, crop).tobytes() == expected.tobytes()


def test_resizing_antialiases():
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32)))
    assert np.abs(np.asarray(cropped(stripes, 8)).astype(int) - 127).max() <= 2


def test_random_crops_reach_both_ends(noise):
    image = noise(7, 4)
    pixels = np.asarray(image)
    crops = {np.asarray(cropped(image, 4, Crop(x, 0.3))).tobytes() for x in np.linspace(0, 0.999, 50)}
    assert crops == {pixels[:, left : left + 4].tobytes() for left in range(4)}


def test_random_crops_have_sides_down_to_the_scale(noise):
    ramp = Image.fromarray(np.tile(np.arange(40, dtype=np.uint8) * 6, (40, 1)))

    def widths(scale):
        config = AugmentationConfig(crop="random", crop_scale=scale)
        drawn = [draw_crop(np.random.default_rng(i), config, flip=False) for i in range(60)]
        crops = [transform(ramp, 8, 1, crop=crop) for crop in drawn]
        return [float(crop.max() - crop.min()) for crop in crops]

    whole, shrunk = widths(1.0), widths(0.5)
    assert len(set(whole)) == 1
    assert 0.45 < min(shrunk) / whole[0] < 0.6
    assert 0.9 < max(shrunk) / whole[0] <= 1
    image = noise(40, 40)
    assert (np.asarray(cropped(image, 20, Crop(0.0, 0.999, 0.5))) == np.asarray(image)[20:, :20]).all()


def test_a_shift_moves_the_centre_crop_and_mirrors_the_border(noise):
    image = noise(12, 10)
    centre = transform(image, (10, 12), 3)
    moved = transform(image, (10, 12), 3, crop=Crop(shift=(0.2, -0.1)))  # 2 down, 1 to the left
    assert torch.equal(moved[:, 2:, :-1], centre[:, :-2, 1:])
    assert torch.equal(moved[:, :2, :-1], centre[:, 1:3, 1:].flip(1))
    assert torch.equal(moved[:, 2:, -1], centre[:, :-2, -2])
    flipped = transform(image, (10, 12), 3, crop=Crop(flipped=True, shift=(0.2, -0.1)))
    assert torch.equal(flipped, moved.flip(2))


def test_shifts_reach_a_tenth_of_the_side_in_all_directions(noise):
    image = noise(32, 32)
    centre = transform(image, 32, 3)
    found = set()
    for i in range(400):
        moved = transform(
            image, 32, 3, crop=draw_crop(np.random.default_rng(i), AugmentationConfig(crop="shift"), False)
        )
        inner = moved[:, 3:-3, 3:-3]
        found |= {
            (y, x) for y in range(-3, 4) for x in range(-3, 4)
            if torch.equal(inner, centre[:, 3 - y : 29 - y, 3 - x : 29 - x])
        }  # fmt: skip
    assert found == {(y, x) for y in range(-3, 4) for x in range(-3, 4)}


@pytest.mark.parametrize("crop", ["centre", "random", "shift"])
def test_half_of_the_crops_are_flipped(noise, crop):
    config, streams = AugmentationConfig(crop=crop), [np.random.default_rng(i) for i in range(40)]
    drawn = [draw_crop(stream, config, flip=True).flipped for stream in streams]
    assert 10 < sum(drawn) < 30
    centre = [draw_crop(np.random.default_rng(i), AugmentationConfig(), flip=True).flipped for i in range(40)]
    assert drawn == centre  # flips do not depend on the kind of crop
    image = noise(4, 4)
    assert (transform(image, 4, 3, crop=Crop(flipped=True)) == transform(image, 4, 3).flip(2)).all()


def test_to_pil_reverses_transform(noise):
    image = noise(5, 5)
    assert (np.asarray(to_pil(transform(image, 5, 3))) == np.asarray(image)).all()
    grey = image.convert("L")
    assert (np.asarray(to_pil(transform(grey, 5, 1))) == np.asarray(grey)).all()
    assert to_pil(torch.full((1, 2, 2), 7.0)).getpixel((0, 0)) == 255
    with pytest.raises(ValueError, match="1 or 3, H, W"):
        to_pil(torch.zeros(2, 4, 4))


def test_large_jpegs_are_decoded_small_but_not_too_small():
    data = encoded(Image.new("RGB", (800, 400), (10, 200, 30)), "JPEG")
    assert load_image(data, "here", at_least=50).size == (200, 100)
    assert load_image(data, "here", at_least=150).size == (800, 400)


def test_broken_bytes_are_named(tmp_path, noise):
    jpeg = encoded(noise(64, 64), "JPEG")
    for data, why in ((b"", "empty"), (b"hello", "not an image"), (jpeg[: len(jpeg) // 2], "truncated")):
        with pytest.raises(BadImage, match=f"^row 3: .*{why}"):
            load_image(data, "row 3")
    with pytest.raises(BadImage, match="no such file"):
        open_image(str(tmp_path / "x.png"), "x.png")
    with pytest.raises(BadImage):
        load_image(encoded(noise(32, 32))[:-800], "x")


def test_bombs_are_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(encoded(Image.new("L", (15, 10))), "large")  # Pillow only warns up to twice the limit
    with pytest.raises(BadImage, match=r"x\.png: .*exceeds limit"):
        load_image(encoded(Image.new("L", (50, 10))), "x.png")


def test_background_is_checked():
    check_background("tomato")
    with pytest.raises(ConfigError, match="'nocolour' is not a colour"):
        check_background("nocolour")
