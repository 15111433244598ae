"""Import into a folder and export out of it: round trips, pairs, what is asked for, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from imgtf import Pipeline, Prior, Tokenizer
from imgtf.errors import CheckpointError, ConfigError
from imgtf.interop.vqgan import unit_length
from imgtf.pipelines.exchange import export_weights, import_weights
from imgtf.prior.config import PriorConfig
from imgtf.tokenizer.config import TokenizerConfig

from . import reference as ref
from .conftest import gpt_state, vqgan_state

HINTS: dict[str, Any] = {"heads": ref.HEADS, "image_size": 16 * ref.SIDE}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize(
    ("family", "stage", "make", "hints"),
    [
        ("taming", "tokenizer", lambda: vqgan_state("taming"), {"image_size": 8}),
        ("llamagen", "tokenizer", lambda: vqgan_state("llamagen"), {"image_size": 8}),
        ("taming", "prior", lambda: gpt_state("taming"), HINTS | {"classes": 7}),
        ("taming", "prior", lambda: gpt_state("taming"), HINTS | {"classes": 0}),
        ("llamagen", "prior", lambda: gpt_state("class"), HINTS),
        ("llamagen", "prior", lambda: gpt_state("text"), HINTS),
    ],
)
def test_export_and_import_come_back_bit_for_bit(
    family: str, stage: str, make: Any, hints: dict[str, Any], tmp_path: Path, write: Any
) -> None:
    published = make()
    import_weights(family, [write("there.pt", {"model": dict(published)})], tmp_path / "a", **hints)
    export_weights(family, tmp_path / "a", tmp_path / "back.safetensors")
    exported = load_file(tmp_path / "back.safetensors")
    if family == "llamagen" and stage == "tokenizer":
        table = published["quantize.embedding.weight"]
        torch.testing.assert_close(
            exported["quantize.embedding.weight"], table / table.norm(dim=1, keepdim=True)
        )
        published["quantize.embedding.weight"] = exported["quantize.embedding.weight"]
    same(exported, dict(published))
    import_weights("auto", [tmp_path / "back.safetensors"], tmp_path / "b", **hints)
    same(*(load_file(tmp_path / m / stage / "model.safetensors") for m in "ab"))
    assert len({(tmp_path / m / stage / "config.json").read_text() for m in "ab"}) == 1


def test_a_codebook_of_unit_length_stays_as_it_is() -> None:
    once = unit_length(torch.randn(5000, 8))
    assert torch.equal(unit_length(once), once)


def both(write: Any, kind: str = "class") -> list[Path]:
    """A tokenizer and a prior that belong together, prior first."""
    vq = vqgan_state("llamagen")
    vq["quantize.embedding.weight"] = vq["quantize.embedding.weight"][: ref.VOCABULARY].clone()
    return [write("gpt.pt", {"model": dict(gpt_state(kind))}), write("vq.pt", {"model": dict(vq)})]


def test_an_imported_pair_samples_pictures(tmp_path: Path, write: Any) -> None:
    written = import_weights(
        "llamagen", both(write), tmp_path / "m", heads=ref.HEADS, image_size=2 * ref.SIDE
    )
    assert written == [tmp_path / "m" / "tokenizer", tmp_path / "m" / "prior"]
    pipeline = Pipeline.from_pretrained(tmp_path / "m")
    assert pipeline.prior.config.tokenizer_sha256 == pipeline.tokenizer.weights_sha256()
    assert pipeline.prior.config.grid == pipeline.tokenizer.config.grid == (ref.SIDE, ref.SIDE)
    assert [p.size for p in pipeline.sample(n=2, label="3")] == [(2 * ref.SIDE, 2 * ref.SIDE)] * 2


def test_an_imported_prior_by_text_samples_pictures_of_features(tmp_path: Path, write: Any) -> None:
    """As the README says it."""
    files = both(write, "text")
    import_weights("llamagen", files, tmp_path / "m", heads=ref.HEADS, image_size=2 * ref.SIDE)
    pipeline = Pipeline.from_pretrained(tmp_path / "m")
    shape = pipeline.prior.config.condition("features")
    features = torch.randn(2, shape.tokens, shape.width)
    images = pipeline.sample(n=2, features=features)
    assert [image.size for image in images] == [(2 * ref.SIDE, 2 * ref.SIDE)] * 2
    with pytest.raises(ConfigError, match="pass features, not text"):
        pipeline.sample(n=1, text="a cat")


def test_the_card_keeps_the_origin_of_both_stages(tmp_path: Path, write: Any) -> None:
    gpt, vq = both(write)
    import_weights("auto", [vq], tmp_path / "m", image_size=2 * ref.SIDE)
    import_weights("auto", [gpt], tmp_path / "m", heads=ref.HEADS)
    card = (tmp_path / "m" / "README.md").read_text()
    for words in ("imported from `vq.pt`", "imported from `gpt.pt`", "MIT", "cfg_scale 1"):
        assert card.count(words) >= 1, words


def test_a_prior_of_other_codes_is_refused_beside_a_tokenizer(tmp_path: Path, write: Any) -> None:
    import_weights("auto", [write("vq.pt", dict(vqgan_state("taming")))], tmp_path / "m", image_size=8)
    gpt = write("gpt.pt", dict(gpt_state("taming")))
    with pytest.raises(CheckpointError, match=f"{ref.CODES} codes, the prior {ref.VOCABULARY}"):
        import_weights("auto", [gpt], tmp_path / "m", heads=ref.HEADS, classes=0)
    assert not (tmp_path / "m" / "prior").exists()


def test_what_is_there_is_replaced_only_by_force(tmp_path: Path, write: Any) -> None:
    file = write("vq.pt", dict(vqgan_state("taming")))
    import_weights("auto", [file], tmp_path / "m", image_size=8)
    with pytest.raises(CheckpointError, match="--force"):
        import_weights("auto", [file], tmp_path / "m", image_size=8)
    import_weights("auto", [file], tmp_path / "m", image_size=8, force=True)


def broken(state: dict[str, Tensor], how: str) -> str:
    """Breaks one tensor of a state dict and returns its name."""
    name = sorted(n for n in state if "mid" in n or "ln1" in n or "ffn_norm" in n)[0]
    if how == "missing":
        del state[name]
    elif how == "misshapen":
        state[name] = torch.zeros(7)
    else:
        name = state_name = "surprise.weight"
        state[state_name] = torch.zeros(2)
    return name


@pytest.mark.parametrize("how", ["missing", "misshapen", "unknown"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: vqgan_state("taming"), lambda: vqgan_state("llamagen"), lambda: gpt_state("taming"),
        lambda: gpt_state("class"), lambda: gpt_state("text"),
    ],
)  # fmt: skip
def test_wrong_tensors_are_listed_by_name(make: Any, how: str, tmp_path: Path, write: Any) -> None:
    state = dict(make())
    name = broken(state, how)
    with pytest.raises(CheckpointError, match=f"{how} {name}"):
        import_weights(
            "auto", [write("x.pt", state)], tmp_path / "m", classes=3, heads=ref.HEADS, image_size=8
        )
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "name", ["encoder.conv_in.weight", "quantize.embedding.weight", "encoder.conv_out.weight"]
)
def test_a_missing_tensor_that_tells_a_size_is_named_too(name: str, tmp_path: Path, write: Any) -> None:
    state = dict(vqgan_state("taming"))
    del state[name]
    with pytest.raises(CheckpointError, match=f"missing {name}"):
        import_weights("taming", [write("x.pt", state)], tmp_path / "m", image_size=8)


def test_a_file_of_the_other_family_is_refused(tmp_path: Path, write: Any) -> None:
    with pytest.raises(CheckpointError, match="no llamagen weights: it is taming"):
        import_weights("llamagen", [write("x.pt", dict(vqgan_state("taming")))], tmp_path / "m")


def test_heads_are_asked_for_where_no_published_width_tells(tmp_path: Path, write: Any) -> None:
    file = write("x.pt", dict(gpt_state("class")))
    with pytest.raises(CheckpointError, match="--heads"):
        import_weights("auto", [file], tmp_path / "m")
    with pytest.raises(CheckpointError, match="--heads"):
        import_weights("auto", [file], tmp_path / "m", heads=3)


TRANSFORMER_YAML = f"""
model:
  target: taming.models.cond_transformer.Net2NetTransformer
  params:
    transformer_config: {{params: {{n_head: {ref.HEADS}}}}}
    first_stage_config:
      params: {{n_embed: {ref.VOCABULARY}, ddconfig: {{resolution: 6, ch: 32}}}}
    cond_stage_config: {{target: taming.modules.util.Labelator, params: {{n_classes: 7}}}}
"""


def net2net(write: Any) -> Path:
    """A transformer's Lightning checkpoint: its VQGAN, its GPT with mask buffers, and the losses' networks."""
    vq, gpt = vqgan_state("taming"), gpt_state("taming")
    vq["quantize.embedding.weight"] = vq["quantize.embedding.weight"][: ref.VOCABULARY].clone()
    state = {f"first_stage_model.{k}": v for k, v in vq.items()} | {
        f"transformer.{k}": v for k, v in gpt.items()
    }
    state["first_stage_model.loss.perceptual_loss.lin0.weight"] = torch.zeros(3)
    state["transformer.blocks.0.attn.mask"] = torch.ones(1, 1, 9, 9)
    return write("last.ckpt", {"state_dict": state, "epoch": 1})


def test_a_taming_transformer_brings_its_vqgan_and_its_yaml_tells_the_rest(
    tmp_path: Path, write: Any
) -> None:
    (tmp_path / "project.yaml").write_text(TRANSFORMER_YAML)
    import_weights("auto", [net2net(write), tmp_path / "project.yaml"], tmp_path / "m")
    pipeline = Pipeline.from_pretrained(tmp_path / "m")
    assert pipeline.tokenizer.config.image_size == 6
    assert (pipeline.prior.config.heads, pipeline.prior.config.classes) == (ref.HEADS, 7)
    assert len(pipeline.sample(n=1)) == 1


def test_one_stage_of_a_checkpoint_with_both(tmp_path: Path, write: Any) -> None:
    file = net2net(write)
    import_weights("taming", [file], tmp_path / "m", stage="prior", heads=ref.HEADS, classes=0)
    assert not (tmp_path / "m" / "tokenizer").exists()
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        import_weights(
            "taming", [write("g.pt", dict(gpt_state("taming")))], tmp_path / "n", stage="tokenizer"
        )


def test_a_yaml_of_another_model_is_refused(tmp_path: Path, write: Any) -> None:
    (tmp_path / "project.yaml").write_text(TRANSFORMER_YAML.replace("ch: 32", "ch: 128"))
    with pytest.raises(CheckpointError, match="ch is 128, that of the tensors 32"):
        import_weights("auto", [net2net(write), tmp_path / "project.yaml"], tmp_path / "m")


def test_a_taming_prior_without_yaml_asks_for_its_classes(tmp_path: Path, write: Any) -> None:
    with pytest.raises(CheckpointError, match="--classes"):
        import_weights("auto", [write("x.pt", dict(gpt_state("taming")))], tmp_path / "m", heads=ref.HEADS)


def test_a_model_that_a_family_has_no_network_for_is_not_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    Prior(PriorConfig(grid=(3, 3), codebook_size=8, width=32, heads=2)).save_pretrained(tmp_path / "prior")
    Tokenizer(TokenizerConfig(norm_groups=16)).save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(CheckpointError, match="position"):
        export_weights("llamagen", tmp_path, tmp_path / "x.safetensors", stage="prior")
    with pytest.raises(CheckpointError, match="norm_groups"):
        export_weights("llamagen", tmp_path, tmp_path / "x.safetensors", stage="tokenizer")
    with pytest.raises(CheckpointError, match="--stage"):
        export_weights("llamagen", tmp_path, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_tokenizer_of_ours_with_the_published_parts_is_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    Tokenizer(TokenizerConfig(codebook_size=16)).save_pretrained(tmp_path / "a" / "tokenizer")
    export_weights("llamagen", tmp_path / "a", tmp_path / "x.safetensors")
    import_weights("llamagen", [tmp_path / "x.safetensors"], tmp_path / "b", image_size=32)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    codes = [Tokenizer.from_pretrained(tmp_path / m / "tokenizer").encode(image) for m in "ab"]
    assert torch.equal(*codes)


@pytest.mark.parametrize(
    "content", ["model: {params: 3}", "model: {params: {transformer_config: [], ddconfig: 1}}"]
)
def test_a_yaml_of_another_make_up_tells_nothing(content: str, tmp_path: Path, write: Any) -> None:
    (tmp_path / "project.yaml").write_text(content)
    files = [write("g.pt", dict(gpt_state("taming"))), tmp_path / "project.yaml"]
    with pytest.raises(CheckpointError, match="--classes"):
        import_weights("auto", files, tmp_path / "m", heads=ref.HEADS)
    import_weights(
        "auto", [write("v.pt", dict(vqgan_state("taming"))), files[1]], tmp_path / "m", image_size=8
    )
