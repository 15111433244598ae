import logging

import numpy as np
import pytest
import torch

from imgtf.data.config import AugmentationConfig, DataConfig, check_crops
from imgtf.data.images import BadImages, CropsDataset, ImageDataset
from imgtf.data.source import open_source
from imgtf.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path, noise):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            noise(12, 9, seed=i).save(tmp_path / name / f"{i}.png")
    return tmp_path


RANDOM = AugmentationConfig(crop="random")


def dataset(folder, augmentation=None, seed=0, **options):
    config = DataConfig(data=str(folder), held_out=0, **options)
    return ImageDataset(open_source(config)[0], 8, 3, config, augmentation, seed)


def test_one_item(folder):
    item = dataset(folder)[7, 0]
    assert item["image"].shape == (3, 8, 8)
    assert (item["label"], item["index"], item["bad"], item["text"]) == (1, 7, "", "")


def test_augmentation_depends_only_on_seed_epoch_and_index(folder):
    images = dataset(folder, RANDOM)
    keys = [(i, e) for e in range(4) for i in range(10)]
    first = [images[key]["image"] for key in keys]
    again = dataset(folder, RANDOM)
    assert all(
        (again[key]["image"] == image).all() for key, image in reversed(list(zip(keys, first, strict=True)))
    )
    assert len({image.numpy().tobytes() for image in first[::10]}) > 1
    other = dataset(folder, RANDOM, seed=1)
    assert any((other[key]["image"] != image).any() for key, image in zip(keys, first, strict=True))


def test_epochs_are_equal_without_augmentation(folder):
    images = dataset(folder)
    assert (images[3, 0]["image"] == images[3, 9]["image"]).all()
    assert (images[3]["image"] == images[3, 0]["image"]).all()


def test_flip_can_be_turned_off(folder):
    images = dataset(folder, AugmentationConfig(flip=False))
    assert all((images[0, e]["image"] == images[0, 0]["image"]).all() for e in range(8))


@pytest.mark.parametrize(
    "small", [AugmentationConfig(crop="random", crop_scale=0.3), AugmentationConfig(crop="shift")]
)
def test_crops_are_the_centre_crop_and_fixed_other_crops(folder, small):
    config = DataConfig(data=str(folder), held_out=0)
    source = open_source(config)[0]
    item = CropsDataset(source, 8, 3, config, small, 20)[7]
    assert item["image"].shape == (20, 3, 8, 8)
    assert torch.equal(item["image"][0], dataset(folder)[7]["image"])
    assert len({crop.numpy().tobytes() for crop in item["image"]}) >= 3
    assert torch.equal(item["image"], CropsDataset(source, 8, 3, config, small, 20)[7, 5]["image"])
    assert torch.equal(item["image"][:2], CropsDataset(source, 8, 3, config, small, 2)[7]["image"])
    with pytest.raises(ConfigError, match="crops_per_image 2 needs different crops"):
        CropsDataset(source, 8, 3, config, AugmentationConfig(), 2)


def test_images_that_are_not_square(folder):
    config = DataConfig(data=str(folder), held_out=0)
    source = open_source(config)[0]
    whole = ImageDataset(source, (9, 12), 3, config)[2]["image"]
    assert whole.shape == (3, 9, 12)  # every pixel of the file
    assert torch.equal(
        ((whole + 1) * 127.5).round().byte().permute(1, 2, 0), torch.tensor(np.asarray(source.image(2)))
    )
    crops = CropsDataset(source, (4, 6), 3, config, AugmentationConfig(crop="random", crop_scale=0.3), 4)[7][
        "image"
    ]
    assert crops.shape == (4, 3, 4, 6)
    assert len({crop.numpy().tobytes() for crop in crops}) >= 3


def test_small_crops_are_cut_from_more_pixels_and_centre_crops_are_not(tmp_path, noise, monkeypatch):
    noise(128, 128).resize((512, 512)).save(tmp_path / "0.jpg")  # which Pillow can reduce while it decodes
    config, small = (
        DataConfig(data=str(tmp_path), held_out=0),
        AugmentationConfig(crop="random", crop_scale=0.25),
    )
    source, asked = open_source(config)[0], []
    decode = type(source).image

    def spy(self, row, at_least):
        asked.append(at_least)
        return decode(self, row, at_least=at_least)

    monkeypatch.setattr(type(source), "image", spy)
    ImageDataset(source, 16, 3, config, small)[0]
    ImageDataset(source, 16, 3, config)[0]
    CropsDataset(source, 16, 3, config, small, 3)[0]
    CropsDataset(source, 16, 3, config, small, 1)[0]
    ImageDataset(source, (8, 16), 3, config)[0]  # enough for the longer side
    assert asked == [64, 16, 64, 16, 16]


def test_smaller_crops_must_be_random():
    with pytest.raises(ConfigError, match=r"crop_scale 0\.8 is for random crops: add --crop random"):
        AugmentationConfig(crop_scale=0.8)
    check_crops(AugmentationConfig(), 1)


def test_an_unreadable_image_is_replaced_by_the_next(folder):
    (folder / "a" / "4.png").write_bytes(b"no image")
    images = dataset(folder)
    item = images[4, 0]
    assert item["bad"] == f"{folder / 'a' / '4.png'}: not an image that Pillow can read"
    assert (item["index"], item["label"]) == (4, 1)
    assert torch.equal(item["image"], images[5, 0]["image"])
    with pytest.raises(DataError, match=r"4\.png: not an image .*repair or remove"):
        dataset(folder, bad_images="fail")[4, 0]


def test_pixels_out_of_range_count_as_unreadable(folder):
    import numpy as np
    from PIL import Image

    (folder / "a" / "0.png").unlink()
    Image.fromarray(np.full((9, 9), 3.0, np.float32)).save(folder / "a" / "0.tif")
    assert dataset(folder)[0]["bad"].startswith(f"{folder / 'a' / '0.tif'}: pixels of mode F from 3 to 3")


def test_all_images_unreadable(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match="no image can be read"):
        dataset(tmp_path)[1, 0]


def test_each_unreadable_image_is_warned_about_once(caplog):
    bad = BadImages(300)
    with caplog.at_level(logging.WARNING, "imgtf"):
        bad.note(["", "x.png: empty", "x.png: empty", "y.png: empty", "z.png: empty"])
        bad.note(["x.png: empty"])
    assert caplog.text.count("x.png") == 1
    with pytest.raises(
        DataError, match=r"4 of 300 images cannot be read, more than 1 %: .* the first is x\.png"
    ):
        bad.note(["w.png: empty"])


def test_one_unreadable_image_is_always_allowed():
    bad = BadImages(10)
    bad.note(["x.png: empty"])
    with pytest.raises(DataError, match="2 of 10"):
        bad.note(["y.png: empty"])
    with pytest.raises(DataError, match=r"x\.png: empty: repair"):
        BadImages(1000, "fail").note(["x.png: empty"])


def test_images_that_were_removed_during_the_run_are_named_so(folder):
    images, bad = dataset(folder), BadImages(10)
    for name in ("0", "1"):
        (folder / "a" / f"{name}.png").unlink()
    bad.note([images[0]["bad"]])
    with pytest.raises(
        DataError, match=r"2 of 10 images .*: 2 were removed during the run; the first is .*0\.png"
    ):
        bad.note([images[1]["bad"]])
