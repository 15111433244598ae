"""Range coding of the codes of one image under a prior (Martin 1979), with the package `constriction`.

Encoder and decoder run the same steps of the prior, one code after the other, on one thread: their probabilities are
equal to the last bit. On another machine or with another version of torch they may not be.

Shapes: T tokens, V codebook size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import CheckpointError, ImgtfError
from ...prior.decoding.request import Progress
from ...prior.decoding.stepwise import Stepwise

WORD, STATE_WORDS = 4, 2
"""Bytes of a word, and words of the coder's state, in constriction."""


class NotDecodable(Exception):
    """A payload that no codes have."""


@torch.no_grad()
def encode_codes(start: Callable[[], Stepwise], codes: Tensor, progress: Progress) -> bytes:
    """Return the codes (T,), in the order of the steps, as the fewest bytes that decode to them."""
    coding = _constriction()
    encoder = coding.queue.RangeEncoder()
    with one_thread():
        steps = start()
        for code in codes.tolist():
            encoder.encode(code, _distribution(coding, steps.logits()))
            steps.append(code)
            progress(1)
    return shortest(encoder)


@torch.no_grad()
def decode_codes(start: Callable[[], Stepwise], payload: bytes, progress: Progress) -> Tensor:
    """Return the codes (T,) of a payload, in the order of the steps. Most wrong payloads decode to wrong codes.

    Raises:
        NotDecodable: the payload cannot have been encoded with these probabilities.
    """
    coding = _constriction()
    words = payload + bytes(-len(payload) % WORD + STATE_WORDS * WORD)
    decoder = coding.queue.RangeDecoder(np.frombuffer(words, ">u4").astype(np.uint32))
    with one_thread():
        steps = start()
        for _ in range(len(steps.order)):
            steps.append(_decode_one(decoder, _distribution(coding, steps.logits())))
            progress(1)
    return steps.codes[0, steps.order].cpu()


def _decode_one(decoder: Any, distribution: Any) -> int:
    try:
        return int(decoder.decode(distribution))
    except AssertionError as error:  # what constriction raises
        raise NotDecodable(str(error)) from error


def shortest(encoder: Any) -> bytes:
    """Return the shortest bytes within the encoder's final interval, where zeros follow them.

    constriction returns whole words, up to 7 bytes more.
    """
    position, (lower, width) = encoder.pos()
    point = encoder.get_compressed().astype(">u4").tobytes()
    bits = 8 * WORD * (position + STATE_WORDS)
    inside = int.from_bytes(point.ljust(bits // 8, b"\0"))
    low = (inside >> 64 << 64) + lower  # the state is the interval's lower end without the words before it
    low -= (low > inside) << 64
    for size in range(bits // 8 + 1):
        unit = bits - 8 * size
        multiple = -(-low >> unit)  # rounded up
        if multiple << unit < low + width:
            return multiple.to_bytes(size)
    raise AssertionError("an interval holds its lower end")


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread of the CPU: sums over several threads depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _distribution(coding: Any, logits: Tensor) -> Any:
    """Return the distribution of one code as the coder quantises it, in steps of 2**-24."""
    p = logits.double().softmax(-1).cpu().numpy()
    if not np.isfinite(p).all():
        raise CheckpointError("the prior's logits are not finite: its weights are damaged; train it again")
    return coding.model.Categorical(p, lazy=True)


def _constriction() -> Any:
    try:
        from constriction import stream
    except ImportError as error:
        raise ImgtfError(f"compression needs a package ({error}): pip install imgtf[compress]") from error
    return stream
