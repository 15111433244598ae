"""The notebooks run, as they are but with few steps, and their committed outputs are small.

The second one loads the model that the first one trained, from a local server in place of the Hub.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from .runtime.hub_server import serve

ROOT = Path(__file__).parents[1]
OWN, PUBLISHED = ROOT / "notebooks" / "own-images.ipynb", ROOT / "notebooks" / "published-model.ipynb"
MAX_BYTES = 200_000
pytestmark = pytest.mark.filterwarnings("ignore")  # of the notebook client


def run(notebook: Path, folder: Path, **replaced: str) -> list[dict[str, Any]]:
    """Run a notebook in a folder and return its outputs; the replaced words change its source."""
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        for old, new in replaced.items():
            cell.source = cell.source.replace(f"{old} = ", f"{old} = {new}  # ")
    client = NotebookClient(
        content, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return [output for cell in content.cells for output in cell.get("outputs") or []]


def pictures(outputs: list[dict[str, Any]]) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


def printed(outputs: list[dict[str, Any]]) -> str:
    return "".join(output["text"] for output in outputs if output.get("name") == "stdout")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder in which the first notebook ran, and its outputs."""
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return folder, run(OWN, folder, STEPS="8")


def test_own_images_from_end_to_end(trained: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, outputs = trained
    assert pictures(outputs) == 5
    text = printed(outputs)
    assert "PSNR" in text
    assert "bits per token" in text
    assert "Frechet distance" in text
    assert [path.name for path in folder.iterdir()] == ["imgtf-demo"], "nothing is written elsewhere"


def test_a_published_model(
    trained: tuple[Path, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained[0] / "imgtf-demo" / "model"
    files = [file for stage in ("tokenizer", "prior") for file in (model / stage).iterdir()]
    monkeypatch.setenv("IMGTF_MODEL", "user/model")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serve() as hub:
        hub.add("user/model", {file.relative_to(model).as_posix(): file.read_bytes() for file in files})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        outputs = run(PUBLISHED, tmp_path)
        assert any("model.safetensors" in request for request in hub.requests)
    assert pictures(outputs) == 3
    assert printed(outputs).count("bits per token") == 3


@pytest.mark.parametrize("notebook", [OWN, PUBLISHED], ids=lambda path: path.stem)
def test_committed_outputs_are_small_and_without_errors(notebook: Path) -> None:
    assert notebook.stat().st_size < MAX_BYTES
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert pictures(outputs) >= 3, "a reader on GitHub sees the pictures"
    assert {output.get("name") for output in outputs} <= {None, "stdout"}
    assert all(output["output_type"] != "error" for output in outputs)
