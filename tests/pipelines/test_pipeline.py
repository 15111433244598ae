"""Using trained models: sampling, files, damaged folders, figures."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from imgtf import Pipeline, Prior, Tokenizer
from imgtf.errors import CheckpointError, ConfigError
from imgtf.pipelines.request import SamplingOptions, sampling_precision
from imgtf.prior.config import PriorConfig, SamplingConfig
from imgtf.runtime import precision as precision_module
from imgtf.runtime.optional import import_with_torchvision
from imgtf.tokenizer.config import TokenizerConfig
from imgtf.tokenizer.perceptual import BACKBONE_FILES

from .conftest import SMALL_TOKENIZER, run


def test_an_image_is_the_same_at_any_batch_size(model: Path) -> None:
    pipeline = Pipeline.from_pretrained(model)
    whole = list(pipeline.stream(20, seed=5, top_k=8, batch_size=64))
    for size in (1, 7):
        parts = list(pipeline.stream(20, seed=5, top_k=8, batch_size=size))
        assert all(torch.equal(a.codes, b.codes) for a, b in zip(whole, parts, strict=True))
        for a, b in zip(whole, parts, strict=True):
            difference = np.asarray(a.image, dtype=int) - np.asarray(b.image, dtype=int)
            assert np.abs(difference).max() <= 1
    later = list(pipeline.stream(5, seed=5, top_k=8, first=15))
    assert all(torch.equal(a.codes, b.codes) for a, b in zip(whole[15:], later, strict=True))
    assert [s.label for s in whole[15:]] == [s.label for s in later]


def test_labels_by_name_by_number_and_in_turn(model: Path) -> None:
    pipeline = Pipeline.from_pretrained(model)
    assert [s.label for s in pipeline.stream(4)] == ["blue", "green", "red", "blue"]
    assert [s.label for s in pipeline.stream(3, label="red")] == ["red"] * 3
    assert [s.label for s in pipeline.stream(3, label=["red", 0])] == ["red", "blue", "red"]
    assert [s.label for s in pipeline.stream(2, label=torch.tensor([1]))] == ["green", "green"]
    with pytest.raises(ConfigError, match=r"'pink'.*blue, green, red"):
        pipeline.sample(1, label="pink")


def test_images_have_the_size_and_mode_of_the_data(model: Path) -> None:
    images = Pipeline.from_pretrained(model).sample(n=2)
    assert [(p.size, p.mode) for p in images] == [((16, 16), "RGB")] * 2


@pytest.mark.parametrize(
    "wrong", [{"top_k": -1}, {"temperature": 0.0}, {"n": 0}, {"batch_size": 0}, {"top_p": "a"}]
)
def test_wrong_sampling_settings_are_refused(model: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Pipeline.from_pretrained(model).sample(**{"n": 1} | wrong)


def test_saving_and_loading_keeps_the_samples(model: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.from_pretrained(model)
    pipeline.save_pretrained(tmp_path / "copy")
    copy = Pipeline.from_pretrained(tmp_path / "copy")
    for a, b in zip(pipeline.stream(3), copy.stream(3), strict=True):
        assert torch.equal(a.codes, b.codes)
    assert copy.tokenizer.weights_sha256() == pipeline.tokenizer.weights_sha256()


def test_a_tokenizer_that_made_other_codes_is_refused(model: Path) -> None:
    prior, own = Prior.from_pretrained(model / "prior"), Tokenizer.from_pretrained(model / "tokenizer")
    other = Tokenizer(own.config)
    with pytest.raises(CheckpointError) as refused:
        Pipeline(other, prior)
    assert own.codes_sha256() in str(refused.value)
    assert other.codes_sha256() in str(refused.value)


def test_a_fresh_process_loads_everything(model: Path) -> None:
    program = (
        "from imgtf import Pipeline, Prior, Tokenizer\n"
        f"Tokenizer.from_pretrained({str(model / 'tokenizer')!r}); Prior.from_pretrained({str(model / 'prior')!r})\n"
        f"print(len(Pipeline.from_pretrained({str(model)!r}).sample(n=2)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"


def test_sample_writes_a_grid_the_images_and_their_record(model: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert run("sample", "--model", model, "--n", "7", "--top-k", "5", "--seed", "3", "--out", out) == 0
    assert capsys.readouterr().out.strip() == str(out / "grid.png")
    record = json.loads((out / "samples.json").read_text())
    assert record["seed"] == 3
    assert record["settings"]["top_k"] == 5
    assert [row["label"] for row in record["images"][:3]] == ["blue", "green", "red"]
    # Any one of them can be made again from the record.
    row = record["images"][4]
    command = ["sample", "--model", model, "--n", "1", "--first", str(row["index"]), "--label", row["label"]]
    assert run(*command, "--top-k", "5", "--seed", "3", "--out", tmp_path / "one") == 0
    with Image.open(out / row["file"]) as first, Image.open(tmp_path / "one" / row["file"]) as again:
        assert np.abs(np.asarray(first, dtype=int) - np.asarray(again, dtype=int)).max() <= 1
    assert run("sample", "--model", model, "--n", "1", "--out", out) == 1
    assert "--force" in capsys.readouterr().err


def test_tokenizer_eval_agrees_with_the_run(model: Path, capsys: Any) -> None:
    assert run("tokenizer", "eval", "--model", model, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (model / "training/tokenizer/log.jsonl").read_text().splitlines()]
    best = [row["held_out"] for row in rows if row.get("best")][-1]
    assert figures["psnr"] == pytest.approx(best["psnr"], abs=1e-3)
    assert figures["images"] == 3


def test_prior_eval_gives_bits_in_all_and_by_class(model: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(model, tmp_path / "m")
    assert run("prior", "eval", "--model", tmp_path / "m", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (model / "training/prior/log.jsonl").read_text().splitlines()]
    best = [row["held_out"] for row in rows if row.get("best")][-1]
    assert figures["bits_per_token"] == pytest.approx(best["bits_per_token"], abs=1e-3)
    assert figures["bits_per_pixel"] == pytest.approx(figures["bits_per_token"] * 64 / 256)
    assert set(figures["by_class"]) <= {"blue", "green", "red"}
    assert run("prior", "eval", "--model", tmp_path / "m", "--precision", "int8", "--json") == 0
    rounded = json.loads(capsys.readouterr().out)["bits_per_token"]
    assert rounded != figures["bits_per_token"]
    assert rounded == pytest.approx(figures["bits_per_token"], abs=0.02)


def test_reconstruct_writes_pairs(model: Path, images: Path, tmp_path: Path) -> None:
    assert run("tokenizer", "reconstruct", images / "red" / "0.png", "--model", model, "--out", tmp_path) == 0
    with Image.open(tmp_path / "0.png") as pair:
        assert pair.width > 2 * pair.height * 0.9


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--no-flip"],
        ["--crop", "random", "--crop-scale", "0.5", "--crops-per-image", "2"],
        ["--conditions", "label,image", "--conditioning-size", "4"],
    ],
)
def test_encode_writes_the_caches_that_prior_train_reads(
    options: list[str], model: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(model / "tokenizer", tmp_path / "m" / "tokenizer")
    assert run("tokenizer", "encode", "--model", tmp_path / "m", "--data", images, *options) == 0
    written = {Path(line): Path(line).stat().st_mtime_ns for line in capsys.readouterr().out.split()}
    assert len(written) == 2
    flags = ["--steps", "1", "--width", "16", "--depth", "1", "--heads", "2", "--batch-size", "4"]
    assert run("prior", "train", "--model", tmp_path / "m", "--data", images, *flags, *options) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "m" / "codes").iterdir()} == written


def test_prior_eval_reads_the_caches_of_the_run(
    model: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(model / "tokenizer", tmp_path / "m" / "tokenizer")
    flags = ["--steps", "1", "--width", "16", "--depth", "1", "--heads", "2", "--batch-size", "4"]
    options = ["--data", images, "--precision", "bf16"]
    assert run("prior", "train", "--model", tmp_path / "m", *options, *flags) == 0
    before = sorted(path.name for path in (tmp_path / "m" / "codes").iterdir())
    assert run("prior", "eval", "--model", tmp_path / "m") == 0
    assert sorted(path.name for path in (tmp_path / "m" / "codes").iterdir()) == before


def test_prior_eval_of_unlabelled_images_reports_no_class(model: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(model, tmp_path / "m")
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    for i in range(10):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(folder / f"{i}.png")
    assert run("prior", "eval", "--model", tmp_path / "m", "--data", folder, "--json") == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["bits_per_token"] > 0
    assert "by_class" not in metrics


def test_prior_eval_matches_classes_by_name(model: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(model, tmp_path / "m")
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images" / "blue").rename(tmp_path / "images" / "violet")
    command = ["prior", "eval", "--model", tmp_path / "m", "--data", tmp_path / "images", "--held-out", "0.5"]
    assert run(*command, "--json") == 0
    shown = capsys.readouterr()
    assert set(json.loads(shown.out)["by_class"]) == {"green", "red"}
    assert "violet" in shown.err


def test_info_describes_a_model_folder(model: Path, capsys: Any) -> None:
    assert run("info", model, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["tokenizer"]["grid"] == "8x8"
    assert figures["prior"]["classes"] == "blue, green, red"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path: Path) -> None:
    path.write_bytes(b"\x80\x04garbage" * 10)


def other_shape(path: Path) -> None:
    tensors = load_file(path)
    name = sorted(n for n in tensors if n.endswith("weight"))[0]
    save_file(tensors | {name: torch.zeros(3, 3)}, path)


def one_less(path: Path) -> None:
    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, path)


def one_more(path: Path) -> None:
    save_file(load_file(path) | {"surplus": torch.zeros(1)}, path)


def change(**values: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return edit


@pytest.mark.parametrize("stage", ["tokenizer", "prior"])
@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("model.safetensors", cut, "damaged"),
        ("model.safetensors", garbage, "damaged"),
        ("model.safetensors", other_shape, "misshapen"),
        ("model.safetensors", one_less, "missing"),
        ("model.safetensors", one_more, "unknown surplus"),
        ("model.safetensors", Path.unlink, "no such file"),
        ("config.json", garbage, "not readable as JSON"),
        ("config.json", Path.unlink, "no such file"),
        ("config.json", change(surplus=1), "unknown key surplus"),
        ("config.json", change(format=99), "format"),
        ("config.json", change(kind="vae"), "the kind is 'vae', not"),
        ("config.json", change(codebook_size="many"), "codebook_size must be int"),
        ("config.json", change(codebook_size=17), "misshapen"),
    ],
)
def test_damaged_models_are_one_clear_line(
    stage: str,
    file: str,
    damage: Callable[[Path], None],
    message: str,
    model: Path,
    tmp_path: Path,
    capsys: Any,
) -> None:
    for name in ("tokenizer", "prior"):
        shutil.copytree(model / name, tmp_path / name)
    damage(tmp_path / stage / file)
    assert run("sample", "--model", tmp_path, "--n", "1") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    assert message in lines[0]
    assert f"{tmp_path / stage}/" in lines[0]
    assert not (tmp_path / "samples").exists()


def test_a_prior_with_another_tokenizer_is_refused(
    model: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(model / "prior", tmp_path / "prior")
    command = ["tokenizer", "train", "--data", images, "--model", tmp_path, "--steps", "1", *SMALL_TOKENIZER]
    assert run(*command) == 0
    assert run("sample", "--model", tmp_path, "--n", "1") == 1
    assert "another tokenizer" in capsys.readouterr().err.splitlines()[-1]


def test_the_public_names_are_sorted_and_complete() -> None:
    import imgtf

    assert sorted(imgtf.__all__) == imgtf.__all__
    assert all(hasattr(imgtf, name) for name in imgtf.__all__)
    assert imgtf.Tokenizer(TokenizerConfig()).config.factor == 4
    with pytest.raises(AttributeError):
        imgtf.Tokeniser  # noqa: B018


def test_tokenizer_eval_adds_lpips_where_the_weights_are(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    torchvision = import_with_torchvision("torchvision.models")
    file = tmp_path / "checkpoints" / BACKBONE_FILES["squeeze"]
    file.parent.mkdir()
    torch.save(torchvision.squeezenet1_1(weights=None).state_dict(), file)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert run("tokenizer", "eval", "--model", model, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert {"psnr", "ssim", "lpips", "frechet_lpips_features", "usage", "perplexity"} <= set(figures)
    file.unlink()
    assert run("tokenizer", "eval", "--model", model, "--json") == 0
    said = capsys.readouterr()
    assert "no LPIPS" in said.err
    assert "ssim" in json.loads(said.out)
    assert "lpips" not in json.loads(said.out)


def test_reconstruct_keeps_images_of_the_same_name_apart(model: Path, images: Path, tmp_path: Path) -> None:
    paths = [images / name / "0.png" for name in ("red", "green", "blue")]
    assert run("tokenizer", "reconstruct", *paths, "--model", model, "--out", tmp_path) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0-2.png", "0-3.png", "0.png"]


@pytest.mark.parametrize("precision", ["bf16", "int8", torch.bfloat16])
def test_a_cast_prior_samples_and_keeps_its_identity(
    model: Path, tmp_path: Path, precision: str | torch.dtype
) -> None:
    whole, cast = Pipeline.from_pretrained(model), Pipeline.from_pretrained(model, precision=precision)
    assert cast.prior.dtype.itemsize == 2
    assert cast.tokenizer.dtype == torch.float32
    assert cast.prior_sha256() == whole.prior_sha256() == whole.prior.weights_sha256()
    assert len(cast.sample(n=2, cfg_scale=2.0)) == 2
    with pytest.raises(ConfigError, match="fp32"):
        cast.save_pretrained(tmp_path)


@pytest.mark.parametrize("precision", ["int4", torch.int16])
def test_an_unknown_precision_is_refused(model: Path, precision: Any) -> None:
    with pytest.raises(ConfigError, match="int"):
        Pipeline.from_pretrained(model, precision=precision)


def test_auto_precision_depends_on_width_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, wide = (PriorConfig(grid=(2, 2), codebook_size=4, width=w) for w in (128, 1024))
    cpu = torch.device("cpu")
    for fast, expected in ((True, ["fp32", "bf16"]), (False, ["fp32", "fp32"])):
        monkeypatch.setattr(precision_module, "fast_bf16_cpu", lambda fast=fast: fast)
        assert [sampling_precision("auto", config, cpu) for config in (narrow, wide)] == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": None}, {"seed": -1}, {"seed": 10**20}, {"seed": 1.5}, {"first": 2**64 - 1}, {"label": []},
        {"n": True}, {"batch_size": "8"}, {"text": "a cat"}, {"label": 3}, {"label": -1}, {"label": True},
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_clear_error(model: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Pipeline.from_pretrained(model).sample(**{"n": 2} | wrong)


def test_numpy_numbers_are_numbers(model: Path) -> None:
    pipeline = Pipeline.from_pretrained(model)
    plain = list(pipeline.stream(3, label=[2, 0], seed=5, top_k=4))
    numpy = list(pipeline.stream(np.int32(3), label=np.array([2, 0]), seed=np.uint64(5), top_k=np.int64(4)))
    assert all(torch.equal(a.codes, b.codes) for a, b in zip(plain, numpy, strict=True))
    assert [s.label for s in numpy] == ["red", "blue", "red"]


def test_a_pipeline_is_called_moved_and_shown(model: Path) -> None:
    pipeline = Pipeline.from_pretrained(model)
    assert pipeline(2, seed=3) == pipeline.sample(2, seed=3) == pipeline.to("cpu").sample(2, seed=3)
    assert "16x16 px" in repr(pipeline)
    assert "label" in repr(pipeline)


def test_every_sampling_setting_is_a_named_argument() -> None:
    settings = {f.name for f in fields(SamplingConfig)}
    parameters = inspect.signature(Pipeline.sample).parameters
    assert settings <= set(parameters)
    assert all(p.annotation is not p.empty for name, p in parameters.items() if name != "self")
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert set(SamplingOptions.__annotations__) == settings


@pytest.mark.parametrize(("options", "compile"), [([], False), (["--compile"], True)])
def test_compile_reaches_the_decoder_and_the_record(
    options: list[str], compile: bool, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run("sample", "--model", model, "--n", "1", "--out", out, *options) == 0
    record = json.loads((out / "samples.json").read_text())
    assert record["compile"] is compile
    assert record["capture"] is False
    assert Pipeline.from_pretrained(model, compile=compile).decoder.compile is compile
