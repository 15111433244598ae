"""Stage two for users: logits, likelihood and samples of token grids.

Shapes: B batch, T = h*w tokens in raster order, V codebook size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..options import MAX_INT, whole_number
from .conditions.condition import Condition
from .config import SamplingConfig
from .decoding.decoder import Decoder
from .decoding.request import Progress
from .decoding.sampler import image_uniforms, sample
from .network import PriorNetwork

Labels = int | Sequence[int] | Tensor


class Prior(PriorNetwork):
    """The transformer over the token grid, with exact likelihood and sampling."""

    def log_prob(
        self,
        codes: Tensor,
        label: Tensor | None = None,
        *,
        order: Tensor | None = None,
        **conditions: Tensor | None,
    ) -> Tensor:
        """Return the log probability (natural) of each code given those before it in the order, (B, T) by position.

        Exact for every objective. A masked prior needs T passes; `objectives.log_likelihood` estimates the mean. The
        arguments and errors are those of `forward`.
        """
        codes, _ = self._check_codes(codes)
        condition = {"label": label, **conditions}
        if self.config.objective == "masked":
            return self._masked_log_prob(codes, condition, order)
        return -F.cross_entropy(self(codes, **condition, order=order).mT, codes, reduction="none")

    def _masked_log_prob(
        self, codes: Tensor, condition: dict[str, Tensor | None], order: Tensor | None
    ) -> Tensor:
        T = codes.shape[1]
        order = self._check_order(torch.arange(T) if order is None else order, codes)
        rank = order.argsort(1)  # (B, T), when each position is predicted
        result = torch.empty(codes.shape, device=codes.device)
        for t in range(T):
            position = order[:, t : t + 1]
            logits = self(codes.masked_fill(rank >= t, -1), **condition)  # (B, T, V)
            log_p = logits.log_softmax(-1).gather(-1, codes[..., None]).squeeze(-1)  # (B, T)
            result = result.scatter(1, position, log_p.gather(1, position))
        return result

    def sample(
        self,
        n: int = 1,
        label: Labels | None = None,
        *,
        seed: int = 0,
        first: int = 0,
        known: Tensor | None = None,
        grid: tuple[int, int] | None = None,
        settings: SamplingConfig | None = None,
        progress: Progress | None = None,
        **conditions: Tensor | None,
    ) -> Tensor:
        """Return n sampled grids of codes, (n, h, w) int64, in one batch.

        For many batches, make one `Decoder` and call `decoding.sampler.sample`, which reuses its packed weights.

        Args:
            label: class numbers: one, or several for image `first` + 0, 1, 2, ... in turn; None is unconditional.
            seed, first: grid i of the call is image `first + i` of the seed, the same in any call.
            known: (n, h, w) codes to keep, -1 for those to sample; the same positions in every grid.
            grid: another grid (h, w) than the trained one, for priors whose positions are not learned.
            settings: default: those of the model's configuration.
            progress: called after each step with the number of codes sampled in it.
            conditions: values (n, ...) of the other conditions by name, see `Condition`.

        Raises:
            ConfigError: for n below 1, a seed or image number outside [0, 2**64), an empty list of labels, or settings
                that do not work with the prior's objective.
            DataError: for conditions that the prior was not trained with, or values of another shape or range.
        """
        n = whole_number("n", n, 1, MAX_INT)
        grid = grid or self.config.grid
        uniforms = image_uniforms(seed, first, n, grid[0] * grid[1])
        condition = Condition(label=_labels_in_turn(label, n, first), **conditions)
        codes = sample(
            Decoder(self),
            condition,
            uniforms,
            settings or self.config.sampling,
            progress,
            known=None if known is None else known.flatten(1),
            grid=grid,
        )
        return codes.unflatten(1, grid)

    def __repr__(self) -> str:
        config, (h, w) = self.config, self.config.grid
        kinds = ", ".join(config.condition_kinds) or "unconditional"
        return (
            f"Prior({config.objective}, {h}x{w} grid, {config.codebook_size} codes, {kinds}, "
            f"width {config.width}, depth {config.depth}, {self.parameter_count():,} parameters, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device})"
        )


def _labels_in_turn(label: Labels | None, n: int, first: int) -> Tensor | None:
    """Return the class numbers (n,) of images `first` to `first + n - 1`."""
    if label is None:
        return None
    labels = torch.as_tensor(label).long().reshape(-1)
    if not len(labels):
        raise ConfigError("label is empty: pass class numbers, or None for unconditional samples")
    return labels[torch.arange(n).add(first % len(labels)) % len(labels)]
