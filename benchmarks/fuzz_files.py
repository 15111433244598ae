"""Folders, tables and compressed files that are odd or damaged, for fuzz.py, and what the commands make of them."""

from __future__ import annotations

import io
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import datasets  # noqa: F401  (before the workers are forked: it takes seconds)
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from imgtf.cli import main
from imgtf.data.config import DataConfig
from imgtf.data.source import open_source
from imgtf.errors import ImgtfError
from imgtf.pipelines.compression.compress import compress_codes, decompress_codes
from imgtf.pipelines.models import Models
from imgtf.prior.config import PriorConfig
from imgtf.prior.model import Prior
from imgtf.tokenizer.config import TokenizerConfig
from imgtf.tokenizer.model import Tokenizer

from . import fuzz_images
from .fuzz_weights import SMALL

NAMES = (
    "a.png", "b.PNG", "e\u0301.png", "\u00e9.png", "\U0001f600.png", "x" * 251 + ".png", " .png", "-r.png", "a\nb.png",
    "a b;$(id).png", "[1]*?.png", "%s.png", "con.png", "a.jpg", "a.png.jpg", "\u202egnp.png", "'.png", '".png',
    "\\.png",
)  # fmt: skip
TEXTS = (
    b"", b" \n\n ", b"a caption", b"a" * 10_000_000, b"\0\1\2\x1b[31m", "\u202e\u00e9".encode(), b"\xff\xfea", b"\xe9",
    b"one\ntwo\rthree", b"{" * 100_000, b"[" * 100_000, b'{"caption": "x"}', b'{"caption": 3}', b"null",
    b"0 0.5 0.5 1 1",
)  # fmt: skip


def sound(stream: random.Random, suffix: str = "png") -> bytes:
    return fuzz_images.original(suffix, "RGB", stream.randrange(12))


def write_folder(root: Path, stream: random.Random) -> None:
    """A folder of a few sound images and many kinds of other things."""
    for index in range(4):
        (root / f"{index}.png").write_bytes(sound(stream))
    names = [name for name in NAMES if "/" not in name]
    for name in stream.sample(names, 4):
        (root / name).write_bytes(sound(stream, "jpg" if name.endswith("jpg") else "png"))
    for thing in stream.sample(THINGS, stream.choice([1, 2, 4])):
        thing(root, stream)


def _damaged(root: Path, stream: random.Random) -> None:
    mutate = stream.choice(fuzz_images.MUTATIONS)
    suffix = stream.choice(sorted(fuzz_images.MODES))
    whole = fuzz_images.original(suffix, fuzz_images.MODES[suffix][0], 1)
    (root / f"damaged.{suffix}").write_bytes(mutate(whole, stream))


def _archive(root: Path, stream: random.Random) -> None:
    with zipfile.ZipFile(root / stream.choice(["x.zip", "x.png"]), "w") as archive:
        archive.writestr("a.png", sound(stream))


def _caption(root: Path, stream: random.Random) -> None:
    (root / f"0{stream.choice(['.txt', '.caption', '.json', '.cls'])}").write_bytes(stream.choice(TEXTS))


def _metadata(root: Path, stream: random.Random) -> None:
    suffix = stream.choice(["csv", "jsonl", "json", "tsv"])
    head = b"file_name,text\n0.png," if suffix in ("csv", "tsv") else b'{"file_name": "0.png", "text": "'
    (root / f"metadata.{suffix}").write_bytes(stream.choice([head, b""]) + stream.choice(TEXTS))


def _parquet(root: Path, stream: random.Random) -> None:
    (root / stream.choice(["x.parquet", "metadata.parquet", "x.arrow"])).write_bytes(stream.randbytes(200))


def _bytes_name(root: Path, stream: random.Random) -> None:
    with open(os.fsencode(root) + b"/\xff\xfe.png", "wb") as file:
        file.write(sound(stream))


THINGS: list[Callable[[Path, random.Random], Any]] = [
    _damaged, _damaged, _archive, _caption, _caption, _metadata, _parquet, _bytes_name,
    lambda root, _: (root / "empty.png").touch(), lambda root, _: (root / "folder.png").mkdir(),
    lambda root, _: (root / "dangling.png").symlink_to(root / "gone.png"),
    lambda root, _: (root / "loop.png").symlink_to(root / "loop.png"), lambda root, _: (root / "up").symlink_to(root),
    lambda root, _: os.mkfifo(root / "fifo.png"), lambda root, _: os.mkfifo(root / "1.txt"),
    lambda root, _: os.mkfifo(root / "metadata.csv"), lambda root, _: (root / "zero.png").symlink_to("/dev/zero"),
    lambda root, _: (root / "d" / ("x" * 200) / ("y" * 200)).mkdir(parents=True),
]  # fmt: skip


def run(*arguments: str) -> tuple[int, list[str]]:
    """Run a command in this process; return its exit code and the lines on stderr."""
    err = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(err):
        try:
            main([*arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, [line for line in err.getvalue().splitlines() if line]


def folder_case(stream: random.Random, folder: Path) -> tuple[str, str]:
    """`imgtf data` on a folder. A success is wrong where it does not account for every file of an image."""
    root = folder / "images"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    write_folder(root, stream)
    try:
        sources = open_source(DataConfig(data=str(root), held_out=0))
        found = sources[0].findings
        if found.used + sum(one.count for one in found.left_out) != found.found:
            return "wrong", f"{found.found} found, {found.used} used, {found.left_out}"
    except ImgtfError:
        pass
    return _judged(*run("data", str(root), "--json"), sorted(os.listdir(root)))


def _judged(code: int, lines: list[str], about: Any) -> tuple[str, str]:
    """An exit code and the lines on stderr. The last line of a failure is the error, on one line."""
    if code == 0:
        return "correct", ""
    errors = [line for line in lines if line.startswith("Error: ")]
    fine = code in (1, 2) and len(errors) == 1 and lines[-1] == errors[0] and len(errors[0]) < 20_000
    return ("error", "") if fine else ("wrong", f"{about}: exit {code}, {' | '.join(lines)[-600:]}")


def table_case(stream: random.Random, folder: Path) -> tuple[str, str]:
    """A parquet file with nulls and wrong types, cut or changed, and read row by row.

    A success is wrong where rows are missing, or where a file that was cut is read.
    """
    rows = 6
    cells: list[Any] = [{"bytes": sound(stream), "path": None} for _ in range(rows)]
    odd: tuple[Any, ...] = (
        None, {"bytes": None, "path": None}, {"bytes": b"", "path": ""}, {"bytes": b"junk", "path": "x.png"},
        {"bytes": None, "path": "gone.png"}, {"bytes": None, "path": "/dev/zero"},
        {"bytes": sound(stream)[:50], "path": "a"},
    )  # fmt: skip
    for _ in range(stream.choice([0, 1, 3])):
        cells[stream.randrange(rows)] = stream.choice(odd)
    labels = stream.choice(
        [[0] * rows, [None] * rows, ["a", None] * 3, [1.5, float("nan"), None] * 2, [2**62, -1] * 3, [True, None] * 3,
         [b"\xff"] * rows, [[1], None] * 3, [{"a": 1}] * rows]
    )  # fmt: skip
    texts = stream.choice(
        [
            [None] * rows,
            [""] * rows,
            ["a" * 10**6] * rows,
            ["\0\x1b"] * rows,
            [7] * rows,
            [["a", "b"], []] * 3,
        ]
    )
    table = pa.table({"image": cells, "label": labels, "text": texts})
    out = io.BytesIO()
    pq.write_table(table, out)
    whole = out.getvalue()
    data = stream.choice(
        [
            whole,
            whole,
            whole[: stream.randrange(len(whole))],
            fuzz_images.changed(whole, stream),
            whole + b"x",
        ]
    )
    (folder / "t.parquet").write_bytes(data)
    try:
        with redirect_stderr(io.StringIO()):
            sources = open_source(DataConfig(data=str(folder / "t.parquet"), held_out=0))
            read = sum(_read_row(source, row) for source in sources for row in range(len(source)))
    except ImgtfError as error:
        return ("error", "") if "\n" not in str(error) else ("wrong", f"not one line: {error!s:.300}")
    cut = data != whole and whole.startswith(data)
    return (
        ("correct", "")
        if read == rows and not cut
        else ("wrong", f"{read} of {rows} rows, {len(data)} of {len(whole)} bytes")
    )


def _read_row(source: Any, row: int) -> int:
    try:
        source.header(row)
        source.image(row, at_least=8)
    except ImgtfError as error:
        if "\n" in str(error):
            raise AssertionError(f"not one line: {error}") from error
    source.label(row), source.text(row)
    return 1


@cache
def models() -> Models:
    """An untrained model of a few thousand weights."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig(**{**SMALL, "image_size": 16}))
    sha = tokenizer.codes_sha256()
    prior = Prior(
        PriorConfig(grid=(8, 8), codebook_size=16, width=16, depth=1, heads=2, tokenizer_sha256=sha)
    )
    torch.nn.init.normal_(prior.head.weight)
    return Models(tokenizer, prior)


@cache
def model_folder(folder: Path) -> Path:
    """The same as a folder."""
    models().save_pretrained(folder / "model")
    return folder / "model"


@cache
def compressed(number: int) -> tuple[bytes, torch.Tensor]:
    """A compressed file and its codes."""
    codes = torch.randint(0, 16, (8, 8), generator=torch.Generator().manual_seed(number))
    return compress_codes(models(), codes, {}), codes


def compressed_case(stream: random.Random, folder: Path) -> tuple[str, str]:
    """A damaged file of `imgtf compress`. A success is wrong where its codes are not exactly the original ones."""
    data, codes = compressed(stream.randrange(20))
    mutate = stream.choice([fuzz_images.truncated, fuzz_images.changed, fuzz_images.header, fuzz_images.moved,
                            fuzz_images.appended, fuzz_images.junk, fuzz_images.untouched])  # fmt: skip
    damaged = mutate(data, stream)
    try:
        read = decompress_codes(models(), damaged, where="x.imgtf")
    except ImgtfError as error:
        own = "\n" not in str(error) and str(error).startswith("x.imgtf: ") and damaged != data
        return ("error", "") if own else ("wrong", f"{mutate.__name__}: {error!s:.300}")
    return ("correct", "") if torch.equal(read, codes) else ("wrong", f"{mutate.__name__}: other codes")


def command_case(stream: random.Random, folder: Path) -> tuple[str, str]:
    """A command on one damaged image. A failure leaves no result behind, and a success leaves one."""
    suffix = stream.choice(sorted(fuzz_images.MODES))
    whole = fuzz_images.original(suffix, stream.choice(fuzz_images.MODES[suffix]), stream.randrange(12))
    image, out = folder / f"x.{suffix}", folder / "out"
    image.unlink(missing_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    image.write_bytes(stream.choice(fuzz_images.MUTATIONS)(whole, stream))
    model = ["--model", str(model_folder(folder)), "--device", "cpu"]
    command = stream.choice(
        [
            ["tokenizer", "reconstruct", str(image), "--out", str(out / "a.png")],
            ["score", str(image), "--out", str(out / "a")],
            ["compress", str(image), "-o", str(out / "a.imgtf")],
            ["attention", str(image), "--at", "3,3", "--out", str(out / "a.png")],
            ["edit", "complete", str(image), "--out", str(out / "a")],
            ["edit", "vary", str(image), "--out", str(out / "a")],
        ]
    )
    code, lines = run(*command, *model)
    left = [path for path in out.rglob("*") if path.is_file()]
    if (code == 0) != bool(left):
        return "wrong", f"{command[:2]}: exit {code} and {left}: {lines[-2:]}"
    return _judged(code, lines, command[:2])


KINDS = {"folder": folder_case, "parquet": table_case, "compressed": compressed_case, "command": command_case}
CYCLE = ["compressed"] * 5 + ["parquet"] * 2 + ["folder", "command", "command"]


def case(seed: int, folder: Path) -> tuple[str, str, str]:
    """One folder, table, compressed file or command; return its kind, the outcome and a note."""
    kind = CYCLE[seed % len(CYCLE)]
    return (kind, *KINDS[kind](random.Random(seed), folder))
