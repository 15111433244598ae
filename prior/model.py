"""Stage two, as a person uses it: logits, likelihood and samples of token grids.

Shapes: B batch, T = h*w tokens in raster order, V codebook size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .network import PriorNetwork


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
        """Natural log of each code's probability given those before it in the order, (B, T) by place.

        Exact for every objective. A masked prior needs T passes for it; `objectives.log_likelihood` estimates the mean.
        """
        codes, _ = self._sequence(codes)
        condition = {"label": label, **conditions}
        if self.config.objective == "masked":
            return self._masked_log_prob(codes, condition, order)
        return -F.cross_entropy(self(codes, **condition, order=order).mT, codes, reduction="none")

    def _masked_log_prob(
        self, codes: Tensor, condition: dict[str, Tensor | None], order: Tensor | None
    ) -> Tensor:
        T = codes.shape[1]
        order = self._checked_order(torch.arange(T) if order is None else order, codes)
        rank = order.argsort(1)  # (B, T), when each place is drawn
        result = torch.empty(codes.shape, device=codes.device)
        for t in range(T):
            place = order[:, t : t + 1]
            logits = self(codes.masked_fill(rank >= t, -1), **condition)  # (B, T, V)
            log_p = logits.log_softmax(-1).gather(-1, codes[..., None]).squeeze(-1)  # (B, T)
            result = result.scatter(1, place, log_p.gather(1, place))
        return result
