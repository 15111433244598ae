"""Captured steps: a step recorded once and replayed, as a CUDA graph does it, gives the same codes.

CPU tests use `Tapes` in place of CUDA graphs: it records the operations of one run with their tensors and numbers, and
repeats them. A number that was read during the recording stays the same in all replays. No CUDA graph is tested.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from imgtf.errors import ConfigError
from imgtf.prior.conditions.condition import Condition
from imgtf.prior.config import SamplingConfig
from imgtf.prior.decoding import cache
from imgtf.prior.decoding.captured import Step
from imgtf.prior.decoding.decoder import Decoder
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.prior.model import Prior

from ..test_model import tiny
from ..test_objectives import KINDS, some_condition


class Tape(TorchDispatchMode):
    """Records every operation of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """Run the operations on the same tensors; results of operations are replaced by their new values."""
        new: dict[int, Tensor] = {}

        def current(leaf: Any) -> Any:
            return new.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf

        for func, args, kwargs, result in self.operations:
            again = func(*tree_map(current, args), **tree_map(current, kwargs))
            for old, value in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor):
                    new[id(old)] = value


class Tapes:
    """A `Recorder` that uses tapes."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.tapes: list[Tape] = []

    def warm_up(self, step: Step) -> None:
        step()

    def record(self, step: Step) -> Step:
        assert self.decoder._captured is not None
        state = self.decoder._captured.batch.state
        before = [(t, t.clone()) for t in state.tensors()]
        with Tape() as tape:
            step()
        for tensor, value in before:
            tensor.copy_(value)
        self.tapes.append(tape)
        return tape.replay


def recording(prior: Prior) -> tuple[Decoder, list[Tape]]:
    """A decoder that records on tapes, and its tapes."""
    decoder = Decoder(prior)
    recorder = Tapes(decoder)
    decoder._recorder = recorder
    return decoder, recorder.tapes


@pytest.fixture(autouse=True)
def small_capacities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CPU_STRIDE", 8)


SETTINGS = [
    SamplingConfig(top_k=5),
    SamplingConfig(cfg_scale=2.5, top_p=0.9, temperature=0.8),
    SamplingConfig(cfg_scale=3.0, cfg_schedule="linear", final_temperature=0.5, min_p=0.05),
]
PRIORS = [
    {},
    {"kv_heads": 1, "norm": "layer", "positions": "learned", "rotary": "none"},
    {"objective": "random", "positions": "sinusoidal-2d", **KINDS["all"]},
    KINDS["prefix features"],
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("changes", PRIORS)
def test_replayed_steps_give_the_same_codes(changes: dict[str, Any], settings: SamplingConfig) -> None:
    """Also for later batches, which are copied into the memory of the first; these record nothing."""
    prior = tiny(grid=(5, 5), **changes)
    decoder, tapes = recording(prior)
    recorded = []
    for seed in (1, 2, 3):
        uniforms, condition = image_uniforms(seed, 0, 3, 25), some_condition(prior, 3)
        expected = sample(prior, condition, uniforms, settings)
        assert torch.equal(sample(decoder, condition, uniforms, settings), expected)
        recorded.append(len(tapes))
    assert recorded[0] > 0
    assert recorded[2] == recorded[1] >= 3  # one per capacity of the cache


def test_a_step_reads_nothing_from_the_host() -> None:
    """A CUDA graph cannot hold numbers read from tensors, random numbers, or numbers that become tensors."""
    prior = tiny(grid=(5, 5), objective="random", **KINDS["all"])
    settings = SamplingConfig(cfg_scale=2.0, top_k=5, top_p=0.9, min_p=0.01, temperature=0.9)
    decoder, tapes = recording(prior)
    sample(decoder, some_condition(prior, 2), image_uniforms(0, 0, 2, 25), settings)
    names = {func.overloadpacket.__name__ for tape in tapes for func, *_ in tape.operations}
    assert "index_copy_" in names
    synchronising = {"scalar_tensor", "_local_scalar_dense", "nonzero", "masked_select", "item", "unique_dim"}
    assert names & (synchronising | {"rand", "bernoulli_"}) == set()


def test_other_shapes_settings_or_weights_are_recorded_again() -> None:
    prior, settings = tiny(grid=(3, 4)), SamplingConfig(top_k=5)
    decoder, tapes = recording(prior)

    def new_tapes(rows: int, settings: SamplingConfig) -> int:
        uniforms, condition = image_uniforms(0, 0, rows, 12), Condition(label=torch.arange(rows) % 3)
        before = len(tapes)
        codes = sample(decoder, condition, uniforms, settings)
        assert torch.equal(codes, sample(prior, condition, uniforms, settings))
        return len(tapes) - before

    assert new_tapes(2, settings) > 0
    assert new_tapes(2, settings) == 0
    assert new_tapes(3, settings) > 0
    assert new_tapes(3, replace(settings, top_k=4)) > 0
    with torch.no_grad():
        prior.norm.weight.mul_(2)
    assert new_tapes(3, replace(settings, top_k=4)) == 0  # read from the same address
    prior.load_state_dict(deepcopy(prior).state_dict(), assign=True)
    assert new_tapes(3, replace(settings, top_k=4)) > 0


def test_known_codes_stay_and_steps_of_several_codes_are_not_recorded() -> None:
    prior = tiny(grid=(4, 5), objective="random", rotary="target")
    known = torch.full((2, 20), -1)
    known[:, [3, 4, 9]] = torch.tensor([1, 2, 3])
    settings = SamplingConfig(sampling_steps=14, step_schedule="cosine", cfg_scale=2.0)
    uniforms, condition = image_uniforms(0, 0, 2, 20), Condition(label=torch.tensor([0, 1]))
    expected = sample(prior, condition, uniforms, settings, known=known)
    decoder, tapes = recording(prior)
    for _ in range(2):
        codes = sample(decoder, condition, uniforms, settings, known=known)
        assert torch.equal(codes, expected)
    assert tapes
    assert torch.equal(expected[:, [3, 4, 9]], known[:, [3, 4, 9]])


def test_codes_of_a_batch_stay_when_the_next_one_is_sampled() -> None:
    decoder, _ = recording(tiny(grid=(3, 4)))
    codes = sample(decoder, Condition(), image_uniforms(0, 0, 2, 12), SamplingConfig())
    kept = codes.clone()
    sample(decoder, Condition(), image_uniforms(1, 0, 2, 12), SamplingConfig())
    assert torch.equal(codes, kept)


def test_a_step_that_cannot_be_captured_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise RuntimeError("operation not permitted\nmore")

    prior, uniforms = tiny(grid=(3, 4)), image_uniforms(0, 0, 2, 12)
    decoder, _ = recording(prior)
    monkeypatch.setattr(Tapes, "record", refused)
    with pytest.warns(UserWarning, match=r"without CUDA graphs.*\(operation not permitted\)"):
        codes = sample(decoder, Condition(), uniforms, SamplingConfig())
    assert torch.equal(codes, sample(prior, Condition(), uniforms, SamplingConfig()))


def test_a_copy_of_a_decoder_records_its_own_steps() -> None:
    decoder, _ = recording(tiny(grid=(3, 4)))
    sample(decoder, Condition(), image_uniforms(0, 0, 2, 12), SamplingConfig())
    assert decoder._captured is not None
    decoder._recorder = None
    assert deepcopy(decoder)._captured is None


def test_capture_is_off_by_default_and_needs_a_gpu() -> None:
    prior = tiny()
    assert not Decoder(prior).capture
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="capture needs a CUDA GPU"):
            Decoder(prior, capture=True)
