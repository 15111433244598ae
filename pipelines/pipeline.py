"""The public class: a tokenizer and the prior that was trained on its codes, and all that can be done with them."""

from __future__ import annotations

from .sampling import Sampling


class Pipeline(Sampling):
    """One tokenizer and one prior. Refuses a pair that does not belong together."""
