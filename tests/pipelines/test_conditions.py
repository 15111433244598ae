"""Captions, conditioning images and every objective through the command line: trained, sampled, measured, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imgtf import Pipeline
from imgtf.data.codes import open_codes
from imgtf.errors import CheckpointError, ConfigError
from imgtf.pipelines.conditioning_images import ImageLoader, reduced
from imgtf.pipelines.conditions import FeaturesLoader, TextLoader
from imgtf.pipelines.text import import_transformers
from imgtf.prior.conditions.features import FeaturesConfig
from imgtf.prior.conditions.text import TextConfig

from .conftest import SMALL_PRIOR, SMALL_TOKENIZER, draw_images, run


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour images with captions, each with its grey version as conditioning image."""
    folder = draw_images(tmp_path_factory.mktemp("pairs") / "pairs")
    (folder / "grey").mkdir()
    rows = []
    for path in sorted(folder.glob("[!g]*/*.png")) + sorted(folder.glob("green/*.png")):
        name = f"{path.parent.name}-{path.name}"
        with Image.open(path) as image:
            image.convert("L").save(folder / "grey" / name)
        own = path.relative_to(folder).as_posix()
        rows.append(
            {"file_name": own, "text": f"a {path.parent.name} tile", "source_file_name": f"grey/{name}"}
        )
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


@pytest.fixture(scope="module")
def tokenized(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a tokenizer only; tests copy it."""
    folder = tmp_path_factory.mktemp("tokenized") / "m"
    command = ["tokenizer", "train", "--data", pairs, "--model", folder, "--steps", "4", *SMALL_TOKENIZER]
    assert run(*command) == 0
    return folder


def image_loader(pipeline: Pipeline) -> ImageLoader:
    (loader,) = (own for own in pipeline.loaders if isinstance(own, ImageLoader))
    return loader


def train(model: Path, tokenized: Path, *more: Any) -> Path:
    shutil.copytree(tokenized, model)
    assert run("prior", "train", "--model", model, "--steps", "4", *SMALL_PRIOR, *map(str, more)) == 0
    return model


@pytest.mark.parametrize("objective", ["random", "masked"])
def test_every_objective_trains_samples_and_is_measured(
    objective: str, tokenized: Path, tmp_path: Path, capsys: Any
) -> None:
    model = train(tmp_path / "m", tokenized, "--objective", objective, "--sampling-steps", 6)
    assert (model / "training" / "prior" / "previews").glob("*.png")
    assert run("prior", "eval", "--model", model, "--orders", "2", "--json") == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["bits_per_token"] > 1
    assert ("bits_per_token_raster" in figures) == (objective == "random")
    command = [
        "sample",
        "--model",
        model,
        "--n",
        "3",
        "--order",
        "halton",
        "--cfg-scale",
        "2",
        "--cfg-schedule",
        "cosine",
    ]
    assert run(*command, "--out", tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert record["settings"]["sampling_steps"] == 6
    assert record["settings"]["order"] == "halton"


def test_captions_condition_training_and_samples(tokenized: Path, tmp_path: Path, capsys: Any) -> None:
    model = train(tmp_path / "m", tokenized, "--conditions", "text", "--caption-bytes", 12)
    pipeline = Pipeline.from_pretrained(model)
    assert pipeline.prior.config.conditions == (TextConfig(max_bytes=12),)
    made = list(pipeline.stream(4, text=["a red tile", "a blue tile"], batch_size=3))
    assert [m.text for m in made] == ["a red tile", "a blue tile"] * 2
    capsys.readouterr()
    assert run("sample", "--model", model, "--n", "2", "--text", "a red tile", "--out", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["images"][1]["text"] == "a red tile"
    assert run("sample", "--model", model, "--n", "2", "--label", "red") == 1
    assert "conditioned on text, not on label" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="conditioned on text, not on image"):
        pipeline.sample(1, image=Image.new("RGB", (16, 16)))


def test_label_and_conditioning_column_together(
    pairs: Path, tokenized: Path, tmp_path: Path, capsys: Any
) -> None:
    model = train(tmp_path / "m", tokenized, "--conditioning-column", "source")
    codes = [open_codes(path.parent) for path in (model / "codes").glob("*/cache.json")]
    assert [column.name for column in codes[0].info.columns] == ["image"]
    assert codes[0][0]["image"].shape == (64,)
    config = Pipeline.from_pretrained(model).prior.config
    assert config.condition_kinds == ("label", "image")
    capsys.readouterr()
    assert run("prior", "eval", "--model", model, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == 3
    source = pairs / "grey" / "red-0.png"
    command = ["sample", "--model", model, "--n", "2", "--image", source, "--label", "red"]
    assert run(*command, "--out", tmp_path / "out") == 0
    assert run(*command[:-4], "--image", tmp_path / "none.png") == 1
    assert "none.png" in capsys.readouterr().err


def test_conditioning_images_are_flipped_with_the_images(
    pairs: Path, tokenized: Path, tmp_path: Path
) -> None:
    model = train(tmp_path / "m", tokenized, "--conditioning-column", "image", "--flip")
    (path,) = [p.parent for p in (model / "codes").glob("train-*/cache.json") if "held" not in str(p)]
    rows = open_codes(path, flip=True, seed=1)
    for key in [(i, epoch) for i in range(5) for epoch in range(4)]:
        assert torch.equal(rows[key]["codes"], rows[key]["image"])


def test_crops_cut_the_same_region_of_image_and_conditioning_image(
    pairs: Path, tokenized: Path, tmp_path: Path, capsys: Any
) -> None:
    crops = ("--crop", "random", "--crop-scale", "0.5", "--crops-per-image", 3)
    model = train(tmp_path / "m", tokenized, "--conditioning-column", "image", "--flip", *crops)
    caches = [
        open_codes(p.parent, flip=True, crops=3, seed=1) for p in (model / "codes").glob("*/cache.json")
    ]
    rows, held_out = sorted(caches, key=lambda codes: -codes.info.crops)
    assert (rows.info.crops, held_out.info.crops) == (3, 1)
    drawn = [rows[i, epoch] for i in range(5) for epoch in range(20)]
    assert all(torch.equal(row["codes"], row["image"]) for row in drawn)
    assert len({tuple(row["codes"].tolist()) for row in drawn[:20]}) > 2
    again = train(tmp_path / "n", model, "--conditioning-column", "image", "--flip", *crops, "--force")
    assert len(list((again / "codes").glob("*/cache.json"))) == 2  # the same cache did


def test_several_crops_without_random_crops_are_refused(tokenized: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(tokenized, tmp_path / "m")
    assert run("prior", "train", "--model", tmp_path / "m", "--crops-per-image", "4") == 1
    assert "add --crop shift" in capsys.readouterr().err
    assert run("tokenizer", "encode", "--model", tmp_path / "m", "--crops-per-image", "4") == 1
    assert "add --crop shift" in capsys.readouterr().err


def test_super_resolution_is_conditioned_on_the_reduced_image(tokenized: Path, tmp_path: Path) -> None:
    model = train(tmp_path / "m", tokenized, "--conditioning-size", 4, "--conditions", "image")
    pipeline = Pipeline.from_pretrained(model)
    assert pipeline.prior.config.condition("image").reduced_size == 4
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    fine = Image.fromarray(noise)
    coarse = fine.resize((4, 4), Image.Resampling.BICUBIC).resize((16, 16), Image.Resampling.BICUBIC)
    assert len(pipeline.sample(2, image=[fine, coarse])) == 2
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    assert float(reduced(pixels, 4).var()) < 0.3 * float(pixels.var())
    assert torch.allclose(reduced(pixels, 16), pixels, atol=1e-5)


def test_conditioning_images_may_have_a_tokenizer_of_their_own(
    pairs: Path, tokenized: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    command = [
        "tokenizer",
        "train",
        "--data",
        pairs / "grey",
        "--model",
        other,
        "--steps",
        "2",
        *SMALL_TOKENIZER,
    ]
    assert run(*command, "--channels", "1", "--codebook-size", "8") == 0
    model = train(tmp_path / "m", tokenized, "--conditioning-column", "source", "--conditioning-model", other)
    shutil.rmtree(other)
    assert (
        run("prior", "train", "--model", model, "--resume", "--steps", "9", "--conditioning-model", tokenized)
        == 1
    )
    pipeline = Pipeline.from_pretrained(model)
    assert image_loader(pipeline).image_tokenizer.config.codebook_size == 8
    with pytest.raises(CheckpointError, match="load the pipeline from its model folder"):
        Pipeline(pipeline.tokenizer, pipeline.prior)
    first = pipeline.sample(1, image=Image.new("RGB", (16, 16), "grey"), seed=1)
    pipeline.save_pretrained(tmp_path / "copy")
    again = Pipeline.from_pretrained(tmp_path / "copy")
    assert again.sample(1, image=Image.new("RGB", (16, 16), "grey"), seed=1) == first


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--conditions", "features"], "--text-encoder"),
        (["--conditions", "image"], "--conditioning-column"),
        (["--conditions", "sound"], "unknown sound; use label"),
        (["--conditioning-column", "nothing"], "no column 'nothing'"),
        (["--conditioning-column", "source", "--conditioning-size", "4"], "exclude each other"),
        (["--conditions", "image", "--conditioning-size", "17"], "--conditioning-size 17 is larger than"),
        (["--conditions", "features", "--text-encoder", "/nowhere"], "nowhere"),
        (["--objective", "random", "--rotary", "none"], "needs rotary"),
        (["--anneal", "0.9,0.1"], "rising fractions"),
    ],
)
def test_conditions_that_the_data_lack_are_refused_in_one_line(
    flags: list[str], message: str, tokenized: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(tokenized, tmp_path / "m")
    capsys.readouterr()
    assert run("prior", "train", "--model", tmp_path / "m", "--steps", "1", *SMALL_PRIOR, *flags) == 1
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert not (tmp_path / "m" / "prior").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--text-encoder", "no/such-encoder"],
            "text_encoder has no effect without features: use --conditions label,features, or remove text_encoder",
        ),
        (["--conditioning-model", "/nowhere"], "conditioning_model has no effect without image"),
        (["--caption-bytes", "999"], "caption_bytes has no effect without text"),
        (
            ["--conditions", "none", "--caption-bytes", "999"],
            "use --conditions text, or remove caption_bytes",
        ),
        (
            ["--conditions", "label", "--conditioning-size", "4"],
            "conditioning_size has no effect without image",
        ),
        (
            ["--conditions", "text", "--conditioning-column", "source"],
            "use --conditions text,image, or remove",
        ),
        (["--conditions", "none,label"], "none has no effect beside label: remove one of them"),
    ],
)
def test_options_without_effect_are_refused_in_one_line(
    flags: list[str], message: str, tokenized: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(tokenized, tmp_path / "m")
    capsys.readouterr()
    assert run("prior", "train", "--model", tmp_path / "m", "--steps", "1", *SMALL_PRIOR, *flags) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "m" / "prior").exists()


def test_a_run_that_was_started_with_options_without_effect_is_resumed_and_says_so(
    tokenized: Path, tmp_path: Path, capsys: Any
) -> None:
    model = train(tmp_path / "m", tokenized, "--caption-bytes", 128)  # the default, which the file holds
    settings = model / "prior" / "train.toml"
    assert "caption_bytes = 128" in settings.read_text()
    resume = ["prior", "train", "--model", model, "--resume", "--steps"]
    capsys.readouterr()
    assert run(*resume, "5") == 0
    assert "no effect" not in capsys.readouterr().err
    own = 'conditions = ["none", "label"]\ntext_encoder = "no/such-encoder"\n'
    settings.write_text(own + settings.read_text())
    assert run(*resume, "6") == 0
    lines = capsys.readouterr().err.splitlines()
    assert "conditions: none has no effect beside label" in lines
    assert "text_encoder has no effect without features" in lines


def test_features_of_a_pretrained_text_encoder(tokenized: Path, tmp_path: Path) -> None:
    encoder = text_encoder(tmp_path / "clip")
    model = train(tmp_path / "m", tokenized, "--conditions", "features,label", "--text-encoder", encoder)
    pipeline = Pipeline.from_pretrained(model)
    assert pipeline.prior.config.condition_kinds == ("label", "features")
    assert pipeline.prior.config.condition_length("features") == 9
    assert len(pipeline.sample(2, text=["a red tile", ""])) == 2
    features = pipeline.loaders[1].tensor(["a red tile", ""])
    assert features.shape == (2, 9, 16)
    assert pipeline.sample(2, features=features) == pipeline.sample(2, text=["a red tile", ""])
    assert (features[0].abs().sum(-1) > 0).tolist() == [True] * 5 + [False] * 4  # with its two end marks
    assert not features[1].any()


def text_encoder(folder: Path) -> Path:
    """A tiny CLIP text model with random weights, as transformers saves it."""
    pytest.importorskip("tokenizers")
    pytest.importorskip("transformers", exc_type=ImportError)
    transformers = import_transformers()
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {
        word: i
        for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", "a", "red", "green", "blue", "tile"])
    }
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **marks).save_pretrained(folder)
    config = transformers.CLIPTextConfig(
        vocab_size=9, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=9, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.CLIPTextModel(config).save_pretrained(folder)
    return folder


def test_captions_that_are_too_long_are_said(caplog: pytest.LogCaptureFixture) -> None:
    loader = TextLoader(TextConfig(max_bytes=4), None)  # type: ignore[arg-type]
    with caplog.at_level("INFO", logger="imgtf"):
        assert loader.values({"text": ["cat", "a black cat"]}) == ["cat", "a black cat"]
    assert caplog.messages == [
        "1 of 2 captions are cut to 4 bytes, the most that this prior reads, such as 'a black cat'"
    ]


@pytest.mark.parametrize("wrong", [5, b"red", "\ud800", ["a red tile", "\udcff"], [None]])
def test_text_that_is_not_unicode_is_refused_in_one_line(wrong: Any) -> None:
    features = FeaturesConfig(width=4, tokens=2, text_encoder="none")
    for loader in (TextLoader(TextConfig(max_bytes=6), None), FeaturesLoader(features, None)):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="text must be Unicode text, got") as error:
            loader.values({"text": wrong})
        str(error.value).encode()
        assert loader.values({"text": ["a", "\u00e9"]}) == ["a", "\u00e9"]
