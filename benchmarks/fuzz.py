"""Bad input, many thousand times: no traceback, no hang, no crash, no wrong success.

    python benchmarks/fuzz.py [--images 20000] [--weights 5000] [--options 10000] [--files 2000] [--seed 0]

Mutates sound inputs, gives them to the code that reads them, and counts what becomes of them:

- correct: read, and right. Mutations may leave a file sound, or change pixels that no checksum covers.
- error: refused with one line that names the file or option.
- wrong: read, although it should not be, or as something else; or refused without such a line.
- traceback, hang (30 seconds) and crash (a signal, or more than 8 GiB): what their names say.

What a wrong success is, by kind:

- images (fuzz_images.py): a file that was cut has other pixels than the whole file, Pillow's own strict decoding
  refuses the bytes, or the tensor for the network has another shape or range than it should.
- weights (fuzz_weights.py): the network differs from what an independent reader finds in config.json and
  model.safetensors, or holds values that are not finite. safetensors has no checksum: a changed value is not noticed.
- options (fuzz_options.py): a command has another value than the one given, or one outside its bounds. The values are
  parsed and the settings built as before a run, and no run is started.
- files (fuzz_files.py): `imgtf data` does not account for every image of a folder; a parquet file lost rows or was
  cut; a damaged file of `imgtf compress` gives other codes; a command that failed left a result, or the reverse.

Each kind runs in a worker process that is forked after the imports and replaced after a hang or a crash. Prints a table
and the faults, and exits with 1 if there are any. Case i of a seed is always the same.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import torch

SECONDS, BYTES = 30, 8 << 30
OUTCOMES = ("correct", "error", "wrong", "traceback", "hang", "crash")
Case = Callable[[int, Path], tuple[str, str, str]]


def work(case: Case, folder: Path, cases: Iterator[int], results: Connection) -> None:
    """Run cases, and send the outcome of each."""
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)  # libtiff writes there
    warnings.simplefilter("ignore")
    for index in cases:
        try:
            results.send(case(index, folder))
        except BaseException:
            results.send(("", "traceback", "".join(traceback.format_exc()[-900:])))


def outcomes(case: Case, first: int, count: int) -> Iterator[tuple[int, str, str, str]]:
    """Yield case, mutation, outcome and note of all cases."""
    context, index = multiprocessing.get_context("fork"), first
    with tempfile.TemporaryDirectory() as folder:
        while index < first + count:
            ours, theirs = context.Pipe(duplex=False)
            cases = iter(range(index, first + count))
            worker = context.Process(target=work, args=(case, Path(folder), cases, theirs))
            worker.start()
            theirs.close()
            while index < first + count:
                try:
                    if not ours.poll(SECONDS):
                        found = ("", "hang", f"more than {SECONDS} seconds")
                        worker.kill()
                    else:
                        found = ours.recv()
                except EOFError:
                    worker.join()
                    found = ("", "crash", f"exit code {worker.exitcode}")
                yield (index, *found)
                index += 1
                if found[1] in ("hang", "crash"):
                    break
            worker.join()


def table(counts: dict[str, Counter[str]], seconds: dict[str, float]) -> str:
    """The counts as Markdown."""
    rows = [("kind", "cases", *OUTCOMES, "seconds"), ("---", *["---:"] * (len(OUTCOMES) + 2))]
    for kind, own in counts.items():
        numbers = [f"{own[outcome]:,}" for outcome in OUTCOMES]
        rows.append((kind, f"{own.total():,}", *numbers, f"{seconds[kind]:.0f}" if kind in seconds else ""))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for kind, count in (("images", 20_000), ("weights", 5_000), ("options", 10_000), ("files", 2_000)):
        parser.add_argument(f"--{kind}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cache = tempfile.TemporaryDirectory()
    os.environ |= {"HF_HOME": cache.name, "HF_HUB_OFFLINE": "1"}
    from imgtf.benchmarks import fuzz_files, fuzz_images, fuzz_options, fuzz_weights

    kinds = {"images": fuzz_images, "weights": fuzz_weights, "options": fuzz_options, "files": fuzz_files}
    counts: dict[str, Counter[str]] = {}
    seconds: dict[str, float] = {}
    faults = []
    for kind, module in kinds.items():
        if not getattr(given, kind):
            continue
        start, own = time.perf_counter(), Counter[str]()
        for index, mutation, outcome, note in outcomes(module.case, given.seed, getattr(given, kind)):
            own[outcome] += 1
            counts.setdefault(f"{kind}: {mutation or '?'}", Counter())[outcome] += 1
            if outcome not in ("correct", "error"):
                faults.append(f"{kind} {index}: {outcome}: {note}")
        counts = {k: v for k, v in counts.items() if not k.startswith(f"{kind}: ")} | {kind: own} | {
            k: counts[k] for k in sorted(counts) if k.startswith(f"{kind}: ")
        }  # fmt: skip
        seconds[kind] = time.perf_counter() - start
        print(f"{kind}: {own.total()} cases in {seconds[kind]:.0f} s", file=sys.stderr, flush=True)
    print(table(counts, seconds))
    print(f"\n{len(faults)} faults", *faults[:50], sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
