"""What commands write: nothing is overwritten without --force, results are on stdout, the log on stderr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imgtf.errors import ConfigError
from imgtf.pipelines.files import check_files, reconstruction_files
from imgtf.pipelines.write import check_out

from ..pipelines.conftest import run


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_sample_refuses_a_folder_with_other_files(model: Path, images: Path, capsys: Any) -> None:
    before = contents(images)
    assert run("sample", "--model", model, "--n", "1", "--out", images) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{images} is not empty" in line
    assert "--force" in line
    assert contents(images) == before


def test_sample_refuses_before_it_loads_a_model(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".hidden").touch()
    assert run("sample", "--model", tmp_path / "nowhere", "--out", tmp_path / "out") == 1
    assert "is not empty" in capsys.readouterr().err


def test_sample_writes_into_an_empty_folder_and_with_force_into_any(
    model: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = ["sample", "--model", model, "--n", "1", "--out", out, "--json"]
    assert run(*command) == 0
    assert json.loads(capsys.readouterr().out) == {"grid": str(out / "grid.png"), "n": 1}
    (out / "notes.txt").write_text("kept")
    assert run(*command) == 1
    assert run(*command, "--force") == 0
    assert (out / "notes.txt").read_text() == "kept"


def test_reconstruct_overwrites_only_with_force(
    model: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "other.txt").touch()
    command = ["tokenizer", "reconstruct", images / "red" / "0.png", "--model", model, "--out", tmp_path]
    assert run(*command) == 0
    written = tmp_path / "0.png"
    assert capsys.readouterr().out == f"{written}\n"
    written.write_bytes(b"mine")
    assert run(*command) == 1
    assert f"{written} exists" in capsys.readouterr().err
    assert written.read_bytes() == b"mine"
    assert run(*command, "--force", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"files": [str(written)]}
    with Image.open(written) as pair:
        assert pair.width > 1.9 * pair.height


def test_reconstructions_of_one_name_do_not_collide() -> None:
    images = [Path("a/1.png"), Path("b/1.png"), Path("c/1-2.png"), Path("d/1.jpg")]
    names = [file.name for file in reconstruction_files(images, Path("out"))]
    assert names == ["1.png", "1-2.png", "1-2-2.png", "1-3.png"]


def test_checks_of_folders_and_files(tmp_path: Path) -> None:
    check_out(tmp_path, force=False)
    check_out(tmp_path / "new", force=False)
    (tmp_path / "file").touch()
    check_out(tmp_path, force=True)
    check_files([tmp_path / "file"], force=True)
    check_files([tmp_path / "other"], force=False)
    with pytest.raises(ConfigError, match="not empty"):
        check_out(tmp_path, force=False)
    with pytest.raises(ConfigError, match="exists"):
        check_files([tmp_path / "file"], force=False)


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    images: Path, model: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "x"
    image = next(images.rglob("*.png"))
    for command in (
        ["tokenizer", "train", "--data", images, "--model", inside],
        ["tokenizer", "encode", "--model", model, "--out", inside],
        ["tokenizer", "reconstruct", image, "--model", model, "--out", inside],
        ["sample", "--model", model, "--out", inside],
        ["data", images, "--report", inside / "report.html"],
        ["bench", "--out", inside],
    ):
        assert run(*command) == 1
        printed = capsys.readouterr()
        assert (
            printed.err
            == f"Error: {inside} cannot be written: {tmp_path / 'file'} is a file; name another folder\n"
        )
        assert not printed.out
    monkeypatch.setattr("os.access", lambda *_: False)  # the superuser may write everywhere
    with pytest.raises(ConfigError, match="new cannot be written: no permission, or a read-only disk"):
        check_files([tmp_path / "new" / "file"], force=False)
    assert not (tmp_path / "new").exists()


def test_reconstruct_leaves_no_folder_where_no_image_can_be_read(
    model: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "bad.png").write_text("not an image")
    for image, why in (
        (tmp_path / "bad.png", "not an image that Pillow can read"),
        (tmp_path, "a folder, not an image"),
    ):
        assert run("tokenizer", "reconstruct", image, "--model", model, "--out", tmp_path / "out") == 1
        assert capsys.readouterr().err == f"Error: {image}: {why}\n"
        assert not (tmp_path / "out").exists()


def test_bench_writes_two_files_into_a_folder(tmp_path: Path, capsys: Any) -> None:
    command = ["bench", "--parts", "tokenizer", "--rounds", "1", "--out", tmp_path / "tables"]
    assert run(*command) == 0
    assert sorted(p.name for p in (tmp_path / "tables").iterdir()) == ["bench.json", "bench.md"]
    assert run(*command) == 1
    assert "bench.md" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["info", "tokenizer eval", "prior eval", "sample --dry-run"])
def test_results_are_json_on_stdout_and_the_log_is_on_stderr(command: str, model: Path, capsys: Any) -> None:
    where = [model] if command == "info" else ["--model", model]
    assert run(*command.split(), *where, "--json") == 0
    printed = capsys.readouterr()
    assert isinstance(json.loads(printed.out), dict)
    assert run(*command.split(), *where) == 0
    assert len(capsys.readouterr().out.splitlines()) > 2


def test_a_training_run_reports_its_result(images: Path, tmp_path: Path, capsys: Any) -> None:
    from ..pipelines.conftest import SMALL_TOKENIZER

    command = ["tokenizer", "train", "--data", images, "--model", tmp_path, "--steps", "2", *SMALL_TOKENIZER]
    assert run(*command, "--json") == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["folder"] == str(tmp_path / "tokenizer")
    assert result["steps"] == 2
    assert "psnr" in result["metrics"]
    assert "tokenizer step 2" in printed.err
    assert run(*command, "--force") == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'tokenizer'} (best at step")


@pytest.mark.parametrize("command", ["tokenizer train", "tokenizer tune-decoder", "prior train"])
@pytest.mark.parametrize("resume", [["--resume"], ["--resume-from", "3"]])
def test_a_run_is_resumed_or_replaced_but_not_both(
    command: str, resume: list[str], tmp_path: Path, capsys: Any
) -> None:
    assert run(*command.split(), "--model", tmp_path, *resume, "--force") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {resume[0]} goes on with the run that --force would replace")
    assert list(tmp_path.iterdir()) == []


def test_encode_writes_the_caches_that_training_reads(images: Path, tmp_path: Path, capsys: Any) -> None:
    from ..pipelines.conftest import SMALL_PRIOR, SMALL_TOKENIZER

    folder, options = tmp_path / "m", ["--flip", "--crop", "random", "--crops-per-image", "2"]
    train = ["tokenizer", "train", "--data", images, "--model", folder, "--steps", "2", *SMALL_TOKENIZER]
    assert run(*train) == 0
    capsys.readouterr()
    assert run("tokenizer", "encode", "--model", folder, *options, "--json") == 0
    caches = json.loads(capsys.readouterr().out)["caches"]
    before = contents(folder / "codes")
    assert sorted(caches) == sorted(str(p) for p in (folder / "codes").iterdir())
    assert run("prior", "train", "--model", folder, "--steps", "2", *options, *SMALL_PRIOR) == 0
    assert contents(folder / "codes") == before
