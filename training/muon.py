"""Muon, the optimizer of the matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

torch.optim.Muon takes matrices only. This one also takes convolutions, updates matrices of one shape together, and
works on weights that are sharded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .sharding import like

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial that draws all singular values towards 1 (Jordan et al.)."""
ROUNDS = 5
"""Of the iteration (Jordan et al.)."""
MOMENTUM = 0.95
"""Decay of the gradients' moving average."""
LR_RATIO = 20.0
"""Learning rate of Muon, relative to AdamW's: 0.02 to 1e-3, as Jordan et al. use them."""


class Muon(torch.optim.Optimizer):
    """Moves each matrix along the orthogonal matrix nearest to its Nesterov momentum: all directions count alike.

    The weight (out, in, kh, kw) of a convolution is the matrix (out, in * kh * kw). Weight decay is that of AdamW with
    the learning rate of the other weights.
    """

    _step_supports_amp_scaling = True  # `found_inf` is read on the device, as by fused optimizers of torch

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        *,
        bf16: bool = False,
    ) -> None:
        """
        Args:
            lr: the learning rate of AdamW, which `LR_RATIO` multiplies.
            bf16: find the orthogonal matrices in bf16.
        """
        super().__init__(weights, {"lr": lr * LR_RATIO, "lr_ratio": LR_RATIO, "weight_decay": weight_decay})
        self.bf16 = bf16

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update the weights, unless the tensor `found_inf` () is 1."""
        assert closure is None
        skip = getattr(self, "found_inf", None)
        for group in self.param_groups:
            same: dict[tuple[torch.Size, torch.device], list[nn.Parameter]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    same.setdefault((weight.shape, weight.device), []).append(weight)
            for weights in same.values():
                self._update(weights, group, skip)

    def _update(self, weights: list[nn.Parameter], group: dict[str, Any], skip: Tensor | None) -> None:
        """Update weights of one shape."""
        directions = torch.stack([_whole(self._direction(weight, skip)).flatten(1) for weight in weights])
        rows, columns = directions.shape[1:]
        lr = group["lr"] * max(1.0, rows / columns) ** 0.5
        decay = group["lr"] / group["lr_ratio"] * group["weight_decay"]
        moves = 1.0 if skip is None else 1 - skip
        changes = orthogonalised(directions, bf16=self.bf16) * (-lr * moves)
        for weight, change in zip(weights, changes, strict=True):
            if decay:
                weight.mul_(1 - decay * moves)
            weight.add_(like(change.reshape(weight.shape), weight))

    def _direction(self, weight: nn.Parameter, skip: Tensor | None) -> Tensor:
        """Return the Nesterov momentum of a weight. A gradient that is skipped does not enter it."""
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        gradient = weight.grad if skip is None else torch.where(skip > 0, momentum, weight.grad)
        momentum.lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM)


def orthogonalised(matrices: Tensor, *, bf16: bool = False) -> Tensor:
    """Return for each matrix of (N, R, C) about the nearest one whose singular values are equal, near 1.

    `ROUNDS` of a Newton-Schulz iteration. bf16 suffices for it (Jordan et al.).
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = (matrices if wide else matrices.mT).to(torch.bfloat16 if bf16 else matrices.dtype)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = _iterated(x) if bf16 else _iterated_by_squares(x)
    return (x if wide else x.mT).to(matrices.dtype)


def _iterated(x: Tensor) -> Tensor:
    """Apply the polynomial p to x (N, r, c) in each round: x -> p(x x^T) x."""
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


def _iterated_by_squares(x: Tensor) -> Tensor:
    """Compute the same from the squares (N, r, r): fewer products, where x is much wider than high.

    Needs float32: rounding errors of bf16 make eigenvalues of the squares negative, which grow in each round.
    """
    a, b, c = COEFFICIENTS
    square = x @ x.mT
    identity = torch.eye(len(square[0]), dtype=x.dtype, device=x.device)

    def polynomial() -> Tensor:
        return torch.baddbmm(a * identity + b * square, square, square, alpha=c)

    product = p = polynomial()
    for _ in range(ROUNDS - 1):
        square = p @ square @ p
        p = polynomial()
        product = p @ product
    return product @ x


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
