"""Every quantizer: codes, gradients, losses, and the codebook in one process and in two."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from imgtf.errors import ConfigError, DataError
from imgtf.options import build, to_dict
from imgtf.tokenizer.config import QUANTIZERS as CHOICES
from imgtf.tokenizer.config import TokenizerConfig
from imgtf.tokenizer.model import Tokenizer
from imgtf.tokenizer.quantizer import QUANTIZERS, Quantizer, entropy_loss, make_quantizer

KINDS: dict[str, dict[str, Any]] = {
    "vq": {},
    "vq_euclidean": {"codebook_distance": "euclidean"},
    "vq_learned": {"codebook_distance": "euclidean", "codebook_learned": True},
    "vq_rotation": {"codebook_distance": "euclidean", "rotation_trick": True},
    "simvq": {"quantizer": "simvq"},
    "simvq_rotation": {"quantizer": "simvq", "rotation_trick": True},
    "fsq": {"quantizer": "fsq", "fsq_levels": (4, 3, 3)},
    "lfq": {"quantizer": "lfq"},
    "bsq": {"quantizer": "lfq", "spherical": True},
    "residual": {"quantizer": "residual_vq", "residual_codes": 3},
    "residual_rotation": {"quantizer": "residual_vq", "rotation_trick": True},
    "residual_learned": {"quantizer": "residual_vq", "codebook_learned": True},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def config(kind: str, **changes: Any) -> TokenizerConfig:
    settings = {
        "image_size": 16, "width": 8, "multipliers": (1, 2), "latent_width": 8, "codebook_size": 32,
        "codebook_dim": 4, "norm_groups": 4, "dead_code_threshold": 0.0,
    }  # fmt: skip
    return TokenizerConfig(**settings | KINDS[kind] | changes)


def quantizer(kind: str, **changes: Any) -> Quantizer:
    torch.manual_seed(0)
    return make_quantizer(config(kind, **changes))


def latents(kind: str, *, grad: bool = False) -> Tensor:
    """(2, d, 3, 5)"""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, config(kind).codebook_dim, 3, 5, generator=generator).requires_grad_(grad)


@every_kind
@pytest.mark.parametrize("training", [False, True])
def test_looking_up_the_codes_gives_the_quantized_vectors(kind: str, training: bool) -> None:
    model = quantizer(kind, codebook_decay=1.0).train(training)
    result = model(latents(kind))
    assert result.codes.dtype == torch.int64
    assert result.codes.shape == (2, 3, 5 * config(kind).codes_per_latent)
    assert result.quantized.shape == latents(kind).shape
    torch.testing.assert_close(model.lookup(result.codes), result.quantized, atol=1e-6, rtol=0)


@every_kind
@torch.no_grad()
def test_decoding_the_codes_equals_the_forward_pass(kind: str) -> None:
    torch.manual_seed(0)
    model = Tokenizer(config(kind)).eval()
    x = torch.rand(2, 3, 8, 16) * 2 - 1
    result = model(x)
    assert torch.equal(model.encode(x), result.codes)
    torch.testing.assert_close(model.decode(result.codes), result.images.clamp(-1, 1), atol=1e-5, rtol=0)


@every_kind
def test_codes_are_in_range_and_most_are_used(kind: str) -> None:
    model = quantizer(kind, dead_code_threshold=0.5, codebook_decay=0.5).train()
    V, used = config(kind).codebook_size, set()
    generator = torch.Generator().manual_seed(2)
    for _ in range(10):
        x = torch.randn(8, config(kind).codebook_dim, 8, 8, generator=generator)
        codes = model(x).codes
        used |= set(codes.unique().tolist())
    assert min(used) >= 0
    assert max(used) < V
    assert len(used) > 0.9 * V


STRAIGHT_THROUGH = ["vq_euclidean", "vq_learned", "simvq", "lfq", "residual", "residual_learned"]


@pytest.mark.parametrize("kind", STRAIGHT_THROUGH)
def test_gradients_are_straight_through(kind: str) -> None:
    x = latents(kind, grad=True)
    weight = torch.randn_like(x)
    (quantizer(kind).train()(x).quantized * weight).sum().backward()
    torch.testing.assert_close(x.grad, weight)


@pytest.mark.parametrize(("kind", "dim"), [("vq", 4), ("bsq", 5)])
def test_gradients_of_unit_vectors_are_those_of_the_normalisation(kind: str, dim: int) -> None:
    x, y = latents(kind, grad=True), latents(kind, grad=True)
    assert x.shape[1] == dim
    weight = torch.randn_like(x)
    (quantizer(kind).train()(x).quantized * weight).sum().backward()
    (F.normalize(y, dim=1) * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_gradients_of_fsq_are_those_of_its_bound() -> None:
    """Three levels: tanh times 1.001, rounded (arXiv:2309.15505, appendix A.1)."""
    model = quantizer("fsq", fsq_levels=(3, 3, 3))
    x, y = latents("fsq", grad=True), latents("fsq", grad=True)
    weight = torch.randn_like(x)
    (model(x).quantized * weight).sum().backward()
    (1.001 * y.tanh() * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("kind", ["vq_rotation", "simvq_rotation", "residual_rotation"])
def test_the_rotation_trick_rotates_and_scales_gradients(kind: str) -> None:
    """The norm of a gradient is scaled by the ratio of code and latent (arXiv:2410.06424)."""
    x = latents(kind, grad=True)
    result = quantizer(kind).train()(x)
    weight = torch.randn_like(x)
    (result.quantized * weight).sum().backward()
    scale = result.quantized.norm(dim=1) / x.norm(dim=1)
    torch.testing.assert_close(x.grad.norm(dim=1), weight.norm(dim=1) * scale, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(x.grad, weight * scale[:, None], atol=1e-3)


@every_kind
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    torch.manual_seed(0)
    model = Tokenizer(config(kind)).train()
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    result = model(x)
    ((result.images - x).abs().mean() + sum(result.losses.values())).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@every_kind
def test_the_commitment_is_the_mean_squared_distance_to_the_codes(kind: str) -> None:
    x = latents(kind)
    result = quantizer(kind, codebook_decay=1.0).train()(x)
    if kind in ("vq", "bsq"):
        x = F.normalize(x, dim=1)
    expected = F.mse_loss(result.quantized, x)
    if kind.startswith("simvq"):
        expected = 2 * expected
    if kind == "fsq":
        assert result.losses == {}
    elif kind.startswith("residual"):
        assert result.losses["commitment"] > expected  # earlier stages have larger residuals
    else:
        torch.testing.assert_close(result.losses["commitment"], expected)
    assert ("entropy" in result.losses) == (config(kind).quantizer == "lfq")


def test_the_configuration_lists_the_registered_quantizers() -> None:
    assert set(CHOICES) == set(QUANTIZERS)


def test_entropy_loss_is_lowest_for_confident_latents_that_use_every_code() -> None:
    codebook = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])
    all_used, one_used, undecided = codebook, torch.ones(4, 2), torch.zeros(4, 2)
    assert entropy_loss(all_used, codebook) == pytest.approx(-log(4), abs=1e-4)
    assert entropy_loss(one_used, codebook) == pytest.approx(0, abs=1e-4)
    assert entropy_loss(undecided, codebook) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("kind", ["lfq", "bsq"])
def test_the_entropy_loss_equals_the_librarys(kind: str) -> None:
    model = quantizer(kind).train()
    entropy = model(latents(kind)).losses["entropy"]
    model.vq.train()
    _, theirs = model.vq(latents(kind), return_loss_breakdown=True)
    torch.testing.assert_close(entropy, theirs.per_sample_entropy - theirs.batch_entropy)


def test_residual_codes_of_a_latent_are_neighbours() -> None:
    model = quantizer("residual").eval()
    x = latents("residual")
    codes = model(x).codes.unflatten(-1, (5, 3))  # (B, h, w, q)
    residual = x
    for stage, codebook in enumerate(model.vq.codebooks):
        nearest = torch.cdist(residual.movedim(1, -1), codebook).argmin(-1)
        assert torch.equal(codes[..., stage], nearest)
        residual = residual - codebook[nearest].movedim(-1, 1)


@every_kind
@torch.no_grad()
def test_a_loaded_tokenizer_encodes_the_same(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Tokenizer(config(kind))
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    model.train()(x)
    model.eval().save_pretrained(tmp_path)
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded.encode(x), model.encode(x))
    assert torch.equal(loaded.decode(model.encode(x)), model.decode(model.encode(x)))


@every_kind
@pytest.mark.parametrize("training", [False, True])
def test_autocast_has_no_effect(kind: str, training: bool) -> None:
    plain = quantizer(kind).train(training)(latents(kind))
    with torch.autocast("cpu", torch.bfloat16):
        model = quantizer(kind).train(training)
        mixed = model(latents(kind))
        looked_up = model.lookup(mixed.codes)
    assert torch.equal(mixed.codes, plain.codes)
    assert torch.equal(mixed.quantized, plain.quantized)
    assert mixed.losses == plain.losses
    assert looked_up.dtype == torch.float32


@every_kind
def test_grid_and_codebook_follow_the_configuration(kind: str) -> None:
    own = config(kind)
    model = Tokenizer(own).eval()
    codes = model.encode(torch.zeros(1, 3, 16, 16))
    assert codes.shape[1:] == own.grid
    assert build(TokenizerConfig, to_dict(own)) == own
    book = model.quantizer.lookup(
        torch.arange(own.codebook_size).reshape(1, 1, -1).repeat(1, 1, own.codes_per_latent)
    )
    assert book.shape[1] == own.codebook_dim
    vectors = model.code_vectors()
    assert vectors.shape == (own.codebook_size, own.codebook_dim)
    if own.codes_per_latent == 1:
        assert torch.equal(vectors, book[0, :, 0].mT)


def test_dimensions_of_fsq_and_lfq_follow_from_the_codes() -> None:
    fsq = config("fsq", fsq_levels=(8, 5, 5, 5))
    assert (fsq.codebook_size, fsq.codebook_dim) == (1000, 4)
    lfq = config("lfq", codebook_size=1024)
    assert (lfq.codebook_size, lfq.codebook_dim) == (1024, 10)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        ("lfq", {"codebook_size": 48}, "power of two"),
        ("fsq", {"fsq_levels": (8, 2)}, "at least 3"),
        ("fsq", {"fsq_levels": ()}, "at least 3"),
        ("fsq", {"fsq_levels": (2000, 2000, 2000)}, "more than"),
        (
            "fsq",
            {"rotation_trick": True},
            "rotation_trick is an option of vq, simvq, residual_vq, but the quantizer is fsq",
        ),
        ("vq", {"codebook_learned": True}, "euclidean"),
        ("lfq", {"codebook_learned": True}, "codebook_learned is an option of"),
        ("vq", {"spherical": True}, "spherical is an option of lfq"),
    ],
)
def test_invalid_quantizers_are_refused(kind: str, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(kind, **wrong)


def test_codes_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(DataError, match="multiple of 3"):
        Tokenizer(config("residual")).decode(torch.zeros(1, 2, 4, dtype=torch.long))


@pytest.mark.parametrize("kind", ["vq", "residual"])
def test_dead_codes_are_replaced_by_recent_latents(kind: str) -> None:
    model = quantizer(kind, dead_code_threshold=0.5, codebook_decay=0.5).train()
    x = latents(kind)
    for _ in range(5):
        model(x)
    rows = (F.normalize(x, dim=1) if kind == "vq" else x).movedim(1, -1).reshape(-1, 4)
    codebook = model.vq.codebook if kind == "vq" else model.vq.codebooks[0]
    # 30 latents for 32 codes: each latent has its own code, or one close to it.
    assert torch.cdist(rows, codebook).min(-1).values.mean() < 0.2


# Two processes


LOSS_WEIGHTS = {"commitment": 1.0, "entropy": 0.1}
DISTRIBUTED = ["vq", "vq_euclidean", "vq_learned", "residual", "simvq", "lfq"]


class WithLoss(nn.Module):
    """A layer, a quantizer and their loss in one module, as DDP needs it."""

    def __init__(self, kind: str, **changes: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        d = config(kind).codebook_dim
        self.network, self.quantizer = nn.Conv2d(d, d, 1), quantizer(kind, **changes)

    def forward(self, x: Tensor) -> Tensor:
        result = self.quantizer(self.network(x))
        return result.quantized.square().mean() + sum(LOSS_WEIGHTS[k] * v for k, v in result.losses.items())


def steps(model: nn.Module, batches: list[Tensor]) -> dict[str, Tensor]:
    """Return the state after a few steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in batches:
        optimizer.zero_grad()
        model(batch).backward()
        optimizer.step()
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    return {name: t.detach().clone() for name, t in inner.state_dict().items()}


def batches_of(kind: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(4, config(kind).codebook_dim, 4, 4, generator=generator) for _ in range(3)]


def train_on_half(rank: int, port: int, folder: Path) -> None:
    """Train one of two processes on its half of each batch. The models are built before the process group."""
    models = {kind: WithLoss(kind).train() for kind in DISTRIBUTED}
    revived = WithLoss("vq", dead_code_threshold=1.0, codebook_decay=0.5).train()
    revived(torch.randn(2, 4, 4, 4))  # the library caches that there is one process
    revived.load_state_dict(WithLoss("vq").state_dict())
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    halves = {kind: [b.chunk(2)[rank] for b in batches_of(kind)] for kind in DISTRIBUTED}
    states = {kind: steps(DistributedDataParallel(m), halves[kind]) for kind, m in models.items()}
    torch.manual_seed(5)
    states["revived"] = steps(DistributedDataParallel(revived), halves["vq"])
    torch.save(states, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # New processes: a fork of a multi-threaded process may hang.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, __file__, str(rank), str(port), str(folder)] for rank in range(2)]
    running = [subprocess.Popen(c, env=environment, stderr=subprocess.PIPE, text=True) for c in commands]
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("kind", [*DISTRIBUTED, "revived"])
def test_two_processes_have_the_same_codebook(kind: str, two_processes: list[Any]) -> None:
    first, second = (states[kind] for states in two_processes)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("kind", DISTRIBUTED)
def test_two_processes_equal_one_with_the_whole_batch(kind: str, two_processes: list[Any]) -> None:
    alone = steps(WithLoss(kind).train(), batches_of(kind))
    for name, tensor in two_processes[0][kind].items():
        torch.testing.assert_close(tensor, alone[name], msg=lambda text, name=name: f"{name}: {text}")


def test_two_processes_replace_dead_codes_as_one(two_processes: list[Any]) -> None:
    model = WithLoss("vq", dead_code_threshold=1.0, codebook_decay=0.5).train()
    model.load_state_dict(WithLoss("vq").state_dict())
    torch.manual_seed(5)
    alone = steps(model, batches_of("vq"))
    never_replaced = steps(WithLoss("vq", codebook_decay=0.5).train(), batches_of("vq"))
    codebook = "quantizer.vq._codebook.embed"
    assert not torch.equal(alone[codebook], never_replaced[codebook])
    for name, tensor in two_processes[0]["revived"].items():
        torch.testing.assert_close(tensor, alone[name], msg=lambda text, name=name: f"{name}: {text}")


if __name__ == "__main__":
    train_on_half(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
