"""Micro-batches leave the same codebook as the whole batch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from imgtf.tokenizer.accumulation import CodebookAccumulator
from imgtf.tokenizer.quantizer import make_quantizer

from .test_quantizer import config

KINDS = ["vq", "vq_euclidean", "vq_learned", "residual", "residual_learned"]


def batches(count: int = 3) -> list[Tensor]:
    return [torch.randn(8, 4, 3, 5, generator=torch.Generator().manual_seed(i)) for i in range(count)]


@pytest.mark.parametrize("threshold", [0.0, 1.5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [2, 8])
def test_micro_batches_leave_the_codebook_of_the_whole_batch(kind: str, threshold: float, parts: int) -> None:
    torch.manual_seed(0)
    whole = make_quantizer(config(kind, dead_code_threshold=threshold)).train()
    split = copy.deepcopy(whole)
    accumulator = CodebookAccumulator(split)
    for step, batch in enumerate(batches()):
        torch.manual_seed(step)  # dead codes are replaced by random latents
        codes = whole(batch).codes
        torch.manual_seed(step)
        assert torch.equal(torch.cat([split(part).codes for part in batch.chunk(parts)]), codes)
        accumulator.update()
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(split.state_dict()[name], tensor, msg=name)


def test_evaluation_between_micro_batches_changes_nothing() -> None:
    split = make_quantizer(config("vq")).train()
    before = {name: tensor.clone() for name, tensor in split.state_dict().items()}
    accumulator = CodebookAccumulator(split)
    split.eval()(batches(1)[0])
    accumulator.update()
    assert all(torch.equal(split.state_dict()[name], tensor) for name, tensor in before.items())
