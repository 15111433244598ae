"""Import into a model folder and export from it: round trips, pairs of stages, errors."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from imgtf import Pipeline, Prior, Tokenizer
from imgtf.errors import CheckpointError, ConfigError
from imgtf.interop.families import IGNORED
from imgtf.interop.vqgan import unit_length
from imgtf.pipelines.exchange import export_weights, import_weights
from imgtf.prior.conditions.base import ConditionConfig
from imgtf.prior.conditions.label import LabelConfig
from imgtf.prior.config import PriorConfig, SamplingConfig
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
def test_export_of_an_import_is_equal_bit_for_bit(
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


def test_a_normalised_codebook_is_unchanged() -> None:
    once = unit_length(torch.randn(5000, 8))
    assert torch.equal(unit_length(once), once)


def both(write: Any, kind: str = "class") -> list[Path]:
    """A prior and the tokenizer of its codes."""
    vq = vqgan_state("llamagen")
    vq["quantize.embedding.weight"] = vq["quantize.embedding.weight"][: ref.VOCABULARY].clone()
    return [write("gpt.pt", {"model": dict(gpt_state(kind))}), write("vq.pt", {"model": dict(vq)})]


def test_an_imported_pair_samples_images(tmp_path: Path, write: Any) -> None:
    written = import_weights(
        "llamagen", both(write), tmp_path / "m", heads=ref.HEADS, image_size=2 * ref.SIDE
    )
    assert written == [tmp_path / "m" / "tokenizer", tmp_path / "m" / "prior"]
    pipeline = Pipeline.from_pretrained(tmp_path / "m")
    assert pipeline.prior.config.tokenizer_sha256 == pipeline.tokenizer.codes_sha256()
    assert pipeline.prior.config.grid == pipeline.tokenizer.config.grid == (ref.SIDE, ref.SIDE)
    assert [p.size for p in pipeline.sample(n=2, label="3")] == [(2 * ref.SIDE, 2 * ref.SIDE)] * 2


def test_an_imported_pair_is_not_square(tmp_path: Path, write: Any) -> None:
    """LlamaGen's positions are computed, so the published networks run on another grid."""
    import_weights("llamagen", both(write), tmp_path / "m", heads=ref.HEADS, image_size=(6, 10))
    pipeline = Pipeline.from_pretrained(tmp_path / "m", "cpu")
    assert pipeline.prior.config.grid == pipeline.tokenizer.config.grid == (3, 5)
    assert [p.size for p in pipeline.sample(n=2, label="3")] == [(10, 6)] * 2
    export_weights("llamagen", tmp_path / "m", tmp_path / "gpt.safetensors", stage="prior")
    same(load_file(tmp_path / "gpt.safetensors"), dict(gpt_state("class")))


def test_the_grid_of_a_prior_is_that_of_the_tokenizer_in_the_folder(tmp_path: Path, write: Any) -> None:
    gpt, vq = both(write)
    import_weights("auto", [vq], tmp_path / "m", image_size="10x6")
    import_weights("auto", [gpt], tmp_path / "m", heads=ref.HEADS)
    assert Pipeline.from_pretrained(tmp_path / "m", "cpu").prior.config.grid == (5, 3)


def test_learned_positions_keep_their_number(tmp_path: Path, write: Any) -> None:
    """taming's positions are a table: another grid is possible only where it has as many positions."""
    state, options = (
        dict(gpt_state("taming")),
        {"heads": ref.HEADS, "classes": 0, "image_size": (2 * 16, 3 * 16)},
    )
    with pytest.raises(
        CheckpointError, match="pos_emb has 9 learned positions, which are not the grid of 2x3 codes"
    ):
        import_weights("auto", [write("gpt.pt", state)], tmp_path / "m", **options)
    assert not (tmp_path / "m").exists()
    state["pos_emb"] = state["pos_emb"][:, :6].clone()
    import_weights("auto", [write("short.pt", state)], tmp_path / "m", **options)
    assert Prior.from_pretrained(tmp_path / "m" / "prior", "cpu").config.grid == (2, 3)
    export_weights("taming", tmp_path / "m", tmp_path / "back.safetensors")
    same(load_file(tmp_path / "back.safetensors"), state)


def test_saved_positions_of_another_grid_are_refused(tmp_path: Path, write: Any) -> None:
    state = dict(gpt_state("class")) | {"freqs_cis": torch.zeros(1 + ref.SIDE**2, 4, 2)}
    options = {"heads": ref.HEADS, "image_size": (2 * 16, 3 * 16)}
    with pytest.raises(CheckpointError, match="9 positions are not the grid of 2x3 codes of the image size"):
        import_weights("auto", [write("gpt.pt", state)], tmp_path / "m", **options)
    state["freqs_cis"] = torch.zeros(1 + 6, 4, 2)
    import_weights("auto", [write("gpt.pt", state)], tmp_path / "m", **options)
    assert Prior.from_pretrained(tmp_path / "m" / "prior", "cpu").config.grid == (2, 3)


def test_an_imported_text_conditional_prior_samples_images(tmp_path: Path, write: Any) -> None:
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


def test_the_model_card_has_the_origin_of_both_stages(tmp_path: Path, write: Any) -> None:
    gpt, vq = both(write)
    import_weights("auto", [vq], tmp_path / "m", image_size=2 * ref.SIDE)
    import_weights("auto", [gpt], tmp_path / "m", heads=ref.HEADS)
    card = (tmp_path / "m" / "README.md").read_text()
    for words in (
        "tokenizer was imported from `vq.pt`",
        "prior was imported from `gpt.pt`",
        "MIT",
        "cfg_scale = 1",
    ):
        assert card.count(words) >= 1, words


def test_a_prior_with_another_codebook_size_is_refused(tmp_path: Path, write: Any) -> None:
    import_weights("auto", [write("vq.pt", dict(vqgan_state("taming")))], tmp_path / "m", image_size=8)
    gpt = write("gpt.pt", dict(gpt_state("taming")))
    with pytest.raises(CheckpointError, match=f"{ref.CODES} codes, the prior {ref.VOCABULARY}"):
        import_weights("auto", [gpt], tmp_path / "m", heads=ref.HEADS, classes=0)
    assert not (tmp_path / "m" / "prior").exists()


def test_an_existing_stage_is_replaced_only_with_force(tmp_path: Path, write: Any) -> None:
    file = write("vq.pt", dict(vqgan_state("taming")))
    import_weights("auto", [file], tmp_path / "m", image_size=8)
    with pytest.raises(CheckpointError, match="--force"):
        import_weights("auto", [file], tmp_path / "m", image_size=8)
    import_weights("auto", [file], tmp_path / "m", image_size=8, force=True)


def test_a_failed_import_keeps_the_old_model(
    tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, run = tmp_path / "m", tmp_path / "m" / "training" / "tokenizer"
    file = write("vq.pt", dict(vqgan_state("taming")))
    import_weights("auto", [file], folder, image_size=8)
    run.mkdir(parents=True)
    before = sorted(folder.rglob("*"))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Tokenizer, "save_config", full)
        with pytest.raises(OSError, match="No space"):
            import_weights("auto", [file], folder, image_size=8, force=True)
    assert sorted(folder.rglob("*")) == before
    with caplog.at_level("INFO", "imgtf"):
        import_weights("auto", [file], folder, image_size=8, force=True)
    assert not run.exists()
    assert f"{run}: the training run of the replaced model is removed" in caplog.text


def broken(state: dict[str, Tensor], how: str) -> str:
    """Damage one tensor of a state dict and return its name."""
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
def test_a_missing_tensor_that_determines_a_size_is_named(name: str, tmp_path: Path, write: Any) -> None:
    state = dict(vqgan_state("taming"))
    del state[name]
    with pytest.raises(CheckpointError, match=f"missing {name}"):
        import_weights("taming", [write("x.pt", state)], tmp_path / "m", image_size=8)


def test_a_file_of_the_other_family_is_refused(tmp_path: Path, write: Any) -> None:
    with pytest.raises(CheckpointError, match="no llamagen weights: they are of taming"):
        import_weights("llamagen", [write("x.pt", dict(vqgan_state("taming")))], tmp_path / "m")


def test_heads_are_required_for_unpublished_widths(tmp_path: Path, write: Any) -> None:
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
    """A transformer's Lightning checkpoint: VQGAN, GPT with mask buffers, and the networks of losses."""
    vq, gpt = vqgan_state("taming"), gpt_state("taming")
    vq["quantize.embedding.weight"] = vq["quantize.embedding.weight"][: ref.VOCABULARY].clone()
    state = {f"first_stage_model.{k}": v for k, v in vq.items()} | {
        f"transformer.{k}": v for k, v in gpt.items()
    }
    state["first_stage_model.loss.perceptual_loss.lin0.weight"] = torch.zeros(3)
    state["transformer.blocks.0.attn.mask"] = torch.ones(1, 1, 9, 9)
    return write("last.ckpt", {"state_dict": state, "epoch": 1})


def test_a_taming_transformer_is_imported_with_its_vqgan_and_its_yaml(tmp_path: Path, write: Any) -> None:
    (tmp_path / "project.yaml").write_text(TRANSFORMER_YAML)
    import_weights("auto", [net2net(write), tmp_path / "project.yaml"], tmp_path / "m")
    pipeline = Pipeline.from_pretrained(tmp_path / "m")
    assert pipeline.tokenizer.config.image_size == 6
    assert (pipeline.prior.config.heads, pipeline.prior.config.classes) == (ref.HEADS, 7)
    assert len(pipeline.sample(n=1)) == 1


def test_one_stage_of_a_checkpoint_with_both_is_imported(tmp_path: Path, write: Any) -> None:
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


def test_classes_are_required_for_a_taming_prior_without_yaml(tmp_path: Path, write: Any) -> None:
    with pytest.raises(CheckpointError, match="--classes"):
        import_weights("auto", [write("x.pt", dict(gpt_state("taming")))], tmp_path / "m", heads=ref.HEADS)


@pytest.mark.parametrize(
    ("kind", "message"), [("class", r"has \d+ classes by its tensors"), ("text", "is conditioned on text")]
)
def test_another_number_of_classes_than_that_of_the_tensors_is_refused(
    kind: str, message: str, tmp_path: Path, write: Any
) -> None:
    file = write("gpt.pt", dict(gpt_state(kind)))
    with pytest.raises(CheckpointError, match=rf"gpt.pt: this prior {message}, not 1000 classes: leave out"):
        import_weights("llamagen", [file], tmp_path / "m", classes=1000, **HINTS)
    assert not (tmp_path / "m").exists()


def test_a_model_that_a_family_cannot_represent_is_not_exported(tmp_path: Path) -> None:
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


def test_a_new_tokenizer_with_published_layers_is_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    Tokenizer(TokenizerConfig(codebook_size=16)).save_pretrained(tmp_path / "a" / "tokenizer")
    export_weights("llamagen", tmp_path / "a", tmp_path / "x.safetensors")
    import_weights("llamagen", [tmp_path / "x.safetensors"], tmp_path / "b", image_size=32)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    codes = [Tokenizer.from_pretrained(tmp_path / m / "tokenizer").encode(image) for m in "ab"]
    assert torch.equal(*codes)


TRAINING_OPTIONS: dict[str, Any] = {
    "dropout": 0.3, "token_dropout": 0.2, "attention_dropout": 0.1, "drop_path": 0.1, "condition_dropout": 0.4,
    "gradient_checkpointing": True, "sampling": SamplingConfig(temperature=0.9),
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "make", "hints"),
    [
        ("taming", lambda: gpt_state("taming"), {"classes": 7}),
        ("taming", lambda: gpt_state("taming"), {"classes": 0}),
        ("llamagen", lambda: gpt_state("class"), {}),
        ("llamagen", lambda: gpt_state("text"), {}),
    ],
)
def test_a_fine_tuned_import_with_other_training_options_is_exported(
    family: str, make: Any, hints: dict[str, Any], tmp_path: Path, write: Any
) -> None:
    published = make()
    import_weights(family, [write("there.pt", dict(published))], tmp_path / "m", **HINTS | hints)
    prior = Prior.from_pretrained(tmp_path / "m" / "prior")
    tuned = Prior(replace(prior.config, **TRAINING_OPTIONS, conditions=renamed(prior.config.conditions)))
    tuned.load_state_dict(prior.state_dict())
    tuned.save_pretrained(tmp_path / "tuned" / "prior")
    export_weights(family, tmp_path / "tuned", tmp_path / "back.safetensors")
    same(load_file(tmp_path / "back.safetensors"), dict(published))


def renamed(conditions: tuple[ConditionConfig, ...]) -> tuple[ConditionConfig, ...]:
    """The conditions with names that no published file holds: of the classes, and of the text encoder."""
    return tuple(
        replace(c, class_names=tuple(f"class {name}" for name in c.class_names))
        if isinstance(c, LabelConfig)
        else replace(c, text_encoder="my/t5")  # type: ignore[call-arg]
        for c in conditions
    )


@pytest.mark.parametrize("family", ["taming", "llamagen"])
def test_a_fine_tuned_tokenizer_with_other_training_options_is_exported(
    family: str, tmp_path: Path, write: Any
) -> None:
    import_weights(family, [write("vq.pt", dict(vqgan_state(family)))], tmp_path / "m", image_size=8)
    model = Tokenizer.from_pretrained(tmp_path / "m" / "tokenizer")
    options = {"codebook_decay": 0.9, "dead_code_threshold": 2.0, "rotation_trick": True, "depth": 7}
    tuned = Tokenizer(replace(model.config, **options, gradient_checkpointing=True))
    tuned.load_state_dict(model.state_dict())
    tuned.save_pretrained(tmp_path / "tuned" / "tokenizer")
    for folder in ("m", "tuned"):
        export_weights(family, tmp_path / folder, tmp_path / f"{folder}.safetensors")
    same(*(load_file(tmp_path / f"{folder}.safetensors") for folder in ("m", "tuned")))


@pytest.mark.parametrize(
    "content", ["model: {params: 3}", "model: {params: {transformer_config: [], ddconfig: 1}}"]
)
def test_a_yaml_file_of_another_structure_is_ignored(content: str, tmp_path: Path, write: Any) -> None:
    (tmp_path / "project.yaml").write_text(content)
    files = [write("g.pt", dict(gpt_state("taming"))), tmp_path / "project.yaml"]
    with pytest.raises(CheckpointError, match="--classes"):
        import_weights("auto", files, tmp_path / "m", heads=ref.HEADS)
    import_weights(
        "auto", [write("v.pt", dict(vqgan_state("taming"))), files[1]], tmp_path / "m", image_size=8
    )


def test_every_ignored_setting_is_a_field() -> None:
    for config_class, names in IGNORED.items():
        assert names <= {field.name for field in fields(config_class)}


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, SamplingConfig):
        return SamplingConfig(temperature=0.5)
    return value + {str: "x", tuple: (4,), int: 8, float: 0.25}[type(value)]


@pytest.mark.parametrize("name", sorted(IGNORED[PriorConfig]))
@torch.no_grad()
def test_ignored_settings_of_a_prior_do_not_change_its_output(name: str) -> None:
    config = PriorConfig(grid=(3, 3), codebook_size=8, width=32, heads=2, depth=2)
    models = [Prior(config), Prior(replace(config, **{name: changed(getattr(config, name))}))]
    models[1].load_state_dict(models[0].state_dict())
    codes = torch.arange(9)[None] % 8
    assert torch.equal(*(model.eval()(codes) for model in models))


@pytest.mark.parametrize("name", sorted(IGNORED[TokenizerConfig]))
@torch.no_grad()
def test_ignored_settings_of_a_tokenizer_do_not_change_its_output(name: str) -> None:
    config = TokenizerConfig(
        image_size=16, channels=1, width=8, multipliers=(1, 2), norm_groups=4, codebook_distance="euclidean"
    )
    value = {"bit_depth": 16, "codebook_decay": 0.5}.get(name, changed(getattr(config, name)))
    models = [Tokenizer(config), Tokenizer(replace(config, **{name: value}))]
    models[1].load_state_dict(models[0].state_dict(), strict=name != "codebook_learned")
    images = torch.rand(2, 1, 16, 16) * 2 - 1
    assert torch.equal(*(model.eval()(images).images for model in models))
