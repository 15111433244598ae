"""Names of results: safe, bounded, each once; captions of a text file."""

from __future__ import annotations

import logging

import pytest

from imgtf.errors import DataError
from imgtf.pipelines.caption_file import caption_files, read_captions
from imgtf.pipelines.names import caption_name, distinct, from_first, with_variants


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("A red tile, small.", "a-red-tile-small"), ("  ../../etc/passwd ", "etc-passwd"), ("a/b\\c:d*e?", "a-b-c-d-e"),
        ("!!!", "image"), ("🐱", "image"), ("CON", "con-"), ("com1", "com1-"), ("com10", "com10"), ("...", "image"),
        ("Äpfel und Öl", "äpfel-und-öl"), ("A\u0308pfel", "äpfel"), ("猫 と 犬", "猫-と-犬"),
        ("हिन्दी पाठ", "हिन्दी-पाठ"),
        ("under_score", "under-score"), ("tab\tand\0null", "tab-and-null"),
    ],
)  # fmt: skip
def test_captions_become_file_names(caption: str, name: str) -> None:
    assert caption_name(caption) == name


@pytest.mark.parametrize("letter", ["a", "ä", "猫", "𐍈"])
def test_names_are_bounded_in_bytes_and_whole_letters(letter: str) -> None:
    name = caption_name(letter * 500)
    assert 76 < len(name.encode()) <= 80
    assert set(name) <= set(letter.lower())
    assert caption_name("word " * 100) == ("word-" * 16)[:-1]


def test_each_name_is_given_once_in_any_case() -> None:
    names = distinct(["a", "A", "b", "a", "a-2", "grid", "ß", "SS"], taken=("grid",))
    assert names == ["a", "A-2", "b", "a-3", "a-2-2", "grid-2", "ß", "SS-2"]
    assert len({name.casefold() for name in names}) == len(names)
    many = distinct(["x"] * 20000)
    assert len(set(many)) == 20000


def test_variants_have_numbers() -> None:
    assert with_variants(["a", "b"], 1) == ["a", "b"]
    assert with_variants(["a", "b"], 2) == ["a_1", "a_2", "b_1", "b_2"]


@pytest.mark.parametrize("first", [0, 1, 4, 7, 2**64 - 5])
def test_values_in_turn_start_at_the_first_image(first: int) -> None:
    values = from_first("abcd", first)
    assert [values[(first + i) % 4] for i in range(4)] == list("abcd")


@pytest.mark.parametrize(
    "text", ["a cat\na dog\n", "a cat\r\na dog", "a cat\ra dog\r", "\ufeffa cat\n  a dog  \n"]
)
def test_captions_are_one_a_line_of_any_system(text: str) -> None:
    assert read_captions(text.encode(), "f") == ["a cat", "a dog"]


def test_empty_lines_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "imgtf"):
        assert read_captions(b"a\n\n  \nb\n\n", "captions.txt") == ["a", "b"]
    assert caplog.messages == ["captions.txt: empty lines are skipped: 2, 3, 5"]
    assert read_captions("a\u2028b\n".encode(), "f") == ["a\u2028b"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "f: no captions; write one a line"), (b"\n \n", "f: no captions"),
        (b"good\nbad \xff\n", "f: line 2 is not UTF-8"), ("a cat\n".encode("utf-16"), "f: line 1 is not UTF-8"),
    ],
)  # fmt: skip
def test_files_without_captions_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_captions(data, "f")


def test_files_are_named_after_captions_and_never_like_the_grid() -> None:
    captions = ["A cat", "a cat!", "Grid"]
    assert caption_files(captions, 1) == ["a-cat", "a-cat-2", "grid-2"]
    assert caption_files(captions, 2) == [
        "a-cat_1",
        "a-cat_2",
        "a-cat-2_1",
        "a-cat-2_2",
        "grid-2_1",
        "grid-2_2",
    ]
