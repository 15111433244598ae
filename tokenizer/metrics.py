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
    """Between the Gaussians fitted to two sets of features (n, D), n > 1 (Heusel et al. 2017, arXiv:1706.08500)."""
    (mean, cov), (other_mean, other_cov) = (
        (f.double().mean(0), f.double().T.cov()) for f in (features, others)
    )
    # The trace of the root of a product of covariances is the sum of the roots of its eigenvalues.
    eigenvalues = torch.linalg.eigvals(cov @ other_cov).real.clamp_min(0)
    distance = (
        (mean - other_mean).square().sum() + cov.trace() + other_cov.trace() - 2 * eigenvalues.sqrt().sum()
    )
    return max(0.0, float(distance))
