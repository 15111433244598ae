"""How much memory sampling takes, from the configurations alone: nothing is loaded and nothing computed.

The figures come on top of Python with torch (some 300 MiB on a CPU). `benchmarks/sampling_memory.py` compares them
with what a process takes.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..interop.part import blueprint
from ..prior.conditions.encoder import Condition
from ..prior.config import PriorConfig, SamplingConfig
from ..prior.decoding.filters import draw_codes, guide
from ..prior.decoding.packed import decoding_layers, packable
from ..prior.decoding.quantized import cast, compute_dtype
from ..prior.decoding.schedules import group_sizes, step_count
from ..prior.model import Prior
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer

DECODED_PIXELS = 2**18
"""Pixels that are decoded at once at most: four images of 256 px. More gains no speed and costs memory, which for a
convolutional decoder is by far the largest part (160 MiB an image of 256 px for `base`)."""
MOST_IMAGES = {"cpu": 64, "cuda": 256}
"""Images of an automatic batch at most. A step reads all weights whatever the batch; from some 10 rows on a CPU and 300
on an H100 (measured and published FLOP/s over bytes/s) arithmetic takes longer than that, and more rows gain little."""
KEPT_BACK = 2**25
"""What the C library keeps of freed memory: blocks below 32 MiB do not go back to the system at once (glibc)."""


@dataclass(frozen=True)
class SamplingMemory:
    """Bytes that sampling batch by batch takes above the bare process."""

    weights: int
    """Tokenizer and prior; on a CPU the prior's matrices once more, as its kernels read them."""
    cache: int
    """Keys and values of the batch."""
    choice: int
    """Logits and probabilities while codes are chosen; of a masked prior also its activations."""
    decoder: int
    """Activations of the images that are decoded at once."""
    pictures: int
    """Finished pictures that wait for the contact sheet, and the sheet."""
    loading: int
    """While the weights are read: on a CPU the file of the prior is in memory beside them."""
    captured: bool = False
    """Whether what sampling holds is kept for the next batch, as CUDA graphs do."""

    @property
    def beyond_weights(self) -> int:
        """What a batch needs once the models are loaded: the cache is given back before images are decoded, or kept."""
        together = sum if self.captured else max
        return together([self.cache + self.choice, self.decoder]) + self.pictures

    @property
    def peak(self) -> int:
        """The most at any time."""
        return max(self.loading, self.weights + self.beyond_weights)


def sampling_memory(
    prior: PriorConfig,
    tokenizer: TokenizerConfig,
    batch: int,
    *,
    kept: int = 0,
    settings: SamplingConfig | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> SamplingMemory:
    """What a batch needs.

    Args:
        kept: pictures that wait for the contact sheet.
        settings: the prior's own by default; guidance doubles the rows.
        device: cpu or cuda. On a GPU pictures and loading are the host's affair and not counted, and neither is the
            workspace of its convolutions.
        dtype: what the prior samples in, its cache too (bfloat16 with int8 weights). The tokenizer stays in float32,
            and so does the prior while it is read.
    """
    on_cpu = device == "cpu"
    sampling = settings or prior.sampling
    guided = sampling.cfg_scale != 1 and bool(prior.conditions)
    element = compute_dtype(dtype).itemsize
    parts = [weight_bytes(config) for config in (tokenizer, prior)]
    return SamplingMemory(
        weights=parts[0] + weight_bytes(prior, dtype) + laid_out_bytes(prior, dtype) * on_cpu,
        cache=cache_bytes(prior, (1 + guided) * batch, element, most_codes(prior, sampling) - 1),
        choice=choice_bytes(prior, batch, sampling, guided, dtype),
        decoder=decoder_bytes(tokenizer, min(batch, decoded_at_once(tokenizer))) + KEPT_BACK * on_cpu,
        pictures=picture_bytes(tokenizer, batch, kept) * on_cpu,
        loading=max(2 * parts[0], parts[0] + 2 * parts[1]) if on_cpu else sum(parts),
        captured=not on_cpu and prior.objective != "masked",
    )


@cache
def weight_bytes(config: TokenizerConfig | PriorConfig, dtype: torch.dtype = torch.float32) -> int:
    """All tensors of a network, whether trained or not."""
    return sum(t.nbytes for t in cast(blueprint(config), dtype).state_dict().values())


@cache
def laid_out_bytes(config: PriorConfig, dtype: torch.dtype = torch.float32) -> int:
    """The second copy of a prior's matrices, see `prior.linear`; none in a type that this CPU's kernels do not have."""
    with torch.no_grad():
        if dtype == torch.int8 or not packable(torch.empty(0, dtype=dtype)):
            return 0
    return sum(layer.weight.numel() for layer in decoding_layers(blueprint(config))) * dtype.itemsize


def parameter_count(config: TokenizerConfig | PriorConfig) -> int:
    """Trained parameters of a network."""
    return blueprint(config).parameter_count()


def cache_bytes(config: PriorConfig, rows: int, element: int = 4, beside: int = 0) -> int:
    """Keys and values of all slots of so many sequences, and of the memory that they read; masked priors keep none.

    `beside`: codes that a step draws in addition to the first, which take slots of their own.
    """
    if config.objective == "masked":
        return 0
    slots = config.sequence_length + beside + config.encoder_length
    return 2 * config.depth * rows * slots * config.key_heads * config.head_width * element


@cache
def choice_bytes(
    config: PriorConfig,
    images: int,
    settings: SamplingConfig,
    guided: bool,
    dtype: torch.dtype = torch.float32,
) -> int:
    """The most bytes while a step chooses its codes: logits with and without condition, or logits and tables of
    probabilities. A masked prior has logits for all codes, beside those of the step before, and chooses image by image.
    """
    masked = config.objective == "masked"
    k, V = config.tokens if masked else most_codes(config, settings), config.codebook_size
    rows = (1 + guided) * images
    with torch.no_grad(), LiveBytes([]) as guiding:
        logits = torch.empty(rows, k, V, device="meta")
        logits = guide(logits, settings.cfg_scale) if guided else logits
    with torch.no_grad(), LiveBytes([logits]) as choosing:
        uniform = torch.empty(
            logits.shape[1:-1] if masked else logits.shape[:-1], device="meta", dtype=torch.float64
        )
        draw_codes(logits[0].clone() if masked else logits, uniform, settings, settings.temperature)
    if masked:
        return logits.nbytes + max(guiding.peak, pass_bytes(config, rows, dtype), choosing.peak)
    head = 0
    if dtype == torch.int8:  # turned back beside what it is multiplied to, in halves and then in float32
        head = V * config.width * compute_dtype(dtype).itemsize + rows * k * V * 6
    return max(guiding.peak, logits.nbytes + choosing.peak, head)


def most_codes(config: PriorConfig, settings: SamplingConfig) -> int:
    """Codes that a step draws at most."""
    return max(group_sizes(config.tokens, step_count(config, settings), settings.step_schedule))


@cache
def pass_bytes(config: PriorConfig, rows: int, dtype: torch.dtype = torch.float32) -> int:
    """Activations and logits of a masked prior's pass over the whole grid."""
    model = cast(blueprint(config), dtype).eval()
    assert isinstance(model, Prior)
    codes = torch.full((rows, config.tokens), -1, device="meta")
    with torch.no_grad(), LiveBytes([*model.parameters(), *model.buffers()]) as live:
        encoded = model.encode(Condition(), rows)
        model.masked_logits(codes, encoded, config.grid)
    return live.peak


def picture_bytes(config: TokenizerConfig, batch: int, kept: int) -> int:
    """8-bit pictures of a batch, and so many kept for the contact sheet, beside the sheet itself."""
    return (batch + 2 * kept) * config.image_size**2 * config.channels


def decoded_at_once(config: TokenizerConfig) -> int:
    """Images that the decoder takes together."""
    return max(1, DECODED_PIXELS // config.image_size**2)


@cache
def decoder_bytes(config: TokenizerConfig, images: int) -> int:
    """The most bytes of activations alive at once while so many images are decoded in float32.

    Attention counts with its whole matrix, which most devices need not make.
    """
    model = blueprint(config).eval()
    assert isinstance(model, Tokenizer)
    h, w = config.grid
    latents = torch.empty(images, config.codebook_dim, h, w // config.codes_per_latent, device="meta")
    with torch.no_grad(), LiveBytes([*model.parameters(), *model.buffers()]) as live:
        model.decode_vectors(latents).clamp(-1, 1)
    return live.peak


class LiveBytes(TorchDispatchMode):
    """Adds up the bytes of all tensors alive in the block, but for the `given` ones; works on the meta device too.

    Kernels' own scratch memory is not seen.
    """

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in given}
        self.given = given  # alive as long as their numbers are known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and not tensor.is_mkldnn:  # oneDNN's layouts show no storage
                self._add(tensor)
        self.peak = max(self.peak, self.now)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def auto_batch(
    prior: PriorConfig,
    tokenizer: TokenizerConfig,
    n: int,
    free: int,
    *,
    settings: SamplingConfig | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    processes: int = 1,
) -> int:
    """Images to sample at once: the largest power of two that fits in half of the free bytes, at most `MOST_IMAGES`.

    The n images are then shared out evenly over batches and processes.
    """
    most = MOST_IMAGES.get(device, MOST_IMAGES["cpu"])
    while most > 1:
        needed = sampling_memory(prior, tokenizer, most, settings=settings, device=device, dtype=dtype)
        if needed.beyond_weights * 2 <= free:
            break
        most //= 2
    rounds = -(-n // (most * processes))
    return -(-n // (rounds * processes))


def free_memory(device: torch.device, processes: int = 1) -> int:
    """Bytes that may still be taken on the device, each of so many processes on this machine its share."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(psutil.virtual_memory().available, *_container_limits()) // processes


def _container_limits() -> list[int]:
    """What a container's limit leaves, where there is one (control groups, version 2)."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        files = next(int(value) for name, value in rows if name == "inactive_file")  # given back when needed
        return [int(limit) - int(used) + files]
    except (OSError, ValueError, StopIteration):  # no such limit, or "max"
        return [2**63]
