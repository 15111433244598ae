"""A stream of 100,000 small images: memory over a pass, and samples repeated or dropped when a run is resumed.

    python benchmarks/streaming.py --folder /tmp/stream --images 100000

makes tar and parquet shards of 8x8 to 32x32 PNGs (once), then for each kind of shards

- reads one epoch in batches of 64, as `imgtf tokenizer train --streaming` does, and measures the memory of the process,
- reads it again, stopped in the middle and resumed by a fresh process, and counts every sample by its id,
- reads it with two processes, which share the shards.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from imgtf.data.config import AugmentationConfig, DataConfig
from imgtf.data.images import ImageDataset
from imgtf.data.source import open_source
from imgtf.data.stream_images import TrainingStream

BATCH = 64
SHARDS = 20
CLASSES = 10


def png(generator: np.random.Generator) -> bytes:
    side = int(generator.integers(8, 33))
    file = io.BytesIO()
    Image.fromarray(generator.integers(0, 256, (side, side, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_shards(folder: Path, images: int) -> None:
    """Write the same images to tar and parquet shards."""
    generator = np.random.default_rng(0)
    for kind in ("tar", "parquet"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for shard, numbers in enumerate(np.array_split(np.arange(images), SHARDS)):
        rows = [(int(n), png(generator)) for n in numbers]
        with tarfile.open(folder / "tar" / f"s-{shard:06d}.tar", "w") as archive:
            for number, data in rows:
                for name, own in (
                    (f"{number:06d}.png", data),
                    (f"{number:06d}.cls", b"%d" % (number % CLASSES)),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(own)
                    archive.addfile(info, io.BytesIO(own))
        cells = [{"image": {"bytes": data, "path": None}, "label": n % CLASSES} for n, data in rows]
        table = pa.Table.from_pylist(cells)
        pq.write_table(table, folder / "parquet" / f"s-{shard:06d}.parquet", row_group_size=1000)


def read(args: argparse.Namespace) -> dict[str, object]:
    """Read batches from a place on, to the end of the epoch or `stop` batches; return the ids and the memory."""
    process = psutil.Process()
    imported = process.memory_info().rss
    data = DataConfig(
        data=str(args.folder / args.read),
        streaming=True,
        held_out=0,
        classes=str(CLASSES),
        workers=args.workers,
    )
    source, _ = open_source(data)
    images = ImageDataset(source, 32, 3, data, AugmentationConfig(), seed=1)
    state = torch.load(args.state) if args.state and args.state.exists() else None
    stream = TrainingStream(images, 1, data.shuffle_buffer, args.rank, args.world, state)
    opened = peak = process.memory_info().rss
    ids: list[int] = []
    start = time.perf_counter()
    for number, batch in enumerate(stream.batches(BATCH * args.world, 0, args.workers)):
        kept = batch["epoch"] == 0
        ids += batch["index"][kept].tolist()
        if number % 50 == 0:
            peak = max(peak, process.memory_info().rss)
        if not kept.all() or number + 1 == args.stop:
            break
    seconds = time.perf_counter() - start
    if args.state:
        torch.save(stream.state(), args.state)
    np.save(args.out, np.array(ids, np.int64))
    return {"images": len(ids), "seconds": seconds, "imported": imported, "opened": opened, "peak": peak}


def child(args: argparse.Namespace, kind: str, out: str, **options: object) -> tuple[dict, np.ndarray]:
    """Run `read` in a process of its own."""
    file = args.folder / f"{out}.npy"
    extra = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    command = [
        sys.executable,
        __file__,
        "--folder",
        str(args.folder),
        "--read",
        kind,
        "--out",
        str(file),
        *extra,
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]), np.load(file)


def counted(ids: np.ndarray, images: int) -> str:
    unique = len(np.unique(ids))
    return f"{len(ids):,} read, {len(ids) - unique:,} repeated, {images - unique:,} dropped"


def report(args: argparse.Namespace, kind: str) -> None:
    facts, whole = child(args, kind, "whole")
    mib = 2**20
    opening, growth = facts["opened"] - facts["imported"], facts["peak"] - facts["opened"]
    print(
        f"{kind}: one epoch: {counted(whole, args.images)}; {facts['images'] / facts['seconds']:,.0f} images/s; "
        f"memory {facts['imported'] / mib:.0f} MiB after imports, {opening / mib:+.0f} by opening, "
        f"{growth / mib:+.0f} over the pass",
        flush=True,
    )
    state = args.folder / "state.pt"
    state.unlink(missing_ok=True)
    half = args.images // BATCH // 2 + 7
    _, first = child(args, kind, "first", state=state, stop=half)
    _, second = child(args, kind, "second", state=state)
    both = np.concatenate([first, second])
    same = "the order of an uninterrupted run" if np.array_equal(both, whole) else "ANOTHER ORDER"
    print(
        f"{kind}: stopped after {half:,} batches and resumed: {counted(both, args.images)}; {same}",
        flush=True,
    )
    if kind == "tar":
        facts, ids = child(args, kind, "workers", workers=2)
        same = "the same order" if np.array_equal(ids, whole) else "ANOTHER ORDER"
        growth = (facts["peak"] - facts["opened"]) / mib
        print(f"{kind}: with two loader processes: {same}; {growth:+.0f} MiB over the pass", flush=True)
        parts = [child(args, kind, f"rank{rank}", rank=rank, world=2)[1] for rank in range(2)]
        print(f"{kind}: two processes: {counted(np.concatenate(parts), args.images)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/imgtf-streaming"))
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--read", help="used by the benchmark itself, as are the options below")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--stop", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)
    args = parser.parse_args()
    if args.read:
        print(json.dumps(read(args)))
        return
    if not (args.folder / "parquet" / f"s-{SHARDS - 1:06d}.parquet").exists():
        write_shards(args.folder, args.images)
    for kind in ("tar", "parquet"):
        report(args, kind)


if __name__ == "__main__":
    main()
