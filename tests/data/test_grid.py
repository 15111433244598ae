import numpy as np
import pytest
from PIL import Image

from imgtf.data.grid import draw_grid


def test_images_are_placed_in_rows(noise):
    images = [noise(8, 6, seed=i) for i in range(5)]
    sheet = draw_grid(images, columns=3, scale=1)
    assert sheet.size == (2 + 3 * 10, 2 + 2 * 8)
    pixels = np.asarray(sheet)
    assert (pixels[2:8, 2:10] == np.asarray(images[0])).all()
    assert (pixels[10:16, 12:20] == np.asarray(images[4])).all()
    assert (pixels[10:, 20:] == 255).all()
    assert pixels.tobytes() == draw_grid(images, columns=3, scale=1).tobytes()


def test_small_images_are_enlarged_without_smoothing(noise):
    image = noise(4, 4)
    pixels = np.asarray(draw_grid([image], scale=3))
    assert (pixels[2:14, 2:14] == np.asarray(image).repeat(3, 0).repeat(3, 1)).all()


def test_captions_are_below_the_images(noise):
    bare, captioned = (
        draw_grid([noise(8, 8)], scale=8),
        draw_grid([noise(8, 8)], captions=["a very long caption"]),
    )
    assert captioned.width == bare.width == 68
    below = np.asarray(captioned)[66:]
    assert below.min() < 128
    assert (below[:, -2:] == 255).all()


def test_captions_are_reduced_to_ascii(noise):
    image = noise(64, 64)
    expected = draw_grid([image], captions=["grun ??"]).tobytes()
    assert draw_grid([image], captions=["grün\n日本"]).tobytes() == expected


def test_images_of_different_modes_and_sizes(noise):
    sheet = draw_grid([Image.new("L", (4, 8), 0), noise(8, 4), Image.new("RGBA", (2, 2))])
    assert sheet.mode == "RGB"
    assert sheet.getpixel((2, 2)) == (255, 255, 255)
    assert draw_grid([Image.new("L", (4, 4))]).mode == "L"


@pytest.mark.parametrize(("size", "columns"), [((64, 64), 4), ((192, 64), 3), ((64, 256), 8)])
def test_the_sheet_is_about_square(noise, size, columns):
    width, height = draw_grid([noise(*size)] * 16).size
    assert (width - 2) // (size[0] + 2) == columns
    assert 0.4 < width / height < 2.5


@pytest.mark.parametrize("size", [(16, 64), (64, 16), (128, 16)])
def test_both_sides_of_a_small_image_are_enlarged(noise, size):
    assert draw_grid([noise(*size)]).size == (2 + 4 * size[0] + 2, 2 + 4 * size[1] + 2)


def test_wrong_arguments_are_refused(noise):
    with pytest.raises(ValueError, match="no images"):
        draw_grid([])
    with pytest.raises(ValueError, match="2 captions for 1 images"):
        draw_grid([noise(4, 4)], captions=["a", "b"])
    with pytest.raises(ValueError, match="at least 1"):
        draw_grid([noise(4, 4)], columns=0)
