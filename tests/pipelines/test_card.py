"""The model card: README.md of a model folder, its metadata and its pictures."""

from __future__ import annotations

import getpass
import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from imgtf.errors import ConfigError
from imgtf.options import build
from imgtf.pipelines.card import is_edited, license_of, render_card, write_card
from imgtf.pipelines.card_data import task
from imgtf.pipelines.files import ORIGIN_FILE
from imgtf.pipelines.local_paths import public_name, public_settings, without_paths
from imgtf.prior.config import PriorConfig
from imgtf.prior.model import Prior

from .conftest import run


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """A model folder that a test may change."""
    shutil.copytree(model, tmp_path / "m")
    return tmp_path / "m"


def test_the_metadata_are_those_that_the_hub_reads(model: Path) -> None:
    data = ModelCard.load(model / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("imgtf", "unconditional-image-generation")
    assert {"imgtf", "image-tokenizer", "vq", "autoregressive", "class-conditional"} == set(data.tags)
    assert data.license is None
    assert data.datasets is None
    assert {"psnr", "bits_per_token"} <= set(data.metrics)
    values = {result.metric_type: result.metric_value for result in data.eval_results}
    for stage, metric in (("tokenizer", "psnr"), ("prior", "bits_per_token")):
        figures = json.loads((model / stage / "figures.json").read_text())
        assert values[metric] == pytest.approx(figures["metrics"][metric], abs=1e-6)
    assert {result.dataset_name for result in data.eval_results} == {"colours"}


def test_the_card_has_pictures_figures_and_settings(model: Path) -> None:
    card = (model / "README.md").read_text()
    assert "colour images of 16x16 pixels" in card
    assert "class names: blue, green, red" in card
    assert re.search(
        r"\| tokenizer \| PSNR \(dB\) \| [\d.]+ \| colours \| `train\[held-out\]` \| 3 \| \d of 8 \|", card
    )
    pictures = re.findall(r"!\[\w+\]\((.*?)\)", card)
    assert pictures == ["images/samples.png", "images/reconstructions.png"]
    for picture in pictures:
        with Image.open(model / picture) as image:
            assert max(image.size) <= 1024
    tokenizer, sampling, prior = (tomllib.loads(block) for block in blocks(card, "toml"))
    for stage, shown in (("tokenizer", tokenizer), ("prior", prior)):
        assert shown == tomllib.loads((model / stage / "train.toml").read_text()) | {"data": "colours"}
    assert sampling["top_k"] == Prior.read_config(model / "prior").sampling.top_k
    assert "{" not in card


def test_the_card_names_the_data_once(model: Path) -> None:
    card = (model / "README.md").read_text()
    (section,) = re.findall(r"^## Data\n(.*?)^## ", card, re.DOTALL | re.MULTILINE)
    assert section.count("colours") == 1
    assert "30 images, 27 for training, 3 held out" in section


def test_nothing_that_is_published_has_a_path_of_this_machine(model: Path, images: Path) -> None:
    from imgtf.pipelines.publish import Publication

    for name, data in Publication(model, "user/m").files().items():
        content = data if isinstance(data, bytes) else data.read_bytes()
        for word in (str(images.parent), str(model.parent), str(Path.home()), f"/{getpass.getuser()}"):
            assert word.encode() not in content, (name, word)
    assert str(images.parent) not in (model / "README.md").read_text()


def test_its_code_and_commands_run(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    card = (model / "README.md").read_text()
    (code,) = blocks(card, "python")
    assert len([line for line in code.splitlines() if line]) <= 5
    monkeypatch.setattr(Image.Image, "save", lambda *_: None)
    exec(compile(code.replace("n=16", "n=1"), "card", "exec"), {})
    monkeypatch.undo()
    monkeypatch.chdir(model.parent)
    sample, train = blocks(card, "shell")
    assert run(*shlex.split(sample)[1:], "--n", "1", "--out", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").glob("0*.png"))) == 1
    monkeypatch.chdir(model)
    for line in train.splitlines():
        command = shlex.split(line.replace("--data colours", f"--data {shlex.quote(str(images))}"))
        assert run(*command[1:], "--steps", "1", "--model", tmp_path / "new") == 0


def test_a_card_without_a_prior_shows_reconstruction(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model / "tokenizer", tmp_path / "tokenizer")
    write_card(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "imgtf tokenizer reconstruct" in card
    assert "## Prior" not in card
    assert ModelCard(card).data.pipeline_tag is None


def test_a_card_of_imported_weights_names_their_origin(model: Path, tmp_path: Path) -> None:
    for stage in ("tokenizer", "prior"):
        shutil.copytree(
            model / stage, tmp_path / stage, ignore=shutil.ignore_patterns("*.toml", "*.txt", "fig*")
        )
        (tmp_path / stage / ORIGIN_FILE).write_text(f"`/home/somebody/{stage}.pt`\n")
    write_card(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "The tokenizer was imported from `tokenizer.pt`." in card
    assert "The prior was imported from `prior.pt`." in card
    assert "imgtf prior train" not in card
    assert ModelCard(card).data.eval_results is None


def test_an_edited_card_is_kept(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = copy / "README.md"
    assert not is_edited(copy)
    text = path.read_text().replace("## Data\n", "## Data\n\nFrom my garden.\n")
    path.write_text(text)
    assert is_edited(copy)
    with caplog.at_level("INFO", "imgtf"):
        write_card(copy)
    assert path.read_text() == text
    assert "edited by hand" in caplog.text


def test_the_license_of_a_card_stays(copy: Path) -> None:
    (copy / "README.md").write_text(render_card(copy, "m", "cc-by-4.0"))
    write_card(copy)
    assert license_of(copy) == "cc-by-4.0"
    assert not is_edited(copy)


def test_broken_metadata_are_an_error_of_one_line(copy: Path) -> None:
    (copy / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(ConfigError, match="its metadata cannot be read") as caught:
        license_of(copy)
    assert "\n" not in str(caught.value)


def test_pictures_stay_without_the_training_state(copy: Path) -> None:
    shutil.rmtree(copy / "training" / "prior")
    shutil.rmtree(copy / "training" / "tokenizer" / "previews")
    write_card(copy)
    assert (copy / "images" / "samples.png").exists()
    assert not (copy / "images" / "reconstructions.png").exists()


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], "unconditional-image-generation"),
        ([{"kind": "label", "class_names": ["a", "b"]}], "unconditional-image-generation"),
        ([{"kind": "text", "max_bytes": 8}], "text-to-image"),
        ([{"kind": "image", "grid": [2, 2], "codebook_size": 4, "tokenizer_sha256": "0"}], "image-to-image"),
    ],
)
def test_the_task_follows_the_conditions(conditions: list[dict[str, Any]], expected: str) -> None:
    assert (
        task(build(PriorConfig, {"grid": [2, 2], "codebook_size": 4, "conditions": conditions})) == expected
    )


def test_paths_become_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos" / "my cats").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name("photos/my cats") == "my cats"
    assert public_name(str(tmp_path / "photos")) == "photos"
    assert public_name("user/data") == "user/data"
    assert public_name("s3://key:secret@bucket/cats") == "cats"
    assert without_paths("data: photos/my cats: 3 images and/or 16x16", "photos/my cats") == (
        "data: my cats: 3 images and/or 16x16"
    )
    assert (
        without_paths("see /home/me/a.png, ~/b/c.png (https://x.y/z)") == "see a.png, c.png (https://x.y/z)"
    )
    assert public_settings({"data": "/home/me/cats", "steps": 3, "init_from": "user/model"}) == {
        "data": "cats", "steps": 3, "init_from": "user/model",
    }  # fmt: skip
