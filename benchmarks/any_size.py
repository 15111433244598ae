"""Pictures of any size: steps across the borders of windows, memory, and tiles against the whole image.

    python benchmarks/any_size.py steps MODEL [--images 48] [--factor 4]
    python benchmarks/any_size.py memory MODEL [--images 16] [--factor 4]
    python benchmarks/any_size.py tiles MODEL [--photo FILE] [--size 2000x3000]

`steps` samples pictures that are FACTOR times as wide as the trained size, and compares the mean absolute step between
neighbouring pixels across the borders of windows with that elsewhere. `memory` compares the largest resident memory
(Linux) of a normal sample with that of wide pictures. `tiles` runs `imgtf tokenizer reconstruct --full-size` on a
photograph (one of scikit-learn's, enlarged, where none is named), and compares it with the tokenizer on the whole
image. Each measurement of memory runs in a process of its own. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from imgtf.options import sides_of, size_text, to_size
from imgtf.pipelines.editing.extend import blank
from imgtf.pipelines.pipeline import Pipeline
from imgtf.pipelines.windows import STRIDES, plan_windows

MEMORY = """
import json, re, sys
from pathlib import Path
def memory(name):  # getrusage would include the memory of the parent process
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
def report(base):
    print(json.dumps({"base_mib": base, "peak_mib": memory("VmHWM")}))
"""
SAMPLE = """
from imgtf.pipelines.editing.extend import blank
from imgtf.pipelines.pipeline import Pipeline
from imgtf.pipelines.write import write_samples
base = memory("VmRSS")
pipeline = Pipeline.from_pretrained(sys.argv[1], "cpu")
n, size = int(sys.argv[3]), json.loads(sys.argv[4])
write_samples(pipeline, Path(sys.argv[2]), n, batch_size=n, canvas=blank(pipeline, size))
report(base)
"""
TILES = """
from imgtf.cli import main
import torch
base = memory("VmRSS")
try:
    main(["tokenizer", "reconstruct", sys.argv[2], "--full-size", "--model", sys.argv[1], "--out", sys.argv[3]])
except SystemExit as stopped:
    assert not stopped.code
report(base)
"""
WHOLE = """
import numpy as np, torch
from PIL import Image
from imgtf.data.image import to_pil, transform
from imgtf.tokenizer.codec import Codec
from imgtf.tokenizer.model import Tokenizer
from imgtf.tokenizer.tiling import decode_tiled, encode_tiled, padded
base = memory("VmRSS")
codec = Codec(Tokenizer.from_pretrained(Path(sys.argv[1]) / "tokenizer", "cpu").eval())
with Image.open(sys.argv[2]) as image:
    pixels = transform(image, image.size[::-1], codec.config.channels)[None]
pixels, (H, W) = padded(pixels, codec.config.factor), pixels.shape[2:]
codes = codec.encode(pixels)
decoded = codec.decode(codes)
to_pil(decoded[0, :, :H, :W]).save(sys.argv[3])
peak, tiled = memory("VmHWM"), encode_tiled(codec, pixels)
difference = (decode_tiled(codec, codes) - decoded).abs() * 127.5
print(json.dumps({
    "base_mib": base, "peak_mib": peak, "codes": codes.numel(), "codes_that_differ": int((tiled != codes).sum()),
    "largest_difference_of_equal_codes": float(difference.max()),
}))
"""


def run(code: str, *arguments: Any) -> dict[str, float]:
    """Run code in a process of its own; return its memory."""
    command = [sys.executable, "-c", MEMORY + code, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def window_borders(pipeline: Pipeline, columns: int) -> np.ndarray:
    """Return the pixel columns at which the new codes of a window begin, in a picture of one window's height."""
    config, q = pipeline.prior.config, pipeline.tokenizer.config.codes_per_latent
    known = np.zeros((config.grid[0], columns * q), bool)
    windows = plan_windows(known, config.grid, STRIDES[config.objective], q)
    ends = [(window.left + window.width) // q * pipeline.tokenizer.config.factor for window in windows]
    return np.array(ends[:-1])


def steps(args: argparse.Namespace) -> dict[str, Any]:
    """Return the mean absolute steps between neighbouring columns, in grey levels."""
    pipeline = Pipeline.from_pretrained(args.model, "cpu")
    H, W = pipeline.tokenizer.config.size
    f, width = pipeline.tokenizer.config.factor, W * args.factor
    samples = pipeline.stream(args.images, canvas=blank(pipeline, (H, width)))
    pixels = np.stack([np.asarray(sample.image.convert("RGB"), np.float64) for sample in samples])
    step = np.abs(np.diff(pixels, axis=2)).mean((0, 1, 3))  # (width - 1,)
    column = np.arange(1, width)
    border = np.isin(column, window_borders(pipeline, width // f))
    tokens = (column % f == 0) & ~border
    return {
        "objective": pipeline.prior.config.objective,
        "images": args.images,
        "size": size_text((H, width)),
        "window_borders": int(border.sum()),
        "step_across_window_borders": step[border].mean(),
        "step_across_other_token_borders": step[tokens].mean(),
        "step_elsewhere": step[~border].mean(),
        "ratio_to_elsewhere": step[border].mean() / step[~border].mean(),
        "ratio_to_other_token_borders": step[border].mean() / step[tokens].mean(),
    }


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Return the memory of normal samples and of wide ones."""
    H, W = Pipeline.from_pretrained(args.model, "cpu").tokenizer.config.size
    with tempfile.TemporaryDirectory() as folder:
        normal, wide = (
            run(SAMPLE, args.model, Path(folder) / str(width), args.images, json.dumps([H, width]))
            for width in (W, W * args.factor)
        )
    return {
        "images": args.images,
        "normal": normal,
        "wide": wide,
        "ratio_of_peaks": wide["peak_mib"] / normal["peak_mib"],
        "ratio_of_peaks_above_base": (wide["peak_mib"] - wide["base_mib"])
        / (normal["peak_mib"] - normal["base_mib"]),
    }


def photograph(file: str | None, size: tuple[int, int]) -> Image.Image:
    """Return a photograph, enlarged to cover the size and cropped to it."""
    if file is None:
        from sklearn.datasets import load_sample_image

        return ImageOps.fit(Image.fromarray(load_sample_image("china.jpg")), size[::-1])
    with Image.open(file) as image:
        return ImageOps.fit(image.convert("RGB"), size[::-1])


def tiles(args: argparse.Namespace) -> dict[str, Any]:
    """Return the memory of both ways, and the difference of their results in grey levels."""
    size = sides_of(to_size(args.size))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photograph(args.photo, size).save(folder / "photo.png")
        tiled = run(TILES, args.model, folder / "photo.png", folder / "tiles")
        whole = run(WHOLE, args.model, folder / "photo.png", folder / "whole.png")
        with Image.open(folder / "whole.png") as image, Image.open(folder / "tiles" / "photo.png") as pair:
            expected = np.asarray(image, np.int16)
            result = np.asarray(pair.crop(_right_half(pair, size)), np.int16)
    difference = np.abs(expected - result)
    return {
        "size": size_text(size),
        "tiles": tiled,
        "whole": whole,
        "mean_difference": float(difference.mean()),
        "largest_difference": int(difference.max()),
        "pixels_beyond_2_grey_levels": float((difference > 2).mean()),
    }


def _right_half(pair: Image.Image, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box of the reconstruction in a grid of two images with equal borders."""
    border = (pair.height - size[0]) // 2
    left = pair.width - border - size[1]
    return left, border, left + size[1], border + size[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["steps", "memory", "tiles"])
    parser.add_argument("model")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--photo")
    parser.add_argument("--size", default="2000x3000")
    args = parser.parse_args()
    print(json.dumps({"steps": steps, "memory": memory, "tiles": tiles}[args.what](args), indent=2))


if __name__ == "__main__":
    main()
