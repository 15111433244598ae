"""Kill training runs at random instants, resume them, and compare their end with that of an uninterrupted run.

    python benchmarks/kill.py [--kills 50] [--data digits,jpeg] [--stages tokenizer,prior] [--steps 30] [--seed 0]
        [--out DIR]

A run is killed with SIGKILL and resumed until it ends; then another one begins, until there were as many kills. Every
second kill comes at a random time, the others before a random change of a file (created, renamed, linked, removed),
most of which belong to the writing of a state. After every kill the folder must hold no model or one that loads. At the
end of each run, weights, state and log must equal those of the run without kills, bit for bit.

Processes are forked from one that has imported everything, and draw no plots: both take longer than these runs. Prints
a line of JSON per stage and data set, and exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import sklearn.datasets
import torch
from PIL import Image
from safetensors.torch import load_file

from imgtf.cli import main as imgtf
from imgtf.pipelines import run as runs
from imgtf.pipelines import train
from imgtf.prior.model import Prior
from imgtf.tokenizer.model import Tokenizer
from imgtf.training.states import latest_state

LOADED = (train, sklearn.datasets)
"""Imported for the processes that are forked."""
RUN = "--preset tiny --batch-size 8 --save-every 3 --eval-every 6 --log-every 4 --preview-every 10"
SMALL = f"{RUN} --eval-images 16 --keep-states 2 --device cpu"
OPTIONS = {
    "tokenizer": f"{SMALL} --width 8 --multipliers 1,2 --latent-width 8 --norm-groups 4 --codebook-size 16 "
    "--codebook-dim 4",
    "prior": f"{SMALL} --width 16 --depth 2 --heads 2 --dropout 0.1",
}
OF_DATA = {
    "digits": {"tokenizer": "--workers 0", "prior": ""},
    "jpeg": {
        "tokenizer": "--image-size 16 --workers 1 --gradient-accumulation-steps 2 --discriminator-weight 0.5 "
        "--discriminator-start 10 --discriminator-ramp 5 --discriminator-width 8",
        "prior": "--objective random --anneal 0.2,0.8",
    },
}
CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "open")
"""Events of `sys.audit` that change files; `open` only for writing."""
AT_MOST = 60.0
"""Seconds of a process before something hangs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="of each stage and data set")
    parser.add_argument("--data", default="digits,jpeg")
    parser.add_argument("--stages", default="tokenizer,prior")
    parser.add_argument("--steps", type=int, default=30, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the model folders here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(args.seed)
    runs.draw_plots = lambda *_: None  # they take longer than the training
    folder = args.out or Path(tempfile.mkdtemp(prefix="imgtf-kill-"))
    folder.mkdir(parents=True, exist_ok=True)
    equal = True
    for data in args.data.split(","):
        source = draw_jpegs(folder / "images") if data == "jpeg" else data
        for stage in ("tokenizer", "prior") if "prior" in args.stages else ("tokenizer",):
            run = Runs(folder / data, stage, str(source), f"{OF_DATA[data][stage]} --steps {args.steps}")
            run.whole()
            if stage in args.stages.split(","):
                counts = run.kill(args.kills)
                equal = equal and not counts["differing runs"] + counts["models that do not load"]
                print(json.dumps({"data": data, "stage": stage, **counts}), flush=True)
    if not args.out:
        shutil.rmtree(folder)
    sys.exit(0 if equal else 1)


class Runs:
    """The runs of one stage on one data set."""

    def __init__(self, folder: Path, stage: str, data: str, options: str) -> None:
        self.folder, self.stage = folder, stage
        self.options = [stage, "train", "--data", data, *OPTIONS[stage].split(), *options.split()]
        self.seconds = self.events = 0.0
        """Of a whole run."""

    def whole(self) -> None:
        """Train without a kill, and measure how long it takes and how often it changes files."""
        before = time.monotonic()
        counted = self.folder / "events"
        counted.parent.mkdir(parents=True, exist_ok=True)
        code = self.process(self.folder / "whole", lambda: count_changes(self.folder / "whole", counted))
        if code != 0:
            sys.exit(f"the run without kills failed: {self.folder / 'log.txt'}")
        self.seconds, self.events = time.monotonic() - before, int(counted.read_text())

    def kill(self, kills: int) -> Counter[str]:
        """Kill runs until there were as many kills; return what was found."""
        counts: Counter[str] = Counter(
            {"kills": 0, "while a state was written": 0, "while weights were written": 0, "before the first state": 0,
             "models that do not load": 0, "ended runs": 0, "differing runs": 0}
        )  # fmt: skip
        folder = self.folder / "killed"
        began = time.monotonic()
        while counts["kills"] < kills or folder.exists():
            if not folder.exists():
                self.begin(folder)
            more = counts["kills"] < kills
            code = self.process(folder, self.instant(folder, counts["kills"]) if more else None)
            if code == -signal.SIGKILL:
                self.look(folder, counts)
            elif code == 0:
                counts["ended runs"] += 1
                counts["differing runs"] += not self.equal(folder)
                shutil.rmtree(folder)
            else:
                sys.exit(f"exit code {code}: {self.folder / 'log.txt'}")
        counts["seconds"] = round(time.monotonic() - began)
        return counts

    def begin(self, folder: Path) -> None:
        """A new model folder; for a prior with the tokenizer of the whole run."""
        folder.mkdir()
        if self.stage == "prior":
            shutil.copytree(self.folder / "whole" / "tokenizer", folder / "tokenizer")

    def instant(self, folder: Path, number: int) -> Callable[[], None]:
        """What kills the next process: a time or a change of a file. A part of a run only, so that runs have many."""
        if number % 2:
            delay = random.uniform(0.05, 0.6 * self.seconds)
            return lambda: kill_after(delay)
        left = random.randint(1, max(2, int(0.3 * self.events)))
        return lambda: kill_before_change(folder, left)

    def process(self, folder: Path, prepare: Callable[[], None] | None) -> int:
        """Train in a forked process, or resume where there is a state; return the exit code, negative for a signal."""
        resume = latest_state(folder / "training" / self.stage / "state") is not None
        more = [self.stage, "train", "--resume"] if resume else [*self.options, "--force"]
        child = os.fork()
        if child == 0:
            enter(self.folder / "log.txt", [*more, "--model", str(folder)], prepare)
        deadline = time.monotonic() + AT_MOST
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                sys.exit(f"a process hangs: {self.folder / 'log.txt'}")
            time.sleep(0.005)
        return os.waitstatus_to_exitcode(ended[1])

    def look(self, folder: Path, counts: Counter[str]) -> None:
        """Look at what a killed process left. Loading raises where the model is damaged."""
        counts["kills"] += 1
        states = folder / "training" / self.stage / "state"
        counts["while a state was written"] += any(states.glob("*.tmp"))
        counts["while weights were written"] += any((folder / self.stage).glob("*.tmp"))
        counts["before the first state"] += latest_state(states) is None
        cls = Tokenizer if self.stage == "tokenizer" else Prior
        if (folder / self.stage / "config.json").exists():
            try:
                cls.from_pretrained(folder, "cpu")
            except Exception as error:  # whatever it is, it is counted
                print(error, file=sys.stderr)
                counts["models that do not load"] += 1

    def equal(self, folder: Path) -> bool:
        """Whether weights, state and log are those of the whole run."""
        return self.result(folder) == self.result(self.folder / "whole")

    def result(self, folder: Path) -> Any:
        own = folder / "training" / self.stage
        state = latest_state(own / "state")
        assert state is not None
        files = [*sorted(state.glob("*.safetensors")), folder / self.stage / "model.safetensors"]
        tensors = {
            f"{file.name}/{name}": tensor.numpy().tobytes()
            for file in files
            for name, tensor in load_file(file).items()
        }
        rows = [json.loads(line) for line in (own / "log.jsonl").read_text().splitlines()]
        timed = ("images_per_second", "seconds")
        log = [{key: value for key, value in row.items() if key not in timed} for row in rows]
        leftover = sorted(path.name for path in folder.rglob("*.tmp"))
        return tensors, log, (folder / "README.md").exists(), leftover


def enter(log: Path, arguments: list[str], prepare: Callable[[], None] | None) -> NoReturn:
    """In a forked process: run a command and end the process."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = 1
    try:
        if prepare:
            prepare()
        imgtf(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stderr.flush()
        os._exit(code)


def on_change(folder: Path, action: Callable[[], None]) -> None:
    """Call `action` before this process changes a file in the folder. Cannot be undone."""
    inside = str(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or not str(arguments[0]).startswith(inside):
            return
        if event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR):
            action()

    sys.addaudithook(hook)


def kill_before_change(folder: Path, number: int) -> None:
    """Kill this process before it changes a file for the nth time."""
    left = [number]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    on_change(folder, count)


def count_changes(folder: Path, counted: Path) -> None:
    """Write how often this process has changed a file."""
    file, number = os.open(counted, os.O_CREAT | os.O_WRONLY), [0]

    def count() -> None:
        number[0] += 1
        os.pwrite(file, str(number[0]).encode(), 0)

    on_change(folder, count)


def kill_after(seconds: float) -> None:
    """Kill this process after a time, from another one, at whatever it does then."""
    target = os.getpid()
    if os.fork() == 0:
        if os.fork() == 0:  # init waits for it
            time.sleep(seconds)
            os.kill(target, signal.SIGKILL)
        os._exit(0)
    os.wait()


def draw_jpegs(folder: Path) -> Path:
    """The digits of scikit-learn as JPEGs of 24 px in class folders."""
    digits = sklearn.datasets.load_digits()
    for i, (pixels, label) in enumerate(zip(digits.images[:400], digits.target[:400], strict=True)):
        file = folder / str(label) / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15.9).astype("uint8")).resize((24, 24)).convert("RGB").save(
            file, quality=90
        )
    return folder


if __name__ == "__main__":
    main()
