"""The model card: README.md of a model folder."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

from imgtf.pipelines.card import ORIGIN_FILE, write_card
from imgtf.prior.model import Prior


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_card_has_usage_conditions_metrics_and_settings(model: Path) -> None:
    card = (model / "README.md").read_text()
    assert "colour images of 16x16 pixels" in card
    (code,) = blocks(card, "python")
    compile(code, "card", "exec")
    assert "class names: blue, green, red" in card
    assert re.search(r"held-out metrics of the best weights \(step \d of 8\): loss ", card)
    tokenizer, sampling, prior = (tomllib.loads(block) for block in blocks(card, "toml"))
    assert tokenizer == tomllib.loads((model / "tokenizer" / "train.toml").read_text())
    assert prior == tomllib.loads((model / "prior" / "train.toml").read_text())
    assert sampling["top_k"] == Prior.read_config(model / "prior").sampling.top_k


def test_a_card_without_a_prior_shows_reconstruction(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model / "tokenizer", tmp_path / "tokenizer")
    write_card(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "imgtf tokenizer reconstruct" in card
    assert "## Prior" not in card


def test_a_card_of_imported_weights_names_their_origin(model: Path, tmp_path: Path) -> None:
    for stage in ("tokenizer", "prior"):
        shutil.copytree(model / stage, tmp_path / stage)
        (tmp_path / stage / ORIGIN_FILE).write_text(f"`{stage}.pt`\n")
    write_card(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "Imported from `tokenizer.pt`." in card
    assert "Imported from `prior.pt`." in card
    assert "### Training" not in card
