"""A model goes to the Hub and comes back: `imgtf push` and `from_pretrained` against a server on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants
from PIL import Image

from imgtf import cli
from imgtf.errors import CheckpointError, ConfigError
from imgtf.pipelines.pipeline import Pipeline
from imgtf.pipelines.publish import Publication, push_folder
from imgtf.prior.model import Prior
from imgtf.runtime.upload import Target
from imgtf.tokenizer.model import Tokenizer

from ..runtime.hub_server import TOKEN, Hub, serve
from .conftest import run

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
"""A warning that huggingface_hub causes in httpx."""

LOAD = """
import sys
from imgtf import Pipeline
for local in (False, True):
    pipeline = Pipeline.from_pretrained("me/colours", "cpu", local_files_only=local)
    for i, image in enumerate(pipeline.sample(n=2, seed=5)):
        image.save(f"{'local' if local else 'loaded'}-{i}.png")
"""
MAIN = "import sys; from imgtf import cli; cli.COMMANDS.setdefault('push', ('push.push', '')); cli.main()"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A server that this process takes for the Hub."""
    with serve() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.chdir(tmp_path)
        yield server


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "push", ("push.push", "Upload a model."))


def process(server: Hub, home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python process whose Hub is the server."""
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"} | more
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=home, timeout=120
    )


def test_round_trip_in_fresh_processes(model: Path, tmp_path: Path) -> None:
    """Push, load in a fresh process with an empty cache, sample the same pictures; then again from the cache."""
    copy = shutil.copytree(model, tmp_path / "copy")
    with serve() as server:
        arguments = ("push", "me/colours", "--model", str(copy), "--license", "mit", "--json")
        pushed = process(server, tmp_path, "-c", MAIN, *arguments)
        assert pushed.returncode == 0, pushed.stderr
        assert json.loads(pushed.stdout)["commit"].startswith(f"{server.url}/me/colours/commit/")
        loaded = process(server, tmp_path, "-c", LOAD)
        assert loaded.returncode == 0, loaded.stderr
    names = {request.split("/resolve/")[-1] for request in server.requests if "/resolve/" in request}
    assert not any("images" in name or "training" in name for name in names)
    for i, image in enumerate(Pipeline.from_pretrained(model, "cpu").sample(n=2, seed=5)):
        for kind in ("loaded", "local"):
            with Image.open(tmp_path / f"{kind}-{i}.png") as other:
                assert other.tobytes() == image.tobytes()


def test_what_is_pushed(model: Path, hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    hub.add("me/m", {"conditioning/config.json": b"{}", "prior/old.bin": b"", "notes.md": b"mine"})
    with caplog.at_level("INFO", "imgtf"):
        push_folder(copy, Target("me/m", message="Colours"), license="mit")
    repository = hub.repositories["me/m"]
    files = repository.head()
    assert set(files) == {
        "notes.md", "README.md", "images/samples.png", "images/reconstructions.png",
        "tokenizer/config.json", "tokenizer/model.safetensors", "tokenizer/train.toml", "tokenizer/data.txt",
        "tokenizer/figures.json", "prior/config.json", "prior/model.safetensors", "prior/train.toml",
        "prior/figures.json", "report.html",
    }  # fmt: skip
    assert repository.messages[-1] == "Colours"
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "mit"
    assert 'Pipeline.from_pretrained("me/m")' in card.text
    assert "imgtf sample --model me/m" in card.text
    assert (
        "deleting there what this model does not have: conditioning/config.json, prior/old.bin" in caplog.text
    )
    push_folder(copy, Target("me/m", revision="v2"), pictures=False)
    files = repository.head("v2")
    assert ModelCard(files["README.md"].decode()).data.license == "mit"
    assert not any(name.startswith(("images/", "report")) for name in files)
    assert "images/" not in files["README.md"].decode()


def test_push_and_load_from_python(model: Path, hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = Pipeline.from_pretrained(model, "cpu", precision="fp32")
    assert pipeline.push_to_hub("me/p", license="mit", private=True).startswith(f"{hub.url}/me/p/commit/")
    assert hub.repositories["me/p"].private
    assert "| prior | bits per token |" in hub.repositories["me/p"].head()["README.md"].decode()
    with caplog.at_level("INFO", "imgtf"):
        again = Pipeline.from_pretrained("me/p", "cpu")
        assert caplog.text.count("downloading me/p, commit ") == 1
        assert f"from {hub.url} to {constants.HF_HUB_CACHE}: 10 files, " in caplog.text
    assert again.prior.weights_sha256() == pipeline.prior.weights_sha256()
    images = [one.sample(n=1, seed=3)[0].tobytes() for one in (pipeline, again)]
    assert images[0] == images[1]


def test_stages_are_pushed_and_loaded_alone(model: Path, hub: Hub, tmp_path: Path) -> None:
    tokenizer, prior = (
        Tokenizer.from_pretrained(model / "tokenizer", "cpu"),
        Prior.from_pretrained(model / "prior", "cpu"),
    )
    tokenizer.push_to_hub("me/both")
    assert set(hub.repositories["me/both"].head()) >= {"README.md", "tokenizer/model.safetensors"}
    with pytest.raises(
        CheckpointError, match=r"holds no prior/config\.json, but README\.md, tokenizer/config"
    ):
        Prior.from_pretrained("me/both", "cpu")
    prior.push_to_hub("me/both")
    assert Tokenizer.from_pretrained("me/both", "cpu").weights_sha256() == tokenizer.weights_sha256()
    cache = tmp_path / "other"
    assert Prior.from_pretrained("me/both", "cpu", cache_dir=cache).weights_sha256() == prior.weights_sha256()
    assert not list(cache.rglob("tokenizer"))
    Pipeline.from_pretrained("me/both", "cpu")


def test_commands_take_ids(model: Path, hub: Hub, pushes: None, tmp_path: Path, capsys: Any) -> None:
    assert run("push", "me/m", "--model", model) == 0
    assert "no license is named" in capsys.readouterr().err
    assert run("sample", "--model", "me/m", "--n", "2", "--json") == 0
    shown = capsys.readouterr()
    assert "downloading me/m, commit " in shown.err
    assert json.loads(shown.out)["grid"] == "m/samples/001/grid.png"
    assert (tmp_path / "m" / "samples" / "001" / "grid.png").exists()
    assert run("info", "me/m@main") == 0
    assert run("prior", "eval", "--model", "me/m", "--data", "digits", "--json") == 0
    assert (tmp_path / "m" / "codes").is_dir()
    assert not list((tmp_path / "cache").rglob("codes"))


def test_a_run_starts_with_published_weights(model: Path, hub: Hub, images: Path, tmp_path: Path) -> None:
    push_folder(model, Target("me/base"))
    arguments = ["--init-from", "me/base", "--data", images, "--steps", "1", "--batch-size", "8"]
    assert run("tokenizer", "train", "--model", tmp_path / "new", *arguments) == 0
    assert ModelCard.load(tmp_path / "new" / "README.md").data.base_model == ["me/base"]


def test_a_dry_run_sends_nothing(model: Path, hub: Hub, pushes: None, capsys: Any) -> None:
    assert run("push", "me/m", "--model", model, "--dry-run", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)["files"]) >= {"README.md", "prior/model.safetensors"}
    assert hub.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m"], "'m' is no id of the Hub: name it user/model"),
        (["me/m", "--license", "My License"], "the Hub names licenses like apache-2.0"),
        (["me/m", "--license", "wrong"], '"license" must be one of'),
        (["me/m", "--message", " "], "the message of the commit is empty"),
        (["me/m@a", "--revision", "b"], "names a branch, and 'b' is another one"),
        (["me/public", "--private"], "exists and is public"),
        (["me/m", "--model", "nothing"], "nothing: holds neither tokenizer/ nor prior/"),
    ],
)
def test_wrong_pushes_are_one_line(
    arguments: list[str], message: str, model: Path, hub: Hub, pushes: None, capsys: Any
) -> None:
    hub.add("me/public", {})
    if "--model" not in arguments:
        arguments = [*arguments, "--model", str(model)]
    before = (model / "README.md").read_bytes()
    assert run("push", *arguments) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("Error: ")
    assert message in line
    assert not any("commit" in request for request in hub.requests)
    assert (model / "README.md").read_bytes() == before


def test_a_push_without_a_login_says_how_to(
    model: Path, hub: Hub, pushes: None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for token in ("hf_other", ""):
        monkeypatch.setenv("HF_TOKEN", token)
        assert run("push", "me/m", "--model", model) == 1
        assert "log in with `hf auth login`, or set HF_TOKEN" in capsys.readouterr().err.splitlines()[-1]


def test_a_model_that_others_could_not_load_is_not_pushed(model: Path, hub: Hub, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    path = copy / "tokenizer" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="damaged"):
        push_folder(copy, Target("me/m"))
    values = json.loads((copy / "prior" / "config.json").read_text())
    values["conditions"] = [{"kind": "features", "width": 4, "tokens": 2, "text_encoder": str(tmp_path)}]
    (copy / "prior" / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="which nobody else can load"):
        Publication(copy, "me/m").files()
    assert hub.requests == []


def test_a_card_that_was_edited_is_pushed_as_it_is(model: Path, hub: Hub, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / "README.md").write_text("# Mine\n")
    push_folder(copy, Target("me/m"), license="mit")
    card = ModelCard(hub.repositories["me/m"].head()["README.md"].decode())
    assert card.text.strip() == "# Mine"
    assert card.data.license == "mit"


def test_a_revision_of_the_public_is_refused_for_a_folder(model: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder, which has no revision 'v1'"):
        Pipeline.from_pretrained(model, revision="v1")
