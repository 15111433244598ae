import logging

import pytest
import torch

from imgtf.data.config import DataConfig
from imgtf.data.images import BadImages, ImageDataset, Views
from imgtf.data.source import open_source
from imgtf.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path, noise):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            noise(12, 9, seed=i).save(tmp_path / name / f"{i}.png")
    return tmp_path


def dataset(folder, augment=False, seed=0, **options):
    config = DataConfig(data=str(folder), held_out=0, **options)
    return ImageDataset(open_source(config)[0], 8, 3, config, augment=augment, seed=seed)


def test_one_item(folder):
    item = dataset(folder)[7, 0]
    assert item["image"].shape == (3, 8, 8)
    assert (item["label"], item["index"], item["bad"], item["text"]) == (1, 7, "", "")


def test_augmentation_depends_on_seed_epoch_and_index_alone(folder):
    images = dataset(folder, augment=True, crop="random")
    keys = [(i, e) for e in range(4) for i in range(10)]
    first = [images[key]["image"] for key in keys]
    again = dataset(folder, augment=True, crop="random")
    assert all(
        (again[key]["image"] == image).all() for key, image in reversed(list(zip(keys, first, strict=True)))
    )
    assert len({image.numpy().tobytes() for image in first[::10]}) > 1
    other = dataset(folder, augment=True, crop="random", seed=1)
    assert any((other[key]["image"] != image).any() for key, image in zip(keys, first, strict=True))


def test_without_augmentation_epochs_are_equal(folder):
    images = dataset(folder, crop="random")
    assert (images[3, 0]["image"] == images[3, 9]["image"]).all()
    assert (images[3]["image"] == images[3, 0]["image"]).all()


def test_flip_can_be_turned_off(folder):
    images = dataset(folder, augment=True, flip=False)
    assert all((images[0, e]["image"] == images[0, 0]["image"]).all() for e in range(8))


def test_views_are_the_middle_and_other_places_the_same_every_time(folder):
    config = DataConfig(data=str(folder), held_out=0, crop="random", crop_scale=0.3)
    source = open_source(config)[0]
    views = Views(source, 8, 3, config, 4)
    item = views[7]
    assert item["image"].shape == (4, 3, 8, 8)
    assert torch.equal(item["image"][0], dataset(folder)[7]["image"])
    assert len({view.numpy().tobytes() for view in item["image"]}) >= 3
    assert torch.equal(item["image"], Views(source, 8, 3, config, 4)[7, 5]["image"])
    assert torch.equal(item["image"][:2], Views(source, 8, 3, config, 2)[7]["image"])


def test_small_crops_are_cut_from_more_pixels_and_centre_crops_are_not(tmp_path, noise, monkeypatch):
    noise(128, 128).resize((512, 512)).save(tmp_path / "0.jpg")  # which Pillow can reduce while it decodes
    config = DataConfig(data=str(tmp_path), held_out=0, crop="random", crop_scale=0.25)
    source, asked = open_source(config)[0], []
    decode = type(source).image

    def spy(self, row, at_least):
        asked.append(at_least)
        return decode(self, row, at_least=at_least)

    monkeypatch.setattr(type(source), "image", spy)
    ImageDataset(source, 16, 3, config, augment=True)[0]
    ImageDataset(source, 16, 3, config)[0]
    Views(source, 16, 3, config, 3)[0]
    Views(source, 16, 3, config)[0]
    assert asked == [64, 16, 64, 16]


def test_smaller_crops_must_be_random():
    with pytest.raises(ConfigError, match=r"crop_scale 0\.8 is of random crops: add --crop random"):
        DataConfig(crop_scale=0.8)


def test_the_next_image_stands_in_for_a_broken_one(folder):
    (folder / "a" / "4.png").write_bytes(b"no image")
    images = dataset(folder)
    item = images[4, 0]
    assert item["bad"] == f"{folder / 'a' / '4.png'}: not an image that Pillow can read"
    assert (item["index"], item["label"]) == (4, 1)
    assert torch.equal(item["image"], images[5, 0]["image"])
    with pytest.raises(DataError, match=r"4\.png: not an image .*mend or remove"):
        dataset(folder, bad_images="fail")[4, 0]


def test_pixels_out_of_range_count_as_broken(folder):
    import numpy as np
    from PIL import Image

    (folder / "a" / "0.png").unlink()
    Image.fromarray(np.full((9, 9), 3.0, np.float32)).save(folder / "a" / "0.tif")
    assert dataset(folder)[0]["bad"].startswith(f"{folder / 'a' / '0.tif'}: pixels of mode F from 3 to 3")


def test_all_broken(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of its images can be read"):
        dataset(tmp_path)[1, 0]


def test_counting_broken_images(caplog):
    bad = BadImages(300)
    with caplog.at_level(logging.WARNING, "imgtf"):
        bad.note(["", "x.png: empty", "x.png: empty", "y.png: empty", "z.png: empty"])
        bad.note(["x.png: empty"])
    assert caplog.text.count("x.png") == 1
    with pytest.raises(
        DataError, match=r"4 of 300 images cannot be read, more than 1 %: .* the first is x\.png"
    ):
        bad.note(["w.png: empty"])


def test_one_broken_image_is_always_allowed():
    bad = BadImages(10)
    bad.note(["x.png: empty"])
    with pytest.raises(DataError, match="2 of 10"):
        bad.note(["y.png: empty"])
    with pytest.raises(DataError, match=r"x\.png: empty: mend"):
        BadImages(1000, "fail").note(["x.png: empty"])
