"""Figures of a tokenizer: how near the reconstructions are, how much of the codebook is in use."""

from __future__ import annotations

import torch
from torch import Tensor


def psnr(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, (B,), for images in [-1, 1] (their range is 2)."""
    error = (images - reconstructions.clamp(-1, 1)).double().square().flatten(1).mean(1)
    return (-10 * torch.log10(error.clamp_min(1e-10) / 4)).float()


class CodeCounts:
    """How often each of V codes was used since the last reset."""

    def __init__(self, codebook_size: int) -> None:
        self.counts = torch.zeros(codebook_size, dtype=torch.long)

    def add(self, codes: Tensor) -> None:
        """Counts codes of any shape."""
        self.counts += torch.bincount(codes.flatten(), minlength=len(self.counts)).cpu()

    def figures(self) -> dict[str, float]:
        """`usage`: share of codes used at all; `perplexity`: how many equally used codes would be as varied."""
        total = int(self.counts.sum())
        if not total:
            return {}
        p = self.counts.double() / total
        entropy = -torch.special.xlogy(p, p).sum()
        return {"usage": float((self.counts > 0).double().mean()), "perplexity": float(entropy.exp())}

    def reset(self) -> None:
        """Starts counting anew."""
        self.counts.zero_()


def frechet_distance(features: Tensor, others: Tensor) -> float:
    """Between the Gaussians fitted to two sets of features (n, D), n > 1 (Heusel et al. 2017, arXiv:1706.08500).

    Each covariance is R^T R, so the trace of the root of their product is the sum of the singular values of R1 R2^T:
    exact also for fewer images than dimensions, and then fast.
    """
    factors = []
    for x in (features.double(), others.double()):
        factors.append(torch.linalg.qr((x - x.mean(0)) / (len(x) - 1) ** 0.5, mode="r").R)  # (min(n, D), D)
    one, other = factors
    shared = torch.linalg.svdvals(one @ other.T).sum()
    means = (features.double().mean(0) - others.double().mean(0)).square().sum()
    return max(0.0, float(means + one.square().sum() + other.square().sum() - 2 * shared))
