"""diffusers' VQModel: goldens, its config.json, its folders, export."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from imgtf import Tokenizer
from imgtf.cli import main
from imgtf.commands.exchange import FAMILIES
from imgtf.errors import CheckpointError, ConfigError
from imgtf.interop import families
from imgtf.interop.diffusers import to_euclidean
from imgtf.interop.vqmodel_config import DEFAULTS, from_vqmodel, to_vqmodel
from imgtf.pipelines.exchange import export_weights, import_weights
from imgtf.prior.config import PriorConfig
from imgtf.prior.model import Prior
from imgtf.tokenizer.config import TokenizerConfig

from .conftest import vqgan_state

WEIGHTS = "diffusion_pytorch_model"
TINY = TokenizerConfig(
    image_size=16,
    width=8,
    multipliers=(1, 2),
    norm_groups=4,
    latent_width=6,
    codebook_size=20,
    codebook_dim=5,
)
VARIANTS: dict[str, dict[str, Any]] = {
    "cosine": {},
    "euclidean": {"codebook_distance": "euclidean"},
    "attention": {"multipliers": (1, 2, 2), "attention_levels": (1, 2), "blocks": 2},
    "grey": {"channels": 1, "middle_attention": False},
    "wide": {"image_size": (16, 24), "codebook_dim": 6},
}
SETTINGS = to_vqmodel(TINY)


def tokenizer(folder: Path, config: TokenizerConfig = TINY) -> Path:
    """A model folder with a random tokenizer whose codes are all far from the others."""
    torch.manual_seed(0)
    model = Tokenizer(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder / "tokenizer")
    return folder


def vqmodel(folder: Path, settings: dict[str, Any] | None = None, tensors: Any = None) -> Path:
    """A folder of a VQModel: a tiny one, or one of given settings and tensors."""
    if tensors is None:
        export_weights("diffusers", tokenizer(folder.parent / "source"), folder)
        tensors = load_file(folder / f"{WEIGHTS}.safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{WEIGHTS}.safetensors")
    (folder / "config.json").write_text(json.dumps(settings or SETTINGS), encoding="utf-8")
    return folder


def read(folder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(folder / "tokenizer", "cpu")


def images(config: TokenizerConfig = TINY) -> Tensor:
    return torch.rand(2, config.channels, *config.size, generator=torch.Generator().manual_seed(1)) * 2 - 1


# --- goldens ---


@pytest.mark.parametrize("name", ["ldm", "amused", "oldnames"])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@torch.no_grad()
def test_a_published_folder_equals_the_reference(golden: Any, name: str, suffix: str, tmp_path: Path) -> None:
    state, config, tensors = golden(f"diffusers_vq_{name}")
    vqmodel(tmp_path / "vqvae", config["diffusers_config"], state)
    if suffix == "bin":
        (tmp_path / "vqvae" / f"{WEIGHTS}.safetensors").unlink()
        torch.save(state, tmp_path / "vqvae" / f"{WEIGHTS}.bin")
    import_weights("auto", [tmp_path / "vqvae"], tmp_path / "m")
    model = read(tmp_path / "m")
    latents = model.to_codebook(model.encoder(tensors["image"]))
    torch.testing.assert_close(latents, tensors["latent"], atol=1e-4, rtol=0)
    assert torch.equal(model.encode(tensors["image"]), tensors["codes"])
    decoded = model.decode_vectors(model.quantizer.lookup(tensors["codes"]))
    torch.testing.assert_close(decoded, tensors["decoded"], atol=1e-4, rtol=0)


def test_a_movq_is_refused_in_one_line(golden: Any, tmp_path: Path) -> None:
    state, config, _ = golden("diffusers_vq_movq")
    vqmodel(tmp_path / "movq", config["diffusers_config"], state)
    with pytest.raises(CheckpointError, match=r"norm_type is 'spatial'.*MoVQ"):
        import_weights("diffusers", [tmp_path / "movq"], tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_the_export_of_an_import_has_the_same_tensors(golden: Any, tmp_path: Path) -> None:
    state, config, _ = golden("diffusers_vq_ldm")
    vqmodel(tmp_path / "vqvae", config["diffusers_config"], state)
    import_weights("auto", [tmp_path / "vqvae"], tmp_path / "m", image_size=32)
    export_weights("diffusers", tmp_path / "m", tmp_path / "back")
    exported = load_file(tmp_path / "back" / f"{WEIGHTS}.safetensors")
    assert exported.keys() == state.keys()
    assert [name for name in state if not torch.equal(exported[name], state[name])] == []
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    wanted = config["diffusers_config"]
    assert {key: written[key] for key in wanted} == wanted


# --- config.json ---


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS)
def test_the_settings_of_a_tokenizer_come_back(change: dict[str, Any]) -> None:
    config = replace(TINY, codebook_distance="euclidean", dead_code_threshold=0.0)
    config = replace(config, **{k: v for k, v in change.items() if k != "codebook_distance"})
    settings = json.loads(json.dumps(to_vqmodel(config)))
    assert from_vqmodel(settings, None) == config


def test_missing_keys_have_the_defaults_of_the_class() -> None:
    config = from_vqmodel({}, 64)
    assert (config.width, config.multipliers, config.blocks, config.norm_groups) == (64, (1,), 1, 32)
    assert (config.latent_width, config.codebook_dim, config.codebook_size) == (3, 3, 256)
    assert config.middle_attention
    assert from_vqmodel({"latent_channels": 7}, 64).codebook_dim == 7


def test_widths_are_multiples_of_the_first() -> None:
    amused = {
        "block_out_channels": [128, 256, 256, 512, 768],
        "down_block_types": ["DownEncoderBlock2D"] * 5,
        "up_block_types": ["UpDecoderBlock2D"] * 5,
    }
    config = from_vqmodel(amused, None)
    assert (config.width, config.multipliers, config.image_size) == (128, (1, 2, 2, 4, 6), 256)


def test_the_default_sample_size_is_not_the_image_size(caplog: Any) -> None:
    with caplog.at_level(logging.INFO, "imgtf"):
        assert from_vqmodel(SETTINGS | {"sample_size": 48}, None).image_size == 48
        assert from_vqmodel(SETTINGS | {"sample_size": 32}, None).image_size == 32
        assert caplog.text == ""
        settings = {key: value for key, value in SETTINGS.items() if key != "_imgtf_version"}
        assert from_vqmodel(settings | {"sample_size": 32}, None).image_size == 256
    assert "the image size is set to 256; --image-size" in caplog.text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("norm_type", "spatial"), ("act_fn", "gelu"), ("act_fn", None), ("out_channels", 4), ("in_channels", "3"),
        ("block_out_channels", [8, 12]), ("block_out_channels", []), ("block_out_channels", 8),
        ("block_out_channels", [0, 8]), ("block_out_channels", ["8", 16]), ("layers_per_block", 0),
        ("layers_per_block", 1.5), ("norm_num_groups", None), ("num_vq_embeddings", True), ("vq_embed_dim", -1),
        ("down_block_types", ["DownEncoderBlock2D"]), ("down_block_types", "DownEncoderBlock2D"),
        ("down_block_types", ["DownBlock2D", "DownEncoderBlock2D"]), ("up_block_types", None),
        ("up_block_types", ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"]), ("sample_size", "big"),
        ("sample_size", 33), ("norm_num_groups", 3),
    ],
)  # fmt: skip
def test_what_no_tokenizer_computes_is_refused_and_named(key: str, value: Any, tmp_path: Path) -> None:
    folder = vqmodel(tmp_path / "vq")
    (folder / "config.json").write_text(json.dumps(SETTINGS | {key: value}))
    named = {"sample_size": "(image|sample)_size", "norm_num_groups": "norm_(num_)?groups"}.get(key, key)
    with pytest.raises(CheckpointError, match=f"config.json: .*{named}"):
        import_weights("diffusers", [folder], tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_config_of_other_tensors_is_refused_by_their_names(tmp_path: Path) -> None:
    folder = vqmodel(tmp_path / "vq")
    (folder / "config.json").write_text(json.dumps(SETTINGS | {"num_vq_embeddings": 21}))
    with pytest.raises(CheckpointError, match=r"misshapen quantize.embedding.weight is \[20, 5\]"):
        import_weights("diffusers", [folder], tmp_path / "m")


def test_the_defaults_are_complete() -> None:
    assert DEFAULTS.keys() <= to_vqmodel(TINY).keys()


# --- folders ---


def same_import(path: Path, tmp_path: Path) -> None:
    """The import has the codes of the tokenizer that `vqmodel` exported."""
    import_weights("auto", [path], tmp_path / "m", force=True)
    a, b = read(tmp_path / "m"), read(tmp_path / "source")
    assert torch.equal(a.encode(images()), b.encode(images()))


def test_the_folder_the_file_and_the_pipeline_give_the_same(tmp_path: Path, caplog: Any) -> None:
    folder = vqmodel(tmp_path / "vq")
    for path in (folder, folder / f"{WEIGHTS}.safetensors"):
        same_import(path, tmp_path)
    (tmp_path / "pipe" / "unet").mkdir(parents=True)
    (tmp_path / "pipe" / "unet" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    for name in ("vqvae", "movq", "vqmodel"):
        folder = folder.rename(tmp_path / "pipe" / name)
        with caplog.at_level(logging.INFO, "imgtf"):
            same_import(tmp_path / "pipe", tmp_path)
        assert f"pipe: reading {name}" in caplog.text
    assert "of a VQModel of diffusers" in (tmp_path / "m" / "tokenizer" / "origin.txt").read_text()


def test_variants_are_read_where_there_is_nothing_else_and_are_named(tmp_path: Path, caplog: Any) -> None:
    folder = vqmodel(tmp_path / "vq")
    half = {name: tensor.half() for name, tensor in load_file(folder / f"{WEIGHTS}.safetensors").items()}
    save_file(half, folder / f"{WEIGHTS}.fp16.safetensors")
    with caplog.at_level(logging.INFO, "imgtf"):
        import_weights("diffusers", [folder], tmp_path / "m")
        assert "variant" not in caplog.text
        (folder / f"{WEIGHTS}.safetensors").unlink()
        import_weights("diffusers", [folder], tmp_path / "n")
    assert f"reading the variant {WEIGHTS}.fp16.safetensors" in caplog.text
    assert read(tmp_path / "n").dtype == torch.float32


def no_config(folder: Path) -> str:
    (folder / "config.json").unlink()
    return "no VQModel"


def no_weights(folder: Path) -> str:
    (folder / f"{WEIGHTS}.safetensors").unlink()
    return "no weights"


def other_class(folder: Path) -> str:
    (folder / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    return "AutoencoderKL"


def no_class(folder: Path) -> str:
    (folder / "config.json").write_text("{}")
    return "_class_name"


def damaged_config(folder: Path) -> str:
    (folder / "config.json").write_text("{")
    return "config.json"


def two_models(folder: Path) -> str:
    text = (folder / "config.json").read_text()
    (folder / "config.json").unlink()
    for name in ("movq", "vqvae"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(text)
    return "movq and vqvae"


@pytest.mark.parametrize(
    "damage",
    [no_config, no_weights, other_class, no_class, damaged_config, two_models],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("family", ["auto", "diffusers"])
def test_bad_folders_give_one_line_and_write_nothing(
    damage: Any, family: str, tmp_path: Path, capsys: Any
) -> None:
    words = damage(vqmodel(tmp_path / "vq"))
    with pytest.raises(SystemExit) as stopped:
        main(["import", family, str(tmp_path / "vq"), "--model", str(tmp_path / "m")])
    assert stopped.value.code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
    assert len(lines) == 1
    assert words in lines[0]
    assert not (tmp_path / "m").exists()


def test_weights_without_their_config_and_with_a_yaml_are_refused(tmp_path: Path) -> None:
    file = vqmodel(tmp_path / "vq") / f"{WEIGHTS}.safetensors"
    (tmp_path / "model.yaml").write_text("model: {params: {embed_dim: 3}}")
    with pytest.raises(CheckpointError, match="no YAML"):
        import_weights("auto", [file, tmp_path / "model.yaml"], tmp_path / "m")
    (tmp_path / "vq" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"need the config\.json"):
        import_weights("auto", [file], tmp_path / "m")


def test_weights_of_other_families_are_not_taken_for_a_vqmodel(tmp_path: Path, write: Any) -> None:
    with pytest.raises(CheckpointError, match="no diffusers weights: they are of taming"):
        import_weights("diffusers", [write("x.pt", dict(vqgan_state("taming")))], tmp_path / "m")
    with pytest.raises(CheckpointError, match="no taming weights: they are of diffusers"):
        import_weights("taming", [vqmodel(tmp_path / "vq")], tmp_path / "m")


def test_images_in_another_range_are_announced(tmp_path: Path, caplog: Any) -> None:
    folder = vqmodel(tmp_path / "vq", SETTINGS | {"lookup_from_codebook": True})
    with caplog.at_level(logging.INFO, "imgtf"):
        import_weights("diffusers", [folder], tmp_path / "m")
    assert "aMUSEd" in caplog.text


# --- export ---


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS)
@torch.no_grad()
def test_an_exported_tokenizer_imports_with_the_same_codes_and_images(
    change: dict[str, Any], tmp_path: Path
) -> None:
    config = replace(TINY, **change)
    assert export_weights("diffusers", tokenizer(tmp_path / "a", config), tmp_path / "vq") == tmp_path / "vq"
    assert sorted(p.name for p in (tmp_path / "vq").iterdir()) == ["config.json", f"{WEIGHTS}.safetensors"]
    import_weights("auto", [tmp_path / "vq"], tmp_path / "b")
    a, b = read(tmp_path / "a"), read(tmp_path / "b")
    assert b.config.image_size == config.image_size
    codes = a.encode(images(config))
    assert len(codes.unique()) > 2
    assert torch.equal(b.encode(images(config)), codes)
    assert torch.equal(b.decode(codes), a.decode(codes))


def test_cosine_and_euclidean_distance_agree_for_codes_of_length_one(tmp_path: Path) -> None:
    model = read(tokenizer(tmp_path))
    twin = to_euclidean(model)
    latents = torch.randn(4, 5, 8, 8, generator=torch.Generator().manual_seed(2)) * 3
    assert torch.equal(model.quantizer(latents).codes, twin.quantizer(latents).codes)
    model.quantizer.vq._codebook.embed[0, 3] *= 1.01
    with pytest.raises(CheckpointError, match="not of length 1"):
        to_euclidean(model)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"network": "vit", "width": 32, "patch": 4}, "network is vit"),
        ({"quantizer": "simvq"}, "quantizer is simvq"),
        ({"quantizer": "fsq"}, "quantizer is fsq"),
        ({"quantizer": "lfq", "codebook_size": 16}, "quantizer is lfq"),
        ({"quantizer": "residual_vq"}, "quantizer is residual_vq"),
        ({"multipliers": (2, 2)}, "first multiplier is 2"),
    ],
)
def test_other_tokenizers_are_refused_with_the_reason(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    Tokenizer(replace(TINY, **change)).save_pretrained(tmp_path / "m" / "tokenizer")
    with pytest.raises(CheckpointError, match=f"diffusers cannot represent this tokenizer: .*{reason}"):
        export_weights("diffusers", tmp_path / "m", tmp_path / "vq")
    assert not (tmp_path / "vq").exists()


def test_only_the_tokenizer_of_a_model_is_exported(tmp_path: Path) -> None:
    Prior(PriorConfig(grid=(3, 3), codebook_size=8, width=32, heads=2)).save_pretrained(
        tmp_path / "m" / "prior"
    )
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        export_weights("diffusers", tmp_path / "m", tmp_path / "vq")
    tokenizer(tmp_path / "m")
    with pytest.raises(CheckpointError, match="--stage tokenizer"):
        export_weights("diffusers", tmp_path / "m", tmp_path / "vq", stage="prior")
    export_weights("diffusers", tmp_path / "m", tmp_path / "vq")
    with pytest.raises(ConfigError, match="--force"):
        export_weights("diffusers", tmp_path / "m", tmp_path / "vq")
    export_weights("diffusers", tmp_path / "m", tmp_path / "vq", force=True)


def test_a_folder_is_not_a_file_and_a_file_no_folder(tmp_path: Path) -> None:
    tokenizer(tmp_path / "m")
    with pytest.raises(ConfigError, match="name a folder"):
        export_weights("diffusers", tmp_path / "m", tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="is a folder"):
        export_weights("taming", tmp_path / "m", tmp_path / "m", stage="tokenizer", force=True)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        export_weights("diffusers", tmp_path / "m", tmp_path / "file")


def test_the_commands_have_all_families() -> None:
    assert list(FAMILIES) == list(families.FAMILIES)


def test_the_commands_write_and_read_the_folder(tmp_path: Path, capsys: Any) -> None:
    for arguments in (
        ["export", "diffusers", str(tmp_path / "vq"), "--model", str(tokenizer(tmp_path / "a"))],
        ["import", "diffusers", str(tmp_path / "vq"), "--model", str(tmp_path / "b")],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert not stopped.value.code
    assert capsys.readouterr().out.split() == [str(tmp_path / "vq"), str(tmp_path / "b" / "tokenizer")]
