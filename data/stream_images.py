"""Images of a stream as tensors: decoded in the loader's processes, which get the encoded bytes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from PIL import Image

from ..errors import CheckpointError, ConfigError, DataError
from .decode import BadImage, load_image
from .images import ImageDataset
from .loader import Batch, batches_of, train_batches
from .stream import Position, Stream, StreamSample

logger = logging.getLogger("imgtf")


class StreamImages:
    """Converts samples of a stream as `ImageDataset` converts the images of a source."""

    def __init__(self, images: ImageDataset, keep_bad: bool = False) -> None:
        """`keep_bad`: unreadable images are black; else another image of the batch stands for each."""
        self.images, self.keep_bad = images, keep_bad

    def batch(self, samples: list[StreamSample]) -> list[dict[str, Any]]:
        """Return the items of one batch.

        Returns:
            As `ImageDataset`, with `position` (7,) int64, the `Position` after the sample, and its `epoch`. `index` is
            the number of the sample.

        Raises:
            DataError: an unreadable image and `bad_images` is "fail", or no image of the batch can be read.
        """
        pixels = [self._pixels(sample) for sample in samples]
        bad = [own for own in pixels if isinstance(own, BadImage)]
        if bad and self.images.config.bad_images == "fail":
            raise DataError(f"{bad[0]}: repair or remove it, or use --bad-images skip")
        if len(bad) == len(samples) and not self.keep_bad:
            raise DataError(f"{bad[0]}: like all {len(bad)} images of its batch")
        return [self._item(samples, pixels, number) for number in range(len(samples))]

    def _pixels(self, sample: StreamSample) -> torch.Tensor | BadImage:
        try:
            image = load_image(sample.image, sample.where, self.images.at_least)
            return self.images.pixels(image, sample.id, sample.epoch, lambda: sample.where)
        except BadImage as error:
            return error

    def _item(
        self, samples: list[StreamSample], pixels: list[torch.Tensor | BadImage], number: int
    ) -> dict[str, Any]:
        image, shown = pixels[number], samples[number]
        bad = str(image) if isinstance(image, BadImage) else ""
        if isinstance(image, BadImage) and self.keep_bad:
            image = self.images.pixels(Image.new("L", (8, 8)), 0, 0, str)
        elif isinstance(
            image, BadImage
        ):  # label and caption of the replacement, so that they match its pixels
            shown, image = next(
                (sample, own)
                for sample, own in zip(samples, pixels, strict=True)
                if isinstance(own, torch.Tensor)
            )
        label = -1 if shown.label is None else shown.label
        item = {
            "image": image,
            "label": label,
            "text": shown.text or "",
            "index": samples[number].id,
            "bad": bad,
        }
        position = torch.tensor(samples[number].position)
        return item | {"position": position, "epoch": samples[number].epoch}


class TrainingStream:
    """The endless batches of a run, and the place in the data set up to which they have been used."""

    def __init__(
        self,
        images: ImageDataset,
        seed: int,
        buffer: int,
        rank: int = 0,
        world: int = 1,
        positions: torch.Tensor | None = None,
    ) -> None:
        """
        Args:
            buffer: samples that are shuffled together.
            positions: state of a run that goes on, see `load_state`.
        """
        if images.source.stream is None:
            raise ValueError(f"{images.source.name} is no stream")
        self.images, self.stream = images, images.source.stream
        self.seed, self.buffer, self.rank, self.world = seed, buffer, rank, world
        self._start([Position(lane, size=buffer) for lane in range(world)])
        if positions is not None:
            self.load_state(positions)

    def _start(self, lanes: list[Position]) -> None:
        """`lanes`: the positions of all processes; those of other processes may be unknown (size 0)."""
        self.lanes = lanes
        self.own = {lane: lanes[lane] for lane in range(self.rank, len(lanes), self.world)}

    def batches(self, batch_size: int, start_step: int, workers: int = 0) -> Iterator[Batch]:
        """Yield the batches of this process from the current position on.

        Args:
            batch_size: images over all processes.
            start_step: micro-batches before; with several lanes per process they take turns.
        """
        if batch_size % self.world:
            raise ConfigError(
                f"a batch of {batch_size} images cannot be divided evenly among {self.world} processes"
            )
        order = self._order(batch_size // self.world, start_step)
        for batch in batches_of(StreamImages(self.images), order, workers):
            last = Position(*batch.pop("position")[-1].tolist())
            self.own[last.lane] = last
            yield batch

    def _order(self, size: int, step: int) -> Iterator[list[StreamSample]]:
        lanes = [
            self.stream.shuffled(position, len(self.lanes), self.seed, self.buffer)
            for position in self.own.values()
        ]
        while True:
            yield list(islice(lanes[step % len(lanes)], size))
            step += 1

    def state(self) -> torch.Tensor:
        """Return the position of each lane, (lanes, 7) int64; zeros for the lanes of other processes."""
        positions = torch.zeros(len(self.lanes), len(Position._fields), dtype=torch.int64)
        for lane, position in self.own.items():
            positions[lane] = torch.tensor(position)
        return positions

    def load_state(self, positions: torch.Tensor) -> None:
        """Go on where a run stopped.

        Args:
            positions: sum of `state` over the processes of that run; with as many processes, that of this process.

        Raises:
            CheckpointError: the position of a lane of this process is not known.
        """
        lanes = [Position(*own) for own in positions.tolist()]
        self._start(lanes)
        if not self.own or not all(position.size for position in self.own.values()):
            raise CheckpointError(
                f"the run divided its stream among {len(lanes)} processes: resume it with at most as many"
            )


class TrainingBatches:
    """The endless batches of a run, from images in any order or from a stream, and their part of its state."""

    def __init__(self, images: ImageDataset, seed: int, workers: int) -> None:
        self.images, self.seed, self.workers = images, seed, workers
        self.stream: TrainingStream | None = None
        self._loaded: torch.Tensor | None = None

    def batches(self, batch_size: int, start_step: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield the batches of a process without end, the first one of micro-batch `start_step` first.

        Args:
            batch_size: images over all processes.
        """
        if self.images.source.stream is None:
            return train_batches(
                self.images, batch_size, seed=self.seed, start_step=start_step, rank=rank, world=world,
                workers=self.workers,
            )  # fmt: skip
        if self._loaded is None and self.stream is not None:  # a second call goes on
            self._loaded = self.stream.state()
        buffer = self.images.config.shuffle_buffer
        self.stream = TrainingStream(self.images, self.seed, buffer, rank, world, self._loaded)
        self._loaded = None
        return self.stream.batches(batch_size, start_step, self.workers)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the part of the training state of this process. The order of images in memory needs none."""
        return {"stream": self.stream.state()} if self.stream else {}

    def merged(self, parts: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Return the state for another number of processes, from those of all processes of a run."""
        if self.images.source.stream is None:
            return {}
        states = [part["stream"] for part in parts if "stream" in part]
        return {"stream": torch.stack(states).sum(0)} if states else {}

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore the result of `tensors` for the next call of `batches`."""
        self._loaded = tensors.get("stream")


def ordered_batches(
    images: ImageDataset, batch_size: int, workers: int = 0, shard: int = 0, row: int = 0,
    rank: int = 0, world: int = 1,
) -> Iterator[Batch]:  # fmt: skip
    """Yield every sample of a stream once, in order, from a place on. Unreadable images have `bad` set.

    Args:
        rank, world: this process gets the batches `rank`, `rank + world` and so on. It reads all samples, and decodes
            its own.
    """
    stream: Stream | None = images.source.stream
    if stream is None:
        raise ValueError(f"{images.source.name} is no stream")
    samples = stream.in_order(shard, row)
    order = iter(lambda: list(islice(samples, batch_size)), [])
    own = islice(order, rank, None, world)
    return batches_of(StreamImages(images, keep_bad=True), own, workers)
