"""The files of a folder: links, folders that cannot be read."""

from __future__ import annotations

import os

import pytest

from imgtf.data.files import list_files
from imgtf.errors import DataError

from .reading import named, opened


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, save, monkeypatch):
    """Its class would be missing without a word. Root reads every folder, so the error is made here."""
    for name in "ab":
        save(tmp_path / name / "1.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"/b: the folder cannot be read \(Permission denied\)"):
        list_files(tmp_path)


@pytest.mark.parametrize("name", ["lost+found", "__MACOSX", ".hidden"])
def test_folders_of_the_system_are_not_read(tmp_path, save, name):
    save(tmp_path / name / "1.png")
    save(tmp_path / "a.png")
    assert [file.path for file in list_files(tmp_path)] == ["a.png"]


def test_two_links_to_one_folder_are_two_folders(tmp_path, save):
    save(tmp_path / "files" / "1.png")
    links = tmp_path / "links"
    links.mkdir()
    for name in "ab":
        (links / name).symlink_to(tmp_path / "files")
    assert named(opened(links)[0]) == ["a", "b"]


def test_links_that_never_end_are_named(tmp_path, save, caplog):
    save(tmp_path / "a" / "1.png")
    save(tmp_path / "b" / "2.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    paths = [file.path for file in list_files(tmp_path)]
    assert paths == ["a/1.png", "a/b/2.png", "b/2.png", "b/a/1.png"]
    assert "links to a folder above them are not followed: a/b/a, a/up, b/a/b, ... (4)" in caplog.text
