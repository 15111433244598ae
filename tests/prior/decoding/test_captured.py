"""The step as a function of tensors: recorded once and replayed, as a CUDA graph does it, it draws the same codes.

Without a GPU the graph is played by `Tape`, which notes the operations of one run with the very tensors and numbers
they got, and later repeats them: what was a number then is the same number in all later steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from imgtf.prior.conditions.condition import Condition
from imgtf.prior.config import SamplingConfig
from imgtf.prior.decoding import cache
from imgtf.prior.decoding import captured as capture
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.prior.model import Prior

from ..test_model import tiny
from ..test_objectives import KINDS, some_condition


class Tape(TorchDispatchMode):
    """Notes every operation in the block."""

    def __init__(self) -> None:
        super().__init__()
        self.played: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.played.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """Every operation again: on the tensors of the first time, or on what took the place of its results."""
        made: dict[int, Tensor] = {}

        def now(leaf: Any) -> Any:
            return made.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf

        for func, args, kwargs, result in self.played:
            again = func(*tree_map(now, args), **tree_map(now, kwargs))
            for old, new in zip(tree_leaves(result), tree_flatten(again)[0], strict=True):
                if isinstance(old, Tensor):
                    made[id(old)] = new


class Recorder:
    """Stands for `capture.record`: capturing runs nothing that lasts."""

    def __init__(self, prior: Prior) -> None:
        self.prior, self.tapes = prior, list[Tape]()

    def __call__(self, step: Callable[[], None], device: torch.device) -> Callable[[], None]:
        assert self.prior.recording is not None
        state = self.prior.recording.state
        before = [(t, t.clone()) for t in state.tensors()]
        with Tape() as tape:
            step()
        for tensor, value in before:
            tensor.copy_(value)
        self.tapes.append(tape)
        return tape.replay


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Tensor, Recorder]]:
    """Samples as on a GPU, with tapes in place of graphs."""
    monkeypatch.setattr(cache, "STRIDE", 8)
    monkeypatch.setattr(capture, "warm_up", lambda step, _: step())

    def run(prior: Prior, *given: Any, **named: Any) -> tuple[Tensor, Recorder]:
        recorder = Recorder(prior)
        monkeypatch.setattr(capture, "record", recorder)
        monkeypatch.setattr(
            "imgtf.prior.decoding.sampler.capturing", lambda p, wanted: capture.capturing(p, True)
        )
        codes = sample(prior, *given, **named)
        monkeypatch.undo()
        monkeypatch.setattr(cache, "STRIDE", 8)
        monkeypatch.setattr(capture, "warm_up", lambda step, _: step())
        return codes, recorder

    return run


SETTINGS = [
    SamplingConfig(top_k=5),
    SamplingConfig(cfg_scale=2.5, top_p=0.9, temperature=0.8),
    SamplingConfig(cfg_scale=3.0, cfg_schedule="linear", final_temperature=0.5, min_p=0.05),
]
PRIORS = [
    {},
    {"kv_heads": 1, "norm": "layer", "positions": "learned", "rotary": "none"},
    {"objective": "random", "positions": "sinusoidal-2d", **KINDS["all"]},
    {"feature_width": 5, "feature_length": 4, "feature_prefix": True, "class_names": ()},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("changes", PRIORS)
def test_replayed_steps_draw_the_same_codes(
    changes: dict[str, Any], settings: SamplingConfig, recorded: Callable[..., tuple[Tensor, Recorder]]
) -> None:
    """Also in further batches of other images, which are put where the first one was."""
    prior = tiny(grid=(5, 5), **changes)
    tapes = []
    for seed in (1, 2, 3):
        uniforms, condition = image_uniforms(seed, 0, 3, 25), some_condition(prior, 3)
        expected = sample(prior, condition, uniforms, settings)
        codes, recorder = recorded(prior, condition, uniforms, settings)
        assert torch.equal(codes, expected)
        tapes.append(len(recorder.tapes))
    assert sum(tapes) >= 3  # one a room of the cache
    assert tapes[0] > 0
    assert tapes[2] == 0


def test_what_is_recorded_never_waits_for_a_number(
    recorded: Callable[..., tuple[Tensor, Recorder]],
) -> None:
    """Numbers read from tensors, random ones, and numbers that become tensors of the host have no place in a graph."""
    prior = tiny(grid=(5, 5), objective="random", **KINDS["all"])
    settings = SamplingConfig(cfg_scale=2.0, top_k=5, top_p=0.9, min_p=0.01, temperature=0.9)
    _, recorder = recorded(prior, some_condition(prior, 2), image_uniforms(0, 0, 2, 25), settings)
    names = {func.overloadpacket.__name__ for tape in recorder.tapes for func, *_ in tape.played}
    assert "index_copy_" in names
    waiting = {
        "scalar_tensor",
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "item",
        "rand",
        "bernoulli_",
        "unique_dim",
    }
    assert names & waiting == set()


def test_other_shapes_settings_or_weights_are_recorded_anew(
    recorded: Callable[..., tuple[Tensor, Recorder]],
) -> None:
    prior, settings = tiny(grid=(3, 4)), SamplingConfig(top_k=5)

    def tapes(rows: int, settings: SamplingConfig) -> int:
        uniforms, condition = image_uniforms(0, 0, rows, 12), Condition(label=torch.arange(rows) % 3)
        codes, recorder = recorded(prior, condition, uniforms, settings)
        assert torch.equal(codes, sample(prior, condition, uniforms, settings))
        return len(recorder.tapes)

    assert tapes(2, settings) > 0
    assert tapes(2, settings) == 0
    assert tapes(3, settings) > 0
    assert tapes(3, replace(settings, top_k=4)) > 0
    with torch.no_grad():
        prior.norm.weight.mul_(2)
    assert tapes(3, replace(settings, top_k=4)) == 0  # the same place: read as it is now
    prior.load_state_dict(deepcopy(prior).state_dict(), assign=True)
    assert tapes(3, replace(settings, top_k=4)) > 0


def test_given_codes_stay_and_several_codes_a_step_go_between(
    recorded: Callable[..., tuple[Tensor, Recorder]],
) -> None:
    prior = tiny(grid=(4, 5), objective="random", rotary="target")
    given = torch.full((2, 20), -1)
    given[:, [3, 4, 9]] = torch.tensor([1, 2, 3])
    settings = SamplingConfig(sampling_steps=14, step_schedule="cosine", cfg_scale=2.0)
    uniforms, condition = image_uniforms(0, 0, 2, 20), Condition(label=torch.tensor([0, 1]))
    expected = sample(prior, condition, uniforms, settings, given=given)
    for _ in range(2):
        codes, _ = recorded(prior, condition, uniforms, settings, given=given)
        assert torch.equal(codes, expected)
    assert torch.equal(expected[:, [3, 4, 9]], given[:, [3, 4, 9]])


def test_a_step_that_cannot_be_captured_is_run_as_it_is(
    recorded: Callable[..., tuple[Tensor, Recorder]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise RuntimeError("operation not permitted\nmore")

    prior, uniforms = tiny(grid=(3, 4)), image_uniforms(0, 0, 2, 12)
    monkeypatch.setattr(Recorder, "__call__", refused)
    with pytest.warns(UserWarning, match=r"could not be captured .*\(operation not permitted\)"):
        codes, _ = recorded(prior, Condition(), uniforms, SamplingConfig())
    assert torch.equal(codes, sample(prior, Condition(), uniforms, SamplingConfig()))


def test_copies_capture_their_own_steps(recorded: Callable[..., tuple[Tensor, Recorder]]) -> None:
    prior = tiny(grid=(3, 4))
    recorded(prior, Condition(), image_uniforms(0, 0, 2, 12), SamplingConfig())
    assert prior.recording is not None
    assert deepcopy(prior).recording is None


def test_without_a_gpu_nothing_is_captured() -> None:
    prior, uniforms = tiny(), image_uniforms(0, 0, 2, 6)
    codes = partial(sample, prior, Condition(), uniforms, SamplingConfig())
    assert torch.equal(codes(capture=True), codes())
    assert prior.recording is None


def test_capturing_waits_for_the_steps_before_and_plays_on_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What of `torch.cuda` is called, and in which order; a stand-in takes the calls."""
    calls: list[str] = []

    class Stream:
        def __init__(self, name: str = "side") -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            calls.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self) -> None:
            calls.append("replay")

    @contextmanager
    def within(thing: object) -> Iterator[None]:
        name = "capture" if isinstance(thing, Graph) else getattr(thing, "name", str(thing))
        calls.append(f"enter {name}")
        yield
        calls.append(f"leave {name}")

    for name, stand_in in {
        "CUDAGraph": Graph, "Stream": Stream, "current_stream": lambda: Stream("own"),
        "device": within, "stream": within, "graph": within,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, stand_in)
    gpu = torch.device("cuda:1")
    capture.warm_up(lambda: calls.append("step"), gpu)
    assert calls == [
        "enter cuda:1", "side waits for own", "enter side", "step", "leave side", "own waits for side", "leave cuda:1",
    ]  # fmt: skip
    calls.clear()
    replay = capture.record(lambda: calls.append("step"), gpu)
    assert calls == ["enter cuda:1", "enter capture", "step", "leave capture", "leave cuda:1"]
    calls.clear()
    replay()
    assert calls == ["enter cuda:1", "replay", "leave cuda:1"]
