"""What a name of a model stands for: a folder, or a repository that is downloaded once; errors of one line."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from imgtf.errors import CheckpointError, ConfigError
from imgtf.runtime import hub as hub_module
from imgtf.runtime.repository import Access, model_folder, parse_id, results_folder

from .hub_server import TOKEN, Hub, serve

MODEL = {
    "README.md": b"# Model",
    "tokenizer/config.json": b"{}",
    "tokenizer/model.safetensors": b"weights",
    "prior/config.json": b"{}",
    "prior/model.safetensors": b"weights",
    "prior/pytorch_model.bin": b"pickle",
    "training/prior/log.jsonl": b"",
    "codes/train/data.arrow": b"",
}
LOADED = {
    "README.md",
    *(f"{part}/{file}" for part in ("tokenizer", "prior") for file in ("config.json", "model.safetensors")),
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A server that this process takes for the Hub, with one model."""
    with serve() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.chdir(tmp_path)
        server.add("user/model", MODEL)
        yield server


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("network"))


def files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_only_the_needed_files_are_downloaded_and_said_before(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "imgtf"):
        folder = model_folder("user/model")
        assert files(folder) == LOADED
        commit = hub.repositories["user/model"].branches["main"]
        (line,) = caplog.messages
        cache = constants.HF_HUB_CACHE
        assert (
            line == f"downloading user/model, commit {commit[:7]}, from {hub.url} to {cache}: 5 files, 0.0 kB"
        )
        caplog.clear()
        downloads = sum("/resolve/" in request for request in hub.requests)
        assert model_folder("user/model") == folder
        assert caplog.messages == [f"user/model: commit {commit[:7]} is in the cache {cache}"]
        assert sum("/resolve/" in request for request in hub.requests) == downloads


def test_parts_are_downloaded_alone(hub: Hub, tmp_path: Path) -> None:
    access = Access(cache_dir=tmp_path / "other")
    folder = model_folder("user/model", parts=("prior",), needs=("prior",), access=access)
    assert files(folder) == {name for name in LOADED if not name.startswith("tokenizer")}
    assert folder.is_relative_to(tmp_path / "other")


def test_revisions(hub: Hub) -> None:
    repository = hub.repositories["user/model"]
    first = repository.branches["main"]
    repository.commit(MODEL | {"tokenizer/config.json": b"new"}, message="new")
    for name, revision in (
        ("user/model", first),
        (f"user/model@{first}", None),
        (f"user/model@{first}", first),
    ):
        assert (model_folder(name, revision=revision) / "tokenizer" / "config.json").read_bytes() == b"{}"
    assert (model_folder("user/model") / "tokenizer" / "config.json").read_bytes() == b"new"
    with pytest.raises(CheckpointError, match="no revision 'v9'"):
        model_folder("user/model@v9")
    with pytest.raises(ConfigError, match="give only one"):
        model_folder("user/model@v9", revision="v8")


def test_a_folder_comes_first(
    tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("user/model").mkdir(parents=True)
    with caplog.at_level("INFO", "imgtf"):
        assert model_folder("user/model") == Path("user/model")
        assert caplog.messages == [
            "user/model is a folder here: it is used, not the repository of that name on the Hub"
        ]
    with pytest.raises(ConfigError, match="is a folder, which has no revision 'v1'"):
        model_folder("user/model", revision="v1")


@pytest.mark.parametrize(
    "name",
    [
        "model",
        "./user/model",
        "/user/model",
        "a/b/c",
        "~/model",
        "user/",
        Path("user/model"),
        "",
        ".hidden/x",
    ],
)
def test_other_names_are_folders(name: str | Path, no_network: None) -> None:
    assert model_folder(name) == Path(name)


def test_ids() -> None:
    assert parse_id("user/my-model.v1") == ("user/my-model.v1", None)
    assert parse_id("user/model@refs/pr/1") == ("user/model", "refs/pr/1")
    assert parse_id("user/model@") is None


def refused(name: str, **options: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        model_folder(name, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"no folder {name}; ")
    return message


def test_what_is_not_there(hub: Hub) -> None:
    assert f"{hub.url}/user/nothing: no such repository, or it is private: log in with" in refused(
        "user/nothing"
    )
    hub.add("user/other", {"pytorch_model.bin": b"", "vocab.txt": b""})
    message = refused("user/other")
    assert (
        "holds no tokenizer/config.json and no prior/config.json and no conditioning/config.json, but py"
        in message
    )
    assert message.endswith("but pytorch_model.bin, vocab.txt")
    hub.add("user/half", {"tokenizer/config.json": b"{}"})
    message = refused("user/half", needs=("tokenizer", "prior"))
    assert "it holds no prior/config.json, but tokenizer/config.json" in message
    assert not Path(constants.HF_HUB_CACHE).exists() or not list(Path(constants.HF_HUB_CACHE).rglob("*.bin"))


def test_private_and_gated_repositories(hub: Hub) -> None:
    hub.add("user/private", MODEL, private=True)
    hub.add("user/gated", MODEL, gated=True)
    assert "or it is private: log in" in refused("user/private")
    assert "is gated: accept its terms there, then log in" in refused("user/gated")
    for name in ("user/private", "user/gated"):
        assert files(model_folder(name, access=Access(token=TOKEN))) == LOADED


def test_without_a_network(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    access = Access(local_files_only=True)
    assert "is not in the cache" in refused("user/model", access=access)
    folder = model_folder("user/model")
    count = len(hub.requests)
    with caplog.at_level("INFO", "imgtf"):
        assert model_folder("user/model", access=access) == folder
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert model_folder("user/model") == folder
        assert "(HF_HUB_OFFLINE is set)" in caplog.messages[-1]
    assert "is not in the cache" in refused("user/nothing")
    assert len(hub.requests) == count
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_module, "_unreachable", lambda url: "no route")
    assert "cannot be reached: no route" in refused("user/nothing")
    assert model_folder("user/model") == folder


def test_a_part_that_was_not_downloaded_is_missing_without_a_network(hub: Hub) -> None:
    model_folder("user/model", parts=("tokenizer",), needs=("tokenizer",))
    options = {"access": Access(local_files_only=True), "needs": ("tokenizer", "prior")}
    assert "is not in the cache" in refused("user/model", **options)
    model_folder(
        "user/model", parts=("tokenizer",), needs=("tokenizer",), access=Access(local_files_only=True)
    )


def test_results_of_a_downloaded_model_go_into_a_folder_of_its_name(hub: Hub) -> None:
    assert results_folder(model_folder("user/model")) == Path("model")
    assert results_folder(Path("runs/cats")) == Path("runs/cats")
